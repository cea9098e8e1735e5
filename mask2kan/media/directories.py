"""Bound the directories of TIFF files and of EXIF data, which are small TIFF files.

A directory lists values and where they stand. Pillow copies each of them as it opens an image, so
three thousand entries that name the same 300 kB took 1.7 GB.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

from mask2kan.media.limits import Unfit, check_scans

MAX_ENTRIES = 4_000
MAX_EXIF_BYTES = 1_000_000  # a JPEG's segment holds 65,533
MAX_STRIPS = 100_000
MAX_TILE = 2_048 * 2_048  # pixels; the decoder takes a whole one, however small the image is

# Bytes of a value by its type's number, as far as Pillow knows them.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_UNSIGNED = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}
_WIDTH, _HEIGHT, _COMPRESSION, _STRIPS, _STRIP_BYTES = 256, 257, 259, 273, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
# Beside these, bits and number of samples, photometry, rows of a strip, planes, kind of samples.
_NUMBERS = frozenset({*range(256, 260), 262, 273, *range(277, 280), 284, *range(322, 326), 339})
_EXIF, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_OLD_JPEG, _JPEG = 6, 7
_SLACK = 65_536  # bytes; values may be shared, and damaged counts claim anything


def check_exif(data: bytes) -> None:
    """Check EXIF data, with or without their signature.

    Raises:
        Unfit: when they are too large, or would take far more memory than they have bytes.
    """
    if len(data) > MAX_EXIF_BYTES:
        raise Unfit(f"its EXIF data have {len(data):,} bytes, at most {MAX_EXIF_BYTES:,} fit")
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    for tiff in _readers(io.BytesIO(data), len(data)):
        tiff.check_directories()


def check_tiff(file: BinaryIO, size: int) -> None:
    """Check a TIFF file of ``size`` bytes: its directories, its strips or tiles, JPEG scans.

    Raises:
        Unfit: for what asks for much more time or memory than the image's pixels explain.
    """
    for tiff in _readers(file, size):
        entries = tiff.check_directories(once=True)
        odd = next((tag for tag in _NUMBERS & entries.keys() if not entries[tag].is_number), None)
        if odd is not None:
            raise Unfit(f"its tag {odd} is of type {entries[odd].kind}, no whole number")
        strips = max(entries[tag].length if tag in entries else 0 for tag in (_STRIPS, _TILES))
        if min(strips, size // 2) > MAX_STRIPS:
            raise Unfit(f"it has {strips:,} strips or tiles, at most {MAX_STRIPS:,} fit")
        pixels, tile = (
            tiff.number(entries, width) * tiff.number(entries, height)
            for width, height in ((_WIDTH, _HEIGHT), (_TILE_WIDTH, _TILE_HEIGHT))
        )
        if tile > max(MAX_TILE, 2 * pixels):
            raise Unfit(f"it has {pixels:,} pixels, each of its tiles {tile:,}")
        if tiff.number(entries, _COMPRESSION) in (_JPEG, _OLD_JPEG):
            check_scans(tiff.most_scans(entries), pixels)


class _Entry(NamedTuple):
    """Values of a directory: their type, how many, and where they stand in the file."""

    kind: int
    length: int
    offset: int

    @property
    def is_number(self) -> bool:
        """Whether of a type that is read here; the decoder reads signed numbers, too."""
        return self.kind in _UNSIGNED


_Entries: TypeAlias = Mapping[int, _Entry]


class _Reader(NamedTuple):
    """Reads numbers as the file writes them; ``big`` is for BigTIFF."""

    file: BinaryIO
    size: int
    order: Literal["little", "big"]
    big: bool

    def check_directories(self, *, once: bool = False) -> _Entries:
        """Read the first directory, and those inside it of which Pillow unpacks all values.

        Args:
            once: the first one may name no tag twice.
        """
        start = self._read("Q" if self.big else "L", 8 if self.big else 4)
        first = self._directory(next(iter(start), 0), self.size, once=once)
        inner = [self._inside(first, tag) for tag in (_EXIF, _GPS, _INTEROPERABILITY)]
        self._inside(inner[0], _INTEROPERABILITY)
        return first

    def number(self, entries: _Entries, tag: int) -> int:
        """Return a tag's first number; 0 without one."""
        return next(iter(self._values(entries.get(tag), most=1)), 0)

    def most_scans(self, entries: _Entries) -> int:
        """Count the scans of the strip or tile that has most."""
        tiled = not entries.keys().isdisjoint((_TILES, _TILE_BYTES))
        starts = self._values(entries.get(_TILES if tiled else _STRIPS))
        lengths = self._values(entries.get(_TILE_BYTES if tiled else _STRIP_BYTES))
        both = not entries.keys().isdisjoint((_STRIPS, _STRIP_BYTES)) and tiled
        old = self.number(entries, _COMPRESSION) == _OLD_JPEG
        if both or old or len(starts) != len(lengths) or 0 in lengths:
            starts, lengths = (0,), (self.size,)  # where the decoder may look
        if sum(lengths) > 2 * self.size + _SLACK:
            raise Unfit(f"it is damaged: its strips claim {sum(lengths):,} bytes of {self.size:,}")
        most = 0
        for start, length in zip(starts, lengths, strict=True):
            self.file.seek(min(start, self.size))
            most = max(most, self.file.read(length).count(b"\xff\xda"))
        return most

    def _inside(self, entries: _Entries, tag: int) -> _Entries:
        start = self.number(entries, tag)
        return self._directory(start, min(self.size, MAX_EXIF_BYTES)) if start else {}

    def _directory(self, start: int, most: int, *, once: bool = False) -> _Entries:
        """Read a directory whose values may take about ``most`` bytes in all."""
        form, inline, length = ("HHQQ", 8, 20) if self.big else ("HHLL", 4, 12)
        first = start + (8 if self.big else 2)
        count = next(iter(self._read("Q" if self.big else "H", start)), 0)
        count = min(count, (self.size - first) // length)  # a damaged one says anything
        if count > MAX_ENTRIES:
            raise Unfit(f"a directory in it has {count:,} entries, at most {MAX_ENTRIES:,} fit")
        entries: dict[int, _Entry] = {}
        claimed = 0
        for here in range(first, first + count * length, length):
            tag, kind, number, offset = self._read(form, here)
            if once and tag in entries:  # Pillow takes the last one, the decoder the first
                raise Unfit(f"a directory in it has tag {tag} twice")
            needed = number * _BYTES.get(kind, 0)
            outside = needed > inline
            entries[tag] = _Entry(kind, number, offset if outside else here + length - inline)
            claimed += min(needed, self.size) if outside else 0
        if claimed > 2 * most + _SLACK:
            raise Unfit(f"it is damaged: a directory claims {claimed:,} bytes of {most:,}")
        return entries

    def _values(self, entry: _Entry | None, most: int = MAX_STRIPS) -> tuple[int, ...]:
        """Read up to ``most`` values of an entry; none unless they are whole numbers."""
        if entry is None or entry.kind not in _UNSIGNED:
            return ()
        return self._read(f"{min(entry.length, most)}{_UNSIGNED[entry.kind]}", entry.offset)

    def _read(self, form: str, start: int) -> tuple[int, ...]:
        """Unpack numbers that stand at ``start``; none where the file ends before."""
        form = ("<" if self.order == "little" else ">") + form
        length = struct.calcsize(form)
        if start + length > self.size:
            return ()
        self.file.seek(start)
        data = self.file.read(length)
        return struct.unpack(form, data) if len(data) == length else ()


def _readers(file: BinaryIO, size: int) -> list[_Reader]:
    """Read a header; none for what is no TIFF file."""
    file.seek(0)
    head = file.read(4)
    if head[:2] not in (b"II", b"MM"):
        return []
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    # Pillow takes the third byte alone for the mark of a BigTIFF, libtiff the third or fourth.
    return [_Reader(file, size, order, big) for big in {head[2] == 43, 43 in head[2:4]}]
