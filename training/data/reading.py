"""Files to arrays: images, and labels exactly as they were stored.

Labels are PNG, BMP or TIFF of 8-bit grey or of a palette, whose numbers count (OpenCV returns the
colours). Refused are other depths of grey, which decoders scale to 8 bits, RGB, which needs a table
to become numbers, and lossy formats, which invent values along edges.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import math
import re
import stat
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2kan.errors import ConfigError, ImageError, one_line, printable, shown
from mask2kan.media.images import MAX_FILE_BYTES, open_image, read_image
from mask2kan.media.limits import MAX_MEGAPIXELS, Unfit

from .faults import Fault, FaultError

VOID = 255
MAX_LIST_BYTES = 400_000  # of a list of classes
MAX_LINE = 300  # characters of a line in it
Array = NDArray[np.uint8]
Size = tuple[int, int]  # (height, width)

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHER_LABELS = (b"BM", b"II*\0", b"MM\0*")  # BMP; TIFF in either byte order
_FORMAT = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<WEBP>RIFF.{4}WEBP)|(?P<BMP>BM)"
    rb"|(?P<GIF>GIF8[79]a)|(?P<TIFF>II(?:\*\0|\0\*|\+\0)|MM(?:\0\*|\*\0|\0\+))|(?P<PPM>P[1-6]\s)",
    re.DOTALL,
)
_LOSSY = ("jpeg", "tiff_jpeg", "webp")  # compressions of a TIFF
_LEAST_PNG = 57  # bytes: signature, header, empty data, end
_NO_IMAGE = ("not-an-image", "no image format")
_ZIP_ENTRY = b"PK\1\2"
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack before they count
_MOST_ENTRIES = 1_000  # of a zip archive
_WIDEST = 8  # bytes of a number
_NPY_HEAD = 20_000  # bytes; NumPy takes no longer ones
_A_FILE = "expected a file"
_CUT_OFF = "a PNG without an end"
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6  # colour types of PNG
_NUMBERS = ("L", "P")  # Pillow's modes
_SHOWN = 5  # odd values listed in a message


def os_fault(path: Path, error: OSError) -> Fault:
    """Describe an error of the system as a fault."""
    rule = {
        errno.EACCES: "no-permission",
        errno.EPERM: "no-permission",
        errno.ELOOP: "symlink-loop",
        errno.ENOENT: "broken-link",
    }.get(error.errno or 0, "unreadable")
    return Fault(path, rule, f"{error.strerror or error}; expected something readable")


def read_regular(path: Path) -> bytes:
    """Read a file that may be empty.

    Raises:
        FaultError: when the system refuses, it is too large, or no regular file: to open a pipe
            would wait for ever.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FaultError(Fault(path, "not-a-file", f"{_kind(status.st_mode)}; {_A_FILE}"))
        if status.st_size > MAX_FILE_BYTES:
            message = f"{status.st_size / 1e6:,.0f} MB; expected at most {MAX_FILE_BYTES / 1e6:.0f}"
            raise FaultError(Fault(path, "too-large", message))
        return path.read_bytes()
    except OSError as error:
        raise FaultError(os_fault(path, error)) from error


def read_list(path: Path, expected: str) -> list[list[str]]:
    """Read a list of classes: the words of every line that has some; ``expected`` is for errors.

    Raises:
        ConfigError: when it cannot be read, is larger than any such list, or would not print.
    """
    try:
        words = _words(read_regular(path))
    except FaultError as error:
        reason = error.faults[0].message.partition(";")[0]
        raise ConfigError(f"Cannot read {path}: {reason}; expected {expected}.") from error
    except Unfit as error:
        raise ConfigError(f"Cannot read {path}: {error}; expected {expected}.") from error
    return [line for line in words if line]


def _words(content: bytes) -> list[list[str]]:
    if len(content) > MAX_LIST_BYTES:
        raise Unfit(f"it has {len(content):,} bytes, at most {MAX_LIST_BYTES:,} fit")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise Unfit("it is not UTF-8") from error
    if max(map(len, lines), default=0) > MAX_LINE:  # Python reads no number of 4,301 digits
        raise Unfit(f"it has a line of more than {MAX_LINE} characters")
    words = [line.split() for line in lines]
    if any(printable(word) != word for line in words for word in line):
        raise Unfit("it has characters that cannot be printed")
    return words


def folder_fault(path: Path) -> Fault:
    """Describe a folder where a file should be."""
    return Fault(path, "not-a-file", f"a folder; {_A_FILE}")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def read_file(path: Path) -> bytes:
    """Read a file that is not empty, as ``read_regular``.

    Raises:
        FaultError: as there, and when it is empty.
    """
    content = read_regular(path)
    if not content:
        raise FaultError(Fault(path, "empty-file", "0 bytes; expected an image"))
    return content


