"""The names in ``weights/manifest.json``: bundled files, and places on the Hugging Face Hub.

Whatever looks into it raises ``CheckpointError`` when it is damaged.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mask2kan.checkpoints.parts import WEIGHT_SUFFIXES
from mask2kan.checkpoints.readers import SHA256, read_json
from mask2kan.errors import CheckpointError

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


class Address(NamedTuple):
    """Where on the Hub a checkpoint lies; ``file`` and ``revision`` as of ``hub.fetch``."""

    repo: str
    file: str | None = None
    revision: str | None = None


def manifest() -> list[dict[str, Any]]:
    """The entries of ``weights/manifest.json``; none where there is no such file.

    Raises:
        CheckpointError: when the file is no list of named entries.
    """
    entries = read_json(WEIGHTS / "manifest.json").get("weights", [])
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise CheckpointError("weights/manifest.json is no list of named entries.")
    return entries


def entry_of(name: str) -> dict[str, Any]:
    """The manifest's entry of a name; empty where there is none."""
    return next((entry for entry in manifest() if entry["name"] == name), {})


def list_weights(bundled_only: bool = False) -> list[str]:
    """Names that ``load_model`` takes; ``bundled_only`` leaves out what is downloaded first."""
    return [entry["name"] for entry in manifest() if entry.get("file") or not bundled_only]


def bundled_file(entry: dict[str, Any]) -> tuple[Path, str]:
    """A bundled checkpoint's file and the SHA-256 it must have.

    Raises:
        CheckpointError: when the entry names no file inside ``weights/`` or no digest.
    """
    name, digest = str(entry["file"]), str(entry.get("sha256", ""))
    if PurePosixPath(name).name != name or not SHA256.fullmatch(digest):
        raise CheckpointError(
            f"weights/manifest.json: {entry['name']} needs a plain file name and a sha256."
        )
    return WEIGHTS / name, digest


def is_repo_id(source: str) -> bool:
    """Whether a source reads like ``owner/name``."""
    return (
        bool(_REPO_ID.fullmatch(source))
        and ".." not in source
        and not source.endswith(WEIGHT_SUFFIXES)
    )


def hub_address(source: str) -> Address | None:
    """Where ``load_model`` would look on the Hub; None for paths, bundled names and the rest."""
    if not source.strip() or "\0" in source or Path(source).expanduser().exists():
        return None
    return named_address(source)


def named_address(source: str) -> Address | None:
    """Where on the Hub a source would be, going by its text alone.

    Nothing of this machine is looked at but the manifest: what strangers name must not show which
    files there are.
    """
    entry = entry_of(source)
    if not entry:
        return Address(source) if is_repo_id(source) else None
    if entry.get("file") or not entry.get("hub"):
        return None
    return Address(str(entry["hub"]), entry.get("hub_file"), entry.get("revision"))
