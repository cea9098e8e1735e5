"""Decode images and masks from strangers to arrays, or raise an ``ImageError``.

In this order, so that nothing costs more than it may: the file is a regular one of limited size;
its bytes keep to what honest files hold (``bounds``); it is of one of few formats; its header's
pixel count is within the limit; only then pixels are decoded (``pixels``), of an animation the
first frame's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import glob
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mask2kan.errors import ImageError, one_line, shortened, shown
from mask2kan.media.bounds import check_bounds
from mask2kan.media.files import NotRegularError, open_regular, parse_object
from mask2kan.media.limits import MAX_MEGAPIXELS, Unfit, check_sides, check_size
from mask2kan.media.pixels import rgb_of

RGB: TypeAlias = NDArray[np.uint8]  # (H, W, 3)
Source: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.uint8]"

MAX_FILE_BYTES = 400_000_000
MAX_SUMMARY_BYTES = 10_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

_ADVICE = f"Use JPEG, PNG or WebP up to {MAX_MEGAPIXELS} MP."
_MASK_VALUES = "0 for known, 1 for anomaly and 255 for void"
_MASK_MODES = ("1", "L", "P", "RGB", "RGBA")

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
    try:
        if isinstance(source, np.ndarray):
            return Decoded(_checked_array(source))
        if isinstance(source, Image.Image):
            return Decoded(*_decoded(source), path=str(getattr(source, "filename", "")))
        with open_image(source) as (image, file):
            path = str(source) if isinstance(source, (str, Path)) else ""
            return Decoded(*_decoded(image, file), path=path)
    except Unfit as reason:
        raise _refusal(str(reason)) from reason


def read_mask(
    source: str | Path | bytes, size: tuple[int, int], *, white_is_anomaly: bool = False
) -> NDArray[np.uint8]:
    """Decode a ground truth mask safely; as it is stored, without EXIF orientation.

    Args:
        source: a path, or the bytes of a file: 1-bit, 8-bit gray, palette (whose indices count), or
            RGB of equal channels.
        size: (H, W) of the image it belongs to.
        white_is_anomaly: 255 means "anomaly" instead of "void".

    Returns:
        (H, W) uint8: 0 known, 1 anomaly, 255 void.

    Raises:
        ImageError: one line with the reason, for anything else.
    """
    try:
        with open_image(source) as (image, _):
            _check_mask(image, size)
            values = _mask_values(image)
    except Unfit as reason:
        raise _refusal(str(reason), f"It needs {_MASK_VALUES}.", "the ground truth") from reason
    if white_is_anomaly:
        values[values == 255] = 1
    _check_values(values, image.format)
    return values


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


def _refusal(reason: str, advice: str = _ADVICE, what: str = "this image") -> ImageError:
    return ImageError(f"Can't read {what}: {' '.join(reason.split())}. {advice}".rstrip())


@contextlib.contextmanager
def open_image(
    source: object, formats: tuple[str, ...] = FORMATS
) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """Open a path or the bytes of a file within all bounds; nothing is decoded yet.

    Args:
        source: the path, or the bytes.
        formats: some of ``FORMATS``, all that are tried.

    Yields:
        The image, whose file is closed with the block, and that file.

    Raises:
        Unfit: when it is no such file; ImageError: where the reason needs advice of its own.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        file: BinaryIO = io.BytesIO(source)
        size = len(source)
    elif isinstance(source, (str, Path)):
        file = _open_path(Path(source))
        size = os.fstat(file.fileno()).st_size
    else:
        kind = type(source).__name__
        raise _refusal(f"it is a {kind}, not a path, bytes, PIL image or array", "")
    with file:
        if size == 0:
            raise Unfit("the file is empty")
        if size > MAX_FILE_BYTES:
            most = MAX_FILE_BYTES / 1e6
            raise Unfit(f"the file has {size / 1e6:.0f} MB, at most {most:.0f} fit")
        check_bounds(file, size)
        with _identified(file, formats) as image:
            check_size(*image.size)
            check_sides(*image.size)
            yield image, file