def decode_image(path: Path, content: bytes) -> Array:
    """Decode an image to (H, W, 3) RGB; ``path`` is for errors.

    Raises:
        FaultError: when it is none, or damaged.
    """
    try:
        image = read_image(content)
    except ImageError as error:
        rule = "damaged-image" if image_format(content) else "not-an-image"
        raise FaultError(Fault(path, rule, str(error))) from error
    if _is_cut_off(content):
        raise FaultError(Fault(path, "damaged-image", f"{_CUT_OFF}; expected a whole one"))
    return image


def decode_label(path: Path, content: bytes) -> Array:
    """Decode the numbers (H, W) of a label; ``path`` is for errors.

    Raises:
        FaultError: for a damaged file, or any but 8-bit grey or a palette.
    """
    if content.startswith(_OTHER_LABELS):
        return _decode_other(path, content, "8-bit grey or palette class numbers")
    expected = "an 8-bit grey or palette PNG of class numbers"
    image = load_png(path, content, expected)
    depth, kind = content[24:26]  # of every PNG
    if kind in (_RGB, _RGBA):
        raise FaultError(Fault(path, "label-rgb", f"an RGB image; expected {expected}"))
    if image.mode not in _NUMBERS or (kind != _PALETTE and (kind != _GREY or depth != 8)):
        mode = f"{depth}-bit grey" if kind == _GREY else "grey with transparency"
        raise FaultError(Fault(path, "label-mode", f"{mode}; expected {expected}"))
    return np.array(image, dtype=np.uint8)


def _decode_other(path: Path, content: bytes, expected: str) -> Array:
    """Decode a BMP or TIFF, by Pillow's name of its kind of pixels."""
    image = load_label(path, content, ("BMP", "TIFF"), expected)
    if image.info.get("compression") in _LOSSY:
        reason = f"stored as {image.info['compression']}"
        raise FaultError(Fault(path, "label-format", f"{reason}; expected {expected}"))
    if image.mode not in _NUMBERS:
        rule = "label-rgb" if image.mode.startswith(("RGB", "CMYK")) else "label-mode"
        raise FaultError(Fault(path, rule, f"pixels are {image.mode}; expected {expected}"))
    return np.array(image, dtype=np.uint8)


def load_png(path: Path, content: bytes, expected: str) -> Image.Image:
    """Decode a PNG of any kind; ``path`` and ``expected`` are for errors.

    Raises:
        FaultError: when it is none, cut off or damaged.
    """
    if not content.startswith(_PNG):
        name = image_format(content)
        rule, reason = ("label-format", f"stored as {name}") if name else _NO_IMAGE
        raise FaultError(Fault(path, rule, f"{reason}; expected {expected}"))
    if _is_cut_off(content):
        raise FaultError(Fault(path, "damaged-label", f"{_CUT_OFF}; expected {expected}"))
    return load_label(path, content, ("PNG",), expected)


def load_label(path: Path, content: bytes, formats: tuple[str, ...], expected: str) -> Image.Image:
    """Decode a file of one of these formats; ``path`` and ``expected`` are for errors.

    Raises:
        FaultError: when it is none, damaged, or beyond the limits of pictures.
    """
    try:
        with open_image(content, formats) as (opened, _):
            opened.load()
            return opened
    except Unfit as error:
        message = f"{error}; expected {expected}, up to {MAX_MEGAPIXELS} MP"
        raise FaultError(Fault(path, "damaged-label", message)) from error
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes trip
        reason = str(error) or type(error).__name__
        raise FaultError(Fault(path, "damaged-label", f"{reason}; expected {expected}")) from error


def histogram(values: Array) -> NDArray[np.int64]:
    """Count the pixels (H, W) of every value: (256,)."""
    counts = cv2.calcHist([values], [0], None, [256], [0.0, 256.0])
    return np.asarray(counts, np.int64).ravel()


class LabelReader(Protocol):
    """Turns a label file into a label map."""

    def __call__(self, path: Path, content: bytes, size: Size | None) -> Array:
        """Return the label (H, W), 255 = void.

        Args:
            path: for errors.
            content: of the file.
            size: of the image; None where that could not be read.

        Raises:
            FaultError: when the file is no such label.
        """
        ...


