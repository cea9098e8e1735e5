"""JSON beside a checkpoint and inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mask2kan.checkpoints.files.opened import Extent, open_file
from mask2kan.errors import CheckpointError
from mask2kan.media.files import parse_object

MAX_JSON = 4_000_000


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object beside a checkpoint; empty when there is no such file.

    Raises:
        CheckpointError: when it is there and no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        with open_file(path) as file:
            if file.size > MAX_JSON:
                raise CheckpointError(f"{path.name} has over {MAX_JSON:,} bytes.")
            return parse_json(Extent(file, 0, file.size).read(), path.name)
    except OSError as error:
        raise CheckpointError(f"Can't read {path}: {error.strerror or error}.") from error


def parse_json(data: bytes | bytearray | str, name: str) -> dict[str, Any]:
    """Parse a JSON object as ``parse_object`` does.

    Raises:
        CheckpointError: for anything else, with the ``name`` of the text.
    """
    try:
        return parse_object(data)
    except ValueError as error:
        raise CheckpointError(f"Its {name} is no valid JSON ({str(error)[:80]}).") from error