def _open_path(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except FileNotFoundError as error:
        raise _no_file(path) from error
    except NotRegularError as error:
        raise _refusal(f"{shown(str(path))} is not a file", "") from error
    except (OSError, ValueError) as error:  # no permission, NUL or 300 characters in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Unfit(f"{reason} ({shown(path.name)})") from error


def _no_file(path: Path) -> ImageError:
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.iterdir()])
        if near:
            advice = f"Nearest: {', '.join(map(shortened, near))}."
            return _refusal(f"there is no file {shown(str(path))}", advice)
    return _refusal(f"there is no file {shown(str(path))}", "Check its path.")


def _identified(file: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        # Pillow refuses the largest headers itself; its message holds the pixel count
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        megapixels = f"{int(pixels[1]) / 1e6:.0f}" if pixels else "over 178"
        raise Unfit(f"it has {megapixels} megapixels") from error
    except UnidentifiedImageError as error:
        file.seek(0)
        raise Unfit(_kind(file.read(512))) from error
    except Exception as error:  # Pillow's parsers raise anything at a malformed header
        raise Unfit(f"its header is damaged ({one_line(error)})") from error


def _kind(head: bytes) -> str:
    for signature, reason in _SIGNATURES:
        if head.startswith(signature):
            return reason
    if head[4:8] == b"ftyp":
        return "it is a HEIC, AVIF or video file"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "it is a text file"
    return "it is not an image in a known format"


def _decoded(image: Image.Image, file: BinaryIO | None = None) -> tuple[RGB, tuple[str, ...]]:
    """Decode an image that was opened, from ``file`` if it is one."""
    check_size(*image.size)
    with _readable():
        return rgb_of(image, file)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Turn whatever a decoder raises into a reason; it may even claim to be out of memory."""
    try:
        yield
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"it is cut off or damaged ({one_line(error)})") from error


def _check_mask(image: Image.Image, size: tuple[int, int]) -> None:
    if image.size != size[::-1]:
        raise ImageError(
            f"The ground truth has {image.width}×{image.height} pixels, the picture "
            f"{size[1]}×{size[0]}: they must be equal."
        )
    if image.mode not in _MASK_MODES:
        wide = image.mode.startswith("I") or image.mode == "F"
        raise Unfit(
            "it has more than 8 bits per pixel, expected an 8-bit mask"
            if wide
            else f"its pixels are {image.mode}, expected an 8-bit mask"
        )


def _mask_values(image: Image.Image) -> NDArray[np.uint8]:
    with _readable():
        image.load()
    if image.mode == "1":
        return np.array(image.convert("L"), np.uint8)
    values = np.array(image.getchannel(0), np.uint8)
    for channel in range(1, min(3, len(image.getbands()))):
        if (np.asarray(image.getchannel(channel)) != values).any():
            raise Unfit("it is a colour image, its red, green and blue differ")
    return values


def _check_values(values: NDArray[np.uint8], kind: str | None) -> None:
    counts = Image.fromarray(values).histogram()
    unknown = [str(value) for value in range(256) if counts[value] and value not in (0, 1, 255)]
    if unknown:
        shown = ", ".join(unknown[:6]) + (", …" if len(unknown) > 6 else "")
        lossy = " JPEG changes values along edges: save it as PNG." if kind == "JPEG" else ""
        raise ImageError(
            f"The ground truth has the values {shown}; it needs {_MASK_VALUES}.{lossy}"
        )


def _checked_array(array: NDArray[np.generic]) -> RGB:
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise _refusal(
            f"the array is {array.dtype} of shape {array.shape}, expected uint8 RGB of (H, W, 3)",
            "",
        )
    check_size(array.shape[1], array.shape[0])
    return np.array(array, dtype=np.uint8, order="C")
