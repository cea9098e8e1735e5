"""Write files whole (a crash leaves the old one or the new one); write and read JSON."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mask2kan.errors import ConfigError, WriteError

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})[0-9a-f]{8}\.tmp", re.DOTALL)
_DAY = 86400.0  # seconds


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
def atomic_writer(path: str | Path, size: int | None = None) -> Iterator[BinaryIO]:
    """Open a binary file that replaces ``path`` when the block ends without an error.

    A killed process leaves a file ``.<name>.*.tmp``; the next one removes it when it first writes
    into the folder.

    Args:
        path: of the file; its folder is made.
        size: bytes that will be written; nothing is begun where there is no room for them.

    Raises:
        WriteError: when the file cannot be written; ``path`` is untouched.
    """
    path = Path(path)
    raw: _Raw | None = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned_once(path.parent)
            _require_room(path.parent, size)
            raw = _create(path)
            with io.BufferedWriter(raw) as file:
                yield file
                file.flush()
                os.fsync(raw.fileno())
                if sys.platform != "win32":
                    Path(raw.name).replace(path)  # before closing gives up the lock
            if sys.platform == "win32":  # where no open file can be renamed or removed
                Path(raw.name).replace(path)
            _flush_folder(path.parent)  # which holds the new name
        finally:
            if raw is not None:
                Path(raw.name).unlink(missing_ok=True)
    except Exception as error:
        written, failure = (0, None) if raw is None else (raw.written, raw.failure)
        cause = error if isinstance(error, OSError) else failure
        if cause is None:
            raise
        raise WriteError(_refusal(path, cause, written, size)) from error


class _Raw(io.FileIO):
    """A file that remembers why it took no more: ``torch.save`` raises an error of its own then."""

    written = 0  # bytes
    failure: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            count = super().write(content)
        except OSError as error:
            self.failure = error
            raise
        self.written += count
        return count


def _create(path: Path) -> _Raw:
    """Create a temporary file beside a path, and lock it: so others see that its writer lives."""
    while True:
        raw = _Raw(path.with_name(f".{path.name}.{_machine()}{secrets.token_hex(4)}.tmp"), "xb")
        if _is_locked(raw):
            return raw
        raw.close()  # taken for abandoned before it was locked
        Path(raw.name).unlink(missing_ok=True)


def _is_locked(raw: _Raw) -> bool:
    """Lock a new file; whether it is still there then."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return os.fstat(raw.fileno()).st_nlink > 0


def _require_room(folder: Path, size: int | None) -> None:
    """Raise OSError where a file of that size cannot be written."""
    if size is None:
        return
    room = shutil.disk_usage(folder)
    if room.total and size > room.free:  # some network disks tell nothing
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _refusal(path: Path, error: OSError, written: int, size: int | None) -> str:
    """Say why a file could not be written, and what it needs."""
    reached = f"after {written:,} bytes"
    if size is not None:
        reached += f" of {size:,}"
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            reached += f", with {shutil.disk_usage(path.parent).free:,} free"
    advice = "Choose another folder"
    if is_full(error):
        advice = "Free some space or choose another folder"
    return (
        f"Can't write {path}: {error.strerror or error} ({reached}). {advice}; "
        "a file that was there is untouched."
    )


def is_full(error: OSError) -> bool:
    """Whether the disk or a limit has no room left."""
    return error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers were killed.

    A living writer holds a lock on its file. Locks of other machines may not be seen here: what
    these wrote has to be a day old.
    """
    try:
        paths = list(folder.iterdir())
    except OSError:  # writing will say why
        return
    for path in paths:
        name = _TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if name:
                _remove_if_abandoned(path, ours=name[1] == _machine())


_remove_abandoned_once = functools.lru_cache(maxsize=1024)(remove_abandoned)


def _remove_if_abandoned(path: Path, *, ours: bool) -> None:
    status = path.lstat()
    old = time.time() - status.st_mtime > _DAY
    if not stat.S_ISREG(status.st_mode) or not (old or (ours and sys.platform != "win32")):
        return
    if sys.platform == "win32":
        path.unlink()
        return
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError while its writer lives
        path.unlink()


@functools.cache
def _machine() -> str:
    """Eight hexadecimal digits that stand for this machine since its start: locks end with it."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        name = platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file with ``atomic_writer``; returns its path."""
    with atomic_writer(path, len(content)) as file:
        file.write(content)
    return Path(path)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all unless the process is killed.

    Raises:
        WriteError: when it cannot be written; the lines before are untouched.
    """
    content = f"{line}\n".encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                written = file.write(content)
                file.write(content[written:])  # a disk may take the first part only
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise WriteError(_refusal(path, error, 0, len(content))) from error


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


def parse_object(data: bytes | bytearray | str, *, finite: bool = True) -> dict[str, Any]:
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
