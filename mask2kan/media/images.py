"""Decode images from strangers to RGB arrays, or raise an ``ImageError``.

Few formats are tried, and the pixel count is read from the header before anything is decoded. In
this order: first frame of an animation; EXIF orientation; 16 bits to their high byte, or to that of
the 10, 12 or 14 bits in use (cameras store such data unscaled); transparency on white. Colour
profiles are not applied, as in the originals' loaders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import glob
import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mask2kan.errors import ImageError, one_line
from mask2kan.media.files import parse_object

RGB: TypeAlias = NDArray[np.uint8]  # (H, W, 3)
Source: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.uint8]"

MAX_MEGAPIXELS = 40
MAX_FILE_BYTES = 400_000_000
MAX_SUMMARY_BYTES = 10_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

_ADVICE = f"Use JPEG, PNG or WebP up to {MAX_MEGAPIXELS} MP."
_WIDE = re.compile(r"\bRGBA?;16[BLN]\b")  # Pillow's names of 16-bit colours in a file
_SENSOR_BITS = (10, 12, 14)
_DARK = 1 << (max(_SENSOR_BITS) - 8)  # the high byte of what may be such data is below

_SIGNATURES = (
    (b"%PDF", "it is a PDF document"),
    (b"%!PS", "it is a PostScript document"),
    (b"8BPS", "it is a Photoshop file"),
    (b"PK\x03\x04", "it is a zip archive"),
    (b"\x00\x00\x01\x00", "it is an icon file"),
)


@dataclasses.dataclass(frozen=True)
class Decoded:
    """(H, W, 3) uint8 RGB, upright, contiguous, a copy; what its reader should know; its path."""

    pixels: RGB
    notes: tuple[str, ...] = ()
    path: str = ""


def read_image(source: Source) -> RGB:
    """Decode an image safely.

    Raises:
        ImageError: as ``decode_image``.
    """
    return decode_image(source).pixels


def decode_image(source: Source) -> Decoded:
    """Decode an image safely, with notes.

    Args:
        source: a path, the bytes of a file, a PIL image, or an (H, W, 3) uint8 RGB array.

    Raises:
        ImageError: one line with the reason, for anything else.
    """
    if isinstance(source, np.ndarray):
        return Decoded(_checked_array(source))
    if isinstance(source, Image.Image):
        return dataclasses.replace(_decode(source), path=str(getattr(source, "filename", "")))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(source), bytes(source[:512]), len(source))
    if isinstance(source, (str, Path)):
        return dataclasses.replace(_read_file(Path(source)), path=str(source))
    raise _refusal(f"it is a {type(source).__name__}, not a path, bytes, PIL image or array", "")


def list_images(
    folder: Path, *, suffixes: tuple[str, ...] = SUFFIXES, nested: bool = False
) -> list[Path]:
    """List the image files of a folder, sorted by path; ``nested`` also those of its folders.

    Hidden ones are left out (macOS puts a ``._`` file beside each copy); suffixes are lower case.
    """
    return sorted(
        path
        for path in (folder.rglob("*") if nested else folder.iterdir())
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def find_images(arguments: Iterable[str]) -> list[Path]:
    """List files of any suffix, images directly inside folders, and matches of globs, once each.

    Brackets in names that are there mean themselves. What earlier results wrote (see ``written``)
    is left out, unless it is named itself.

    Raises:
        ImageError: when an argument names nothing.
    """
    images: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            matches = _not_written(list_images(path))
        elif path.exists():
            matches = [path]
        else:
            names = glob.glob(_literal(path), recursive=True)  # noqa: PTH207
            matches = _not_written(sorted(filter(Path.is_file, map(Path, names))))
        if not matches:
            if path.is_dir() and any(child.is_dir() for child in path.iterdir()):
                raise ImageError(
                    f"No image directly inside {argument!r}; folders inside it are not searched: "
                    f"{str(path / '**' / '*.jpg')!r} finds those of all."
                )
            raise ImageError(
                f"No image at {argument!r}: expected an image, a folder with images "
                f"({' '.join(SUFFIXES)}) or a pattern that matches some."
            )
        images.update(dict.fromkeys(matches))
    return list(images)


def _literal(pattern: Path) -> str:
    """Escape the parts of a pattern that are there as they stand: ``drive [2024]/*.jpg``."""
    so_far, parts = Path(), []
    for part in pattern.parts:
        so_far /= part
        parts.append(glob.escape(part) if so_far.exists() else part)
    return str(Path(*parts))


def _not_written(images: list[Path]) -> list[Path]:
    """Leave out what results in the same folders wrote, so a second run sees what the first saw."""
    own = {folder: written(folder) for folder in {path.parent for path in images}}
    return [path for path in images if path.name not in own[path.parent]]


def written(folder: Path) -> set[str]:
    """Collect the names of the files that results' summaries in a folder list."""
    names: set[str] = set()
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            if path.stat().st_size > MAX_SUMMARY_BYTES:
                continue
            facts = parse_object(path.read_bytes())
            if "picture" in facts and isinstance(facts.get("files"), list):
                names.update(name for name in facts["files"] if isinstance(name, str))
    return names


def _refusal(reason: str, advice: str = _ADVICE) -> ImageError:
    return ImageError(f"Can't read this image: {' '.join(reason.split())}. {advice}".rstrip())


def _no_file(path: Path) -> ImageError:
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.iterdir()])
        if near:
            return _refusal(f"there is no file {str(path)!r}", f"Nearest: {', '.join(near)}.")
    return _refusal(f"there is no file {str(path)!r}", "Check its path.")


def _read_file(path: Path) -> Decoded:
    try:
        if not path.exists():
            raise _no_file(path)
        if not path.is_file():
            raise _refusal(f"{str(path)!r} is not a file", "")
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            return _open(file, head, path.stat().st_size)
    except (OSError, ValueError) as error:  # no permission, NUL or 300 characters in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _refusal(f"{reason} ({path.name[:80]!r})") from error


def _open(file: BinaryIO, head: bytes, size: int) -> Decoded:
    if size == 0:
        raise _refusal("the file is empty")
    if size > MAX_FILE_BYTES:
        raise _refusal(f"the file has {size / 1e6:.0f} MB, at most {MAX_FILE_BYTES / 1e6:.0f} fit")
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        # Pillow refuses the largest headers itself; its message holds the pixel count
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        megapixels = f"{int(pixels[1]) / 1e6:.0f}" if pixels else "over 178"
        raise _refusal(f"it has {megapixels} megapixels") from error
    except UnidentifiedImageError as error:
        raise _refusal(_kind(head)) from error
    except Exception as error:  # Pillow's parsers raise anything at a malformed header
        raise _refusal(f"its header is damaged ({one_line(error)})") from error
    with image:
        return _decode(image, file)


def _decode(image: Image.Image, file: BinaryIO | None = None) -> Decoded:
    """Decode an image that was opened, from ``file`` if it is one."""
    _check_size(*image.size)
    try:
        low = _low_bytes(image, file)
        image.load()
        _check_size(*image.size)
        upright = _upright(image)
        notes: tuple[str, ...] = ()
        if upright.mode.startswith("I"):
            eight, notes = _eight_bits(np.asarray(upright))
            upright = Image.fromarray(eight)
        elif low is not None and np.max(image.getextrema()[:3]) < _DARK:
            upright, notes = _from_both_bytes(upright, _upright(low))
        return Decoded(np.array(_to_rgb(upright), dtype=np.uint8), notes)
    except ImageError:
        raise
    except Exception as error:  # as above; a decoder may even claim to be out of memory
        raise _refusal(f"it is cut off or damaged ({one_line(error)})") from error


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise _refusal(f"it is {width} × {height} pixels")
    megapixels = width * height / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise _refusal(f"it has {megapixels:.1f} megapixels ({width} × {height})")


def _kind(head: bytes) -> str:
    for signature, reason in _SIGNATURES:
        if head.startswith(signature):
            return reason
    if head[4:8] == b"ftyp":
        return "it is a HEIC, AVIF or video file"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "it is a text file"
    return "it is not an image in a known format"


def _upright(image: Image.Image) -> Image.Image:
    upright = image.copy()
    # Damaged metadata leave the pixels readable; in place, they are turned before Pillow trips over
    # a damaged tag that it wants to write back.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(upright, in_place=True)
    return upright


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("F", "LAB"):
        kind = "floating-point" if image.mode == "F" else "LAB"
        raise _refusal(f"it has {kind} pixels, expected 8 or 16 bits of gray or RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _low_bytes(image: Image.Image, file: BinaryIO | None) -> Image.Image | None:
    """Open a 16-bit colour image again for its low bytes, which Pillow drops; None for others.

    Read with the other byte order, the byte it keeps is the low one.
    """
    tiles = getattr(image, "tile", [])
    if file is None or not any(_WIDE.search(str(tile.args)) for tile in tiles):
        return None
    place = file.tell()
    file.seek(0)
    low = Image.open(io.BytesIO(file.read()), formats=FORMATS)
    file.seek(place)
    low.tile = [tile._replace(args=_swapped(tile.args)) for tile in low.tile]
    return low


def _swapped(arguments: Any) -> Any:
    if isinstance(arguments, tuple):
        return (_swapped(arguments[0]), *arguments[1:])
    name, order = arguments[:-1], arguments[-1]
    native = "L" if sys.byteorder == "little" else "B"
    return name + {"B": "L", "L": "B"}[native if order == "N" else order]


def _from_both_bytes(high: Image.Image, low: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Put together a 16-bit colour image; transparency stays that of the high bytes."""
    values = [np.asarray(image.convert("RGB"), dtype=np.int64) for image in (high, low)]
    eight, notes = _eight_bits(values[0] << 8 | values[1])
    result = Image.fromarray(eight)
    if high.has_transparency_data:
        result.putalpha(high.convert("RGBA").getchannel("A"))
    return result, notes


def _eight_bits(values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Take the high byte of the bits in use."""
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise _refusal("it has 32-bit pixels, expected 8 or 16 bits of gray or RGB")
    largest = int(wide.max())
    bits = next((bits for bits in _SENSOR_BITS if 0 < largest < 1 << bits), 16)
    notes = (
        f"Its 16-bit values reach {largest:,} only; read as {bits}-bit data, "
        f"{(1 << bits) - 1:,} is white.",
    )
    return (wide >> (bits - 8)).astype(np.uint8), notes if bits < 16 else ()


def _checked_array(array: NDArray[np.generic]) -> RGB:
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise _refusal(
            f"the array is {array.dtype} of shape {array.shape}, expected uint8 RGB of (H, W, 3)",
            "",
        )
    _check_size(array.shape[1], array.shape[0])
    return np.array(array, dtype=np.uint8, order="C")
