"""JSON files that commands write, and read when they go on: whole, or named as damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mask2kan.errors import ConfigError
from mask2kan.media.files import json_bytes, write_bytes


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object the same command wrote before.

    Raises:
        ConfigError: for a file that cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from error
    except ValueError as error:
        raise ConfigError(
            f"Cannot read what was done before: {path} is damaged ({error}). Delete it; the same "
            "command makes it again."
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds no JSON object. Delete it; the same command makes it again."
        )
    return content


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all; numbers need not be finite."""
    write_bytes(path, json_bytes(content, allow_nan=True))
