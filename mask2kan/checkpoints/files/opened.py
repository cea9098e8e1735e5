"""A checkpoint's file, opened once: what was checked is what is read.

Nothing is mapped into memory: a file that somebody shortens meanwhile would end the process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePath

from mask2kan.errors import CheckpointError

MAX_BYTES = 16 * 2**30
SHA256 = re.compile("[0-9a-f]{64}")

_BLOCK = 1 << 20
_LONGEST_NAME = 255  # bytes, of most file systems


class _Raw(io.FileIO):
    def __del__(self) -> None:
        self.close()  # without the warning that it was left open: that is meant


class OpenedFile(io.BufferedReader):
    """A regular file, open for reading until nobody holds it any more; see ``open_file``.

    Attributes:
        size: in bytes.
    """

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self._status = os.fstat(self.fileno())
        self.size = self._status.st_size

    def __del__(self) -> None:
        self.close()

    def sha256(self, start: int = 0) -> str:
        """Compute the sha256 of all from ``start`` on, in hexadecimal digits."""
        digest = hashlib.sha256()
        for block in _blocks(self, start, self.size - start):
            digest.update(block)
        return digest.hexdigest()

    def require_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened.

        Raises:
            CheckpointError: with what to do.
        """
        before, now = self._status, os.fstat(self.fileno())
        if (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
            raise CheckpointError("It was changed while it was read; load it again.")


def open_file(path: Path) -> OpenedFile:
    """Open a regular file.

    Raises:
        CheckpointError: for a folder, a pipe, a device or more than ``MAX_BYTES``.
        OSError: when it cannot be opened.
    """
    if path.is_dir():
        raise CheckpointError("It is a folder, and a file was expected.")
    # Asked before, since opening a device may do something, and after, since another thing may
    # have taken the name.
    _require_regular(path.stat())
    file = OpenedFile(_Raw(path, opener=_without_waiting))
    _require_regular(os.fstat(file.fileno()))
    if file.size > MAX_BYTES:
        raise CheckpointError(f"It has {file.size:,} bytes; up to {MAX_BYTES:,} are read.")
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open a path; a pipe too, which nobody may ever write to."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device might never end
        raise CheckpointError("It is no regular file.")


def is_file_name(name: str) -> bool:
    """Whether a stranger's text can name a file, and one in the same folder only."""
    plain = bool(name) and PurePath(name).name == name != ".." and name.isprintable()
    return plain and len(name.encode()) <= _LONGEST_NAME


def sha256_of(path: Path) -> str:
    """Compute a file's sha256 in hexadecimal digits.

    Raises:
        CheckpointError, OSError: as ``open_file``.
    """
    with open_file(path) as file:
        return file.sha256()


@dataclasses.dataclass
class Extent:
    """A part of an open file.

    Attributes:
        crc: CRC-32 of the whole part, where the file says it.
    """

    file: io.BufferedIOBase
    start: int
    size: int
    crc: int | None = None

    def read(self) -> bytearray:
        """Read all of it.

        Raises:
            CheckpointError: when the file ends before.
        """
        data = bytearray(self.size)
        self.read_into(memoryview(data))
        return data

    def read_into(self, target: memoryview, offset: int = 0) -> None:
        """Fill a writable buffer of bytes, from a place within the part on.

        Raises:
            CheckpointError: when the file ends before.
        """
        self.file.seek(self.start + offset)
        if self.file.readinto(target) != len(target):
            raise CheckpointError(
                "Damaged or truncated: it ended early; copy or download it again."
            )

    def require_whole(self) -> None:
        """Compare the CRC-32, the first time.

        Raises:
            CheckpointError: when it differs.
        """
        if self.crc is None:
            return
        crc = 0
        for block in _blocks(self.file, self.start, self.size):
            crc = zlib.crc32(block, crc)
        if crc != self.crc:
            raise CheckpointError("Damaged: its CRC-32 differs; copy or download it again.")
        self.crc = None


def _blocks(file: io.BufferedIOBase, start: int, size: int) -> Iterator[memoryview]:
    """Yield a part in blocks of one buffer, up to the file's end."""
    buffer = memoryview(bytearray(min(size, _BLOCK)))
    file.seek(start)
    while size > 0 and (count := file.readinto(buffer[: min(size, _BLOCK)])):
        yield buffer[:count]
        size -= count
