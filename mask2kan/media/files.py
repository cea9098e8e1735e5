"""Write files whole (a crash leaves the old one or the new one); write and read JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mask2kan.errors import ConfigError, WriteError


class NotRegularError(OSError):
    """A folder, pipe, device or socket where a file is expected."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, without ever waiting for one who writes into a pipe.

    Raises:
        NotRegularError: for anything but a regular file, a link to one included.
        OSError: when there is none, or it cannot be opened.
        ValueError: for a name that no file can have.
    """
    # Before, since opening a device may already do something; after, since it may be another file.
    _require_regular(os.stat(path))  # noqa: PTH116 - of a str, too
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags | getattr(os, "O_CLOEXEC", 0)), "rb")
    try:
        _require_regular(os.fstat(file.fileno()))
    except NotRegularError:
        file.close()
        raise
    return file


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(errno.EINVAL, "not a regular file")


@contextlib.contextmanager
def atomic_writer(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces ``path`` when the block ends without an error.

    Files left by a killed process match ``.<name>.*.tmp``.

    Raises:
        WriteError: when the file cannot be written; ``path`` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    written = 0
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                yield file
                written = file.tell()
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _flush_folder(path.parent)  # which holds the new name
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
        advice = "Free some space or choose another folder" if full else "Choose another folder"
        raise WriteError(
            f"Can't write {path}: {error.strerror or error} (after {written:,} bytes). {advice}; "
            "a file that was there is untouched."
        ) from error


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file with ``atomic_writer``; returns its path."""
    with atomic_writer(path) as file:
        file.write(content)
    return Path(path)


def json_bytes(value: Any, *, allow_nan: bool = False) -> bytes:
    """Encode JSON, indented, with a final newline."""
    return (json.dumps(value, indent=2, allow_nan=allow_nan) + "\n").encode()


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_record(path: Path, content: dict[str, Any]) -> Path:
    """Write a JSON object for ``read_record``; its numbers need not be finite."""
    return write_bytes(path, json_bytes(content, allow_nan=True))


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object that a command wrote.

    Raises:
        ConfigError: for a file that cannot be read or holds something else.
    """
    try:
        return parse_object(path.read_bytes(), finite=False)
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}). Repair it, or delete it if a command can make it again."
        ) from error


def parse_object(data: bytes | str, *, finite: bool = True) -> dict[str, Any]:
    """Parse a JSON object with each key once, ``finite`` without NaN and infinities.

    Raises:
        ValueError: for anything else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not valid JSON")

    try:
        value = json.loads(
            data, object_pairs_hook=unique, parse_constant=refuse if finite else None
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of the text
    return value


def cache_folder() -> Path:
    """Return the folder of what may be made again: ``MASK2KAN_CACHE``, else in the user's cache."""
    if chosen := os.environ.get("MASK2KAN_CACHE", "").strip():
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mask2kan"
