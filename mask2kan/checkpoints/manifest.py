"""The names in ``weights/manifest.json``: bundled files, and addresses on the Hugging Face Hub.

All functions that read it raise ``CheckpointError`` when it is damaged.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mask2kan.checkpoints.files.json_files import read_json
from mask2kan.checkpoints.files.opened import SHA256
from mask2kan.checkpoints.files.parts import WEIGHT_SUFFIXES
from mask2kan.errors import CheckpointError

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "weights"  # in a wheel; in a checkout they lie beside the package
WEIGHTS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "weights"

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")  # a branch or a tag can be moved to other weights


class Address(NamedTuple):
    """A checkpoint's place on the Hub, as ``hub.fetch`` takes it."""

    repo: str
    file: str | None = None
    revision: str | None = None


def manifest() -> list[dict[str, Any]]:
    """Read the entries of ``weights/manifest.json``; none where there is no such file."""
    entries = read_json(WEIGHTS / "manifest.json").get("weights", [])
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise CheckpointError("weights/manifest.json is no list of named entries.")
    for entry in entries:
        if not _COMMIT.fullmatch(str(entry.get("revision", "0" * 40))):
            raise CheckpointError(
                f"weights/manifest.json: the revision of {entry['name']} is no commit of 40 digits."
            )
    return entries


def entry_of(name: str) -> dict[str, Any]:
    """Look up a name's entry; empty where there is none."""
    return next((entry for entry in manifest() if entry["name"] == name), {})


def list_weights(bundled_only: bool = False) -> list[str]:
    """List the names ``load_model`` takes; ``bundled_only`` leaves out those to download."""
    return [entry["name"] for entry in manifest() if entry.get("file") or not bundled_only]


def bundled_file(entry: dict[str, Any]) -> tuple[Path, str]:
    """Return a bundled checkpoint's file and its SHA-256.

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
    plain = ".." not in source and not source.endswith(WEIGHT_SUFFIXES)
    return plain and bool(_REPO_ID.fullmatch(source))


def hub_address(source: str) -> Address | None:
    """Return the Hub address that ``load_model`` would take, if any."""
    if not source.strip() or "\0" in source or Path(source).expanduser().exists():
        return None
    return named_address(source)


def named_address(source: str) -> Address | None:
    """Return a source's Hub address, by its text and the manifest alone.

    No path is tried: names from strangers must not show which files this machine has.
    """
    entry = entry_of(source)
    if not entry:
        return Address(source) if is_repo_id(source) else None
    if entry.get("file") or not entry.get("hub"):
        return None
    return Address(str(entry["hub"]), entry.get("hub_file"), entry.get("revision"))
