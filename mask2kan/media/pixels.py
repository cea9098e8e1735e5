"""Turn Pillow's images into upright RGB arrays.

In this order: EXIF orientation; 16 bits to their high byte, or to that of the 10, 12 or 14 bits in
use (cameras store such data unscaled); transparency on white. Colour profiles are not applied, as
in the originals' loaders. All but the turning goes band by band: 40 megapixels need little memory
beside Pillow's image and the array.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mask2kan.media.directories import check_exif
from mask2kan.media.limits import Unfit, check_size

_BAND = 1 << 20  # pixels
_WIDE = re.compile(r"\bRGBA?;16[BLN]\b")  # Pillow's names of 16-bit colours in a file
_SENSOR_BITS = (10, 12, 14)
_DARK = 1 << (max(_SENSOR_BITS) - 8)  # the high byte of what may be such data is below

Pixels = NDArray[np.uint8]


def rgb_of(image: Image.Image, file: BinaryIO | None) -> tuple[Pixels, tuple[str, ...]]:
    """Decode an image that was opened from ``file``, or one of the caller's, which is not changed.

    Returns:
        (H, W, 3) uint8 RGB, and what its reader should know.

    Raises:
        Unfit: for other pixels than 8 or 16 bits of gray or colour; whatever Pillow raises.
    """
    wide = file is not None and any(_WIDE.search(str(tile.args)) for tile in _tiles(image))
    image.load()
    check_size(*image.size)
    upright = _upright(image.copy() if file is None else image)
    if upright.mode.startswith("I"):
        return _from_values(upright.size, lambda rows: np.asarray(_cut(upright, rows)))
    if wide and file is not None and np.max(upright.getextrema()[:3]) < _DARK:
        return _from_both_bytes(upright, _upright(_low_bytes(image, file)))
    if upright.mode in ("F", "LAB"):
        kind = "floating-point" if upright.mode == "F" else "LAB"
        raise Unfit(f"it has {kind} pixels, expected 8 or 16 bits of gray or RGB")
    return _filled(upright.size, lambda rows: np.asarray(_on_white(_cut(upright, rows)))), ()


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image in place."""
    _check_exif(image)
    # Damaged metadata leave the pixels readable; in place, they are turned before Pillow trips over
    # a damaged tag that it wants to write back.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _check_exif(image: Image.Image) -> None:
    data, text = image.info.get("exif"), image.info.get("Raw profile type exif")
    if data is None and isinstance(text, str):  # hexadecimal below three lines, as Pillow reads it
        with contextlib.suppress(ValueError):
            data = bytes.fromhex("".join(text.split("\n")[3:]))
    check_exif(data if isinstance(data, bytes) else b"")


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _low_bytes(image: Image.Image, file: BinaryIO) -> Image.Image:
    """Decode a 16-bit colour image again for its low bytes, which Pillow drops.

    Read with the other byte order, the byte it keeps is the low one.
    """
    file.seek(0)
    low = Image.open(file, formats=[image.format or ""])
    low.tile = [tile._replace(args=_swapped(tile.args)) for tile in low.tile]
    low.load()
    return low


def _swapped(arguments: Any) -> Any:
    if isinstance(arguments, tuple):
        return (_swapped(arguments[0]), *arguments[1:])
    name, order = arguments[:-1], arguments[-1]
    native = "L" if sys.byteorder == "little" else "B"
    return name + {"B": "L", "L": "B"}[native if order == "N" else order]


def _from_both_bytes(high: Image.Image, low: Image.Image) -> tuple[Pixels, tuple[str, ...]]:
    """Put together a 16-bit colour image; transparency stays that of the high bytes."""

    def values(rows: slice) -> NDArray[np.uint16]:
        above, below = (np.asarray(_cut(image, rows).convert("RGB")) for image in (high, low))
        return np.asarray(above.astype(np.uint16) << 8 | below)

    pixels, notes = _from_values(high.size, values)
    if high.has_transparency_data:
        for rows in _bands(high.size):
            band = Image.fromarray(pixels[rows])
            band.putalpha(_cut(high, rows).convert("RGBA").getchannel("A"))
            pixels[rows] = np.asarray(_on_white(band))
    return pixels, notes


def _from_values(
    size: tuple[int, int], values: Callable[[slice], NDArray[Any]]
) -> tuple[Pixels, tuple[str, ...]]:
    """Take the high byte of the bits in use of some rows' values, gray or RGB."""
    bits, notes = _bits_in_use(map(values, _bands(size)))

    def eight(rows: slice) -> NDArray[np.uint8]:
        band = (values(rows) >> (bits - 8)).astype(np.uint8)
        return band if band.ndim == 3 else band[..., None]

    return _filled(size, eight), notes


def _bits_in_use(bands: Iterable[NDArray[Any]]) -> tuple[int, tuple[str, ...]]:
    largest = 0
    for band in bands:
        largest = max(largest, int(band.max()))
        if band.min() < 0 or largest > 65535:
            raise Unfit("it has 32-bit pixels, expected 8 or 16 bits of gray or RGB")
    bits = next((bits for bits in _SENSOR_BITS if 0 < largest < 1 << bits), 16)
    if bits == 16:
        return bits, ()
    white = (1 << bits) - 1
    return bits, (
        f"Its 16-bit values reach {largest:,} only; read as {bits}-bit data, {white:,} is white.",
    )


def _filled(size: tuple[int, int], convert: Callable[[slice], NDArray[np.uint8]]) -> Pixels:
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    for rows in _bands(size):
        pixels[rows] = convert(rows)
    return pixels


def _bands(size: tuple[int, int]) -> Iterator[slice]:
    width, height = size
    step = max(1, _BAND // width)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _cut(image: Image.Image, rows: slice) -> Image.Image:
    return image.crop((0, rows.start, image.width, rows.stop))


def _tiles(image: Image.Image) -> list[Any]:
    return getattr(image, "tile", [])