@dataclasses.dataclass(frozen=True)
class LabelValues:
    """A ``LabelReader`` for files whose values stand for classes.

    Attributes:
        meaning: label of each value allowed.
        expected: those values in words, for messages.
    """

    meaning: Mapping[int, int]
    expected: str

    @cached_property
    def _table(self) -> tuple[Array, NDArray[np.bool_]]:
        """(256,) labels by value, and whether the value is allowed."""
        table, allowed = np.full(256, VOID, np.uint8), np.zeros(256, bool)
        for value, new in self.meaning.items():
            table[value], allowed[value] = new, True
        return table, allowed

    def __call__(self, path: Path, content: bytes, size: Size | None) -> Array:
        """Decode a label."""
        return self.translated(path, self.decode(path, content), size)

    @property
    def plain(self) -> bool:
        """Whether values are the classes' own numbers."""
        return all(label in (value, VOID) for value, label in self.meaning.items())

    def translated(self, path: Path, values: Array, size: Size | None) -> Array:
        """Translate a decoded label; see ``__call__``."""
        faults = size_faults(path, (values.shape[0], values.shape[1]), size)
        table, allowed = self._table
        counts = histogram(values)
        odd = np.flatnonzero((counts > 0) & ~allowed)
        if odd.size:
            values_shown = ", ".join(map(str, odd[:_SHOWN])) + (", …" if odd.size > _SHOWN else "")
            pixels = int(np.isin(values, odd).sum())
            message = f"holds {values_shown} in {pixels} pixels; expected {self.expected}"
            faults.append(Fault(path, "label-range", message))
        if faults:
            raise FaultError(*faults)
        return np.asarray(cv2.LUT(values, table), np.uint8)

    def decode(self, path: Path, content: bytes) -> Array:
        """Decode the values (H, W) of a file; see ``decode_label``."""
        return decode_label(path, content)


def apply_overlay(image: Array, overlay: Path | None) -> Array:
    """Add the signed differences of an ``.npz`` (key ``rgb``) to an image, bounded to bytes.

    Raises:
        FaultError: when the overlay is unusable.
    """
    if overlay is None:
        return image
    try:
        difference = _difference(read_regular(overlay), image.shape)
    except FaultError as error:
        message = error.faults[0].message
        raise FaultError(Fault(overlay, "damaged-overlay", message)) from error
    except Unfit as error:
        raise FaultError(Fault(overlay, "damaged-overlay", str(error))) from error
    except Exception as error:  # zipfile, zlib and NumPy raise whatever damaged bytes trip
        message = f"{one_line(error)}; expected an .npz with the array 'rgb'"
        raise FaultError(Fault(overlay, "damaged-overlay", message)) from error
    return np.asarray(np.clip(image + difference, 0, 255), np.uint8)


def _difference(content: bytes, shape: tuple[int, ...]) -> NDArray[np.int16]:
    """Read the array of an overlay, once its sizes in the archive and in its own head fit."""
    if content.count(_ZIP_ENTRY) > _MOST_ENTRIES:  # each takes half a kilobyte to list
        raise Unfit(f"lists more than {_MOST_ENTRIES:,} arrays; expected 'rgb'")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = archive.getinfo("rgb.npy")
        if entry.flag_bits & 1:
            raise Unfit("is encrypted; expected an .npz as NumPy writes it")
        if entry.compress_type not in _BOUNDED:
            raise Unfit(f"is packed by method {entry.compress_type}; expected none or deflate")
        most = _WIDEST * math.prod(shape) + _NPY_HEAD
        if entry.file_size > most:
            raise Unfit(
                f"unpacks to {entry.file_size:,} bytes; expected at most {most:,} for its image's "
                f"{shape}"
            )
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read_head = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            found, _, dtype = read_head(file)
        if found != shape:
            raise Unfit(f"has shape {shown(found)}; expected its image's {shape}")
        if dtype.kind not in "biuf" or dtype.itemsize > _WIDEST:
            raise Unfit(f"holds {dtype}; expected whole numbers")
        with archive.open(entry) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False), np.int16)


def size_faults(path: Path, size: Size, expected: Size | None) -> list[Fault]:
    """Return a fault when a label's size is not its image's."""
    if expected is None or size == expected:
        return []
    message = f"is {size[1]}x{size[0]}; expected its image's {expected[1]}x{expected[0]}"
    return [Fault(path, "size-mismatch", message)]


def _is_cut_off(content: bytes) -> bool:
    """Whether a PNG lacks its end, which decoders forgive."""
    return content.startswith(_PNG) and (len(content) < _LEAST_PNG or b"IEND" not in content)


def image_format(content: bytes) -> str | None:
    """Name the format that a file begins like, None for no image's; nothing of it is decoded."""
    begins = _FORMAT.match(content)
    return begins.lastgroup if begins else None
