"""Bytes to an RGB array, or one clear line why not.

Everything a stranger can upload passes through here: only a few formats are tried, the pixel count
is read from the header before anything is decoded, and whatever a damaged file trips inside the
decoder comes out as a ``ImageError``.

What is done to an image, in this order: first frame of an animation; EXIF orientation applied;
16-bit channels scaled to 8 by their high byte; transparency composited on white. Embedded colour
profiles are not applied: the originals' loaders ignore them too, and the models learned that way.
"""

from __future__ import annotations

import contextlib
import glob
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mask2kan.errors import ImageError

RGB: TypeAlias = NDArray[np.uint8]  # (H, W, 3)
Source: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.uint8]"

MAX_MEGAPIXELS = 40
MAX_FILE_BYTES = 400_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

_SIGNATURES = (
    (b"%PDF", "it is a PDF document"),
    (b"%!PS", "it is a PostScript document"),
    (b"8BPS", "it is a Photoshop file"),
    (b"PK\x03\x04", "it is a zip archive"),
    (b"\x00\x00\x01\x00", "it is an icon file"),
)


def read_image(source: Source) -> RGB:
    """Decode an image safely.

    Args:
        source: a path, the bytes of a file, a PIL image, or an (H, W, 3) uint8 RGB array.

    Returns:
        (H, W, 3) uint8 RGB, upright, contiguous, the caller's own to change.

    Raises:
        ImageError: one line with the reason, for anything that is not such an image.
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source)
    if isinstance(source, Image.Image):
        return _decode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(source), bytes(source[:512]), len(source))
    if isinstance(source, (str, Path)):
        return _read_file(Path(source))
    raise _refusal(f"it is a {type(source).__name__}, not a path, bytes, PIL image or array")


def list_images(
    folder: Path, *, suffixes: tuple[str, ...] = SUFFIXES, nested: bool = False
) -> list[Path]:
    """List the image files of a folder, sorted by path.

    Hidden files and folders are left out (macOS puts a ``._`` file beside each file it copies), as
    are folders named like an image and links that lead nowhere.

    Args:
        folder: to look in.
        suffixes: of the files to list, in lower case.
        nested: whether to look in its folders too.
    """
    return sorted(
        path
        for path in (folder.rglob("*") if nested else folder.iterdir())
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def find_images(arguments: Iterable[str]) -> list[Path]:
    """Find files, the images directly inside folders, and what globs match, once and in order.

    A file that is named is taken whatever its suffix; reading it shows whether it is an image.

    Raises:
        ImageError: when an argument names nothing.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            matches = list_images(path)
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(Path(name) for name in glob.glob(argument, recursive=True))  # noqa: PTH207
            matches = [match for match in matches if match.is_file()]
        if not matches:
            raise ImageError(
                f"No image at {argument!r}: expected an image, a folder with images "
                f"({' '.join(SUFFIXES)}) or a pattern that matches some."
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def _refusal(reason: str) -> ImageError:
    one_line = " ".join(reason.split())
    return ImageError(
        f"Can't read this image: {one_line}. Use JPEG, PNG or WebP up to {MAX_MEGAPIXELS} MP."
    )


def _read_file(path: Path) -> RGB:
    try:
        if not path.exists():
            raise _refusal(f"there is no file {str(path)!r}")
        if not path.is_file():
            raise _refusal(f"{str(path)!r} is not a file")
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            return _open(file, head, path.stat().st_size)
    except (OSError, ValueError) as error:  # no permission, NUL or 300 characters in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _refusal(f"{reason} ({path.name[:80]!r})") from error


def _open(file: BinaryIO, head: bytes, size: int) -> RGB:
    if size == 0:
        raise _refusal("the file is empty")
    if size > MAX_FILE_BYTES:
        raise _refusal(f"the file has {size / 1e6:.0f} MB, at most {MAX_FILE_BYTES / 1e6:.0f} fit")
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _refusal(_bomb_reason(error)) from error
    except UnidentifiedImageError as error:
        raise _refusal(_what_it_is(head)) from error
    except Exception as error:  # Pillow's parsers raise whatever a malformed header trips
        raise _refusal(f"its header is damaged ({_short(error)})") from error
    with image:
        return _decode(image)


def _decode(image: Image.Image) -> RGB:
    """Pixels of an opened image, its size checked before and after decoding."""
    _check_size(image)
    try:
        image.load()
        _check_size(image)
        return np.array(_to_rgb(_upright(image)), dtype=np.uint8)
    except ImageError:
        raise
    except Exception as error:  # as above; a decoder may even claim to be out of memory
        raise _refusal(f"it is cut off or damaged ({_short(error)})") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise _refusal(f"it is {width} × {height} pixels")
    megapixels = width * height / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise _refusal(f"it has {megapixels:.1f} megapixels ({width} × {height})")


def _bomb_reason(error: Image.DecompressionBombError) -> str:
    """Pillow refuses the largest headers itself; its message holds the pixel count."""
    found = re.search(r"\((\d+) pixels\)", str(error))
    size = f"{int(found[1]) / 1e6:.0f}" if found else "over 178"
    return f"it has {size} megapixels"


def _what_it_is(head: bytes) -> str:
    for signature, reason in _SIGNATURES:
        if head.startswith(signature):
            return reason
    if head[4:8] == b"ftyp":
        return "it is a HEIC, AVIF or video file"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "it is a text file"
    return "it is not an image in a known format"


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:120]


def _upright(image: Image.Image) -> Image.Image:
    upright = image.copy()
    # Damaged metadata does not make the pixels unreadable. In place, because the pixels are then
    # turned already when Pillow trips over a damaged tag that it wants to write back.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(upright, in_place=True)
    return upright


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("F", "LAB"):
        kind = "floating-point" if image.mode == "F" else "LAB"
        raise _refusal(f"it has {kind} pixels, expected 8 or 16 bits of gray or RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The high byte of 16-bit gray; what Pillow does for 16-bit RGB."""
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise _refusal("it has 32-bit pixels, expected 8 or 16 bits of gray or RGB")
    return (wide >> 8).astype(np.uint8)


def _checked_array(array: NDArray[np.generic]) -> RGB:
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise _refusal(
            f"the array is {array.dtype} of shape {array.shape}, expected uint8 of (H, W, 3)"
        )
    if array.shape[0] * array.shape[1] > MAX_MEGAPIXELS * 1e6:
        height, width = array.shape[:2]
        raise _refusal(f"it has {height * width / 1e6:.1f} megapixels ({width} × {height})")
    return np.array(array, dtype=np.uint8, order="C")
