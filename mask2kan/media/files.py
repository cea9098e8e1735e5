"""Write a file so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mask2kan.errors import WriteError


@contextlib.contextmanager
def atomic_writer(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes ``path``'s place when the block ends well.

    It is written beside ``path``, flushed to disk and renamed; then the folder is flushed, since
    the rename lives there. Files left by a killed process match ``.<name>.*.tmp``.

    Raises:
        WriteError: when the file cannot be written; what was at ``path`` is untouched.
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
            _flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(
            f"Can't write {path}: {error.strerror or error} (after {written:,} bytes). "
            "Free some space or choose another folder; the file that was there is untouched."
        ) from error


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file with ``atomic_writer``; returns its path."""
    with atomic_writer(path) as file:
        file.write(content)
    return Path(path)


def json_bytes(value: Any, *, allow_nan: bool = False) -> bytes:
    """Encode JSON as every file of ours holds it: indented, with a line end."""
    return (json.dumps(value, indent=2, allow_nan=allow_nan) + "\n").encode()


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
