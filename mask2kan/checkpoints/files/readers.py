"""Read named tensors from a file of any kind.

Its first bytes decide the kind, and it is opened once, so what was checked is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mask2kan.checkpoints.files.arrays import Array
from mask2kan.checkpoints.files.opened import Extent, OpenedFile, open_file
from mask2kan.checkpoints.files.safetensors_files import read_safetensors
from mask2kan.checkpoints.files.stored import Stored, StoredTensor
from mask2kan.checkpoints.files.torch_files import (
    LEGACY_START,
    OddTensor,
    read_legacy,
    read_plain_pickle,
    read_torch_zip,
)
from mask2kan.checkpoints.files.weight_sets import choose, plain
from mask2kan.errors import CheckpointError

METADATA_KEY = "mask2kan"  # in the metadata of our own files
TRUNK_KEY = "mask2kan_trunk"  # of a file that holds a trunk alone
DIGEST_KEY = "sha256"  # beside these: of all the file's weights

_PICKLE = re.compile(rb"\x80[\x00-\x05]|[(}\]]|c[\w.]+\r?\n\w+\r?\n")


@dataclasses.dataclass
class Contents:
    """One model's weights, and what else a file says about them.

    Attributes:
        tensors: by name, all dense; still in their files.
        files: which they are in.
        metadata: of a safetensors file.
        layout: whose names these are; a key of ``LAYOUTS``, or "".
        notes: what a user should know about how the weights were found.
        classes: the names of its classes as it says them, any text and any number; or none.
    """

    tensors: dict[str, Stored]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    layout: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)
    classes: tuple[str, ...] = ()
    files: list[OpenedFile] = dataclasses.field(default_factory=list)


Find = Callable[[Any], Contents]  # of all that a file held


def read_file(
    path: Path,
    origin: str,
    sha256: str | None = None,
    *,
    weights: str | None = None,
    whole: bool = False,
) -> Contents:
    """Read a checkpoint file of any kind.

    Args:
        path: the file.
        origin: the user's name for it, for messages.
        sha256: its expected digest.
        weights: which of several sets of weights, by its name; see ``weight_sets.choose``.
        whole: read everything, as of a file that is a part of a checkpoint.

    Raises:
        CheckpointError: one line that says what is wrong with the file.
    """
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_file(path))
            contents = _read(file, sha256, lambda loaded: _chosen(loaded, weights, whole))
            stack.pop_all()  # it stays open
            return dataclasses.replace(contents, files=[file])
    except CheckpointError as error:
        raise CheckpointError(f"Can't load {origin}. {error}") from error
    except OSError as error:
        raise CheckpointError(f"Can't read {origin}: {error.strerror or error}.") from error
    except MemoryError as error:
        raise CheckpointError(
            f"Can't load {origin}: it needs more memory than there is."
        ) from error


def _read(file: OpenedFile, sha256: str | None, find: Find) -> Contents:
    if file.size == 0:
        raise CheckpointError("It is empty (0 bytes); download or copy it again.")
    if sha256 is not None:
        _require_digest("sha256", file.sha256(), sha256.lower())
    head = bytes(Extent(file, 0, min(512, file.size)).read())
    file.seek(0)
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "It is a Git LFS pointer, not the file itself; run `git lfs pull` or download it."
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError("It is a web page, not a checkpoint; the download link was wrong.")
    # first of all: the length of a header, with which such a file starts, may read "PK"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= file.size - 8:
        return _safetensors(file, sha256, find)
    if head.startswith(b"PK"):
        return find(read_torch_zip(file))
    if head.startswith(LEGACY_START):
        return find(read_legacy(file))
    if head[8:9] == b"{":
        return _safetensors(file, sha256, find)
    if _PICKLE.match(head):
        return find(read_plain_pickle(file))
    raise CheckpointError(
        "It is neither a safetensors nor a PyTorch file nor a detectron2 pickle, or its start "
        "is damaged."
    )


def _safetensors(file: OpenedFile, sha256: str | None, find: Find) -> Contents:
    tensors, metadata, start = read_safetensors(file)
    if not metadata.keys() & {METADATA_KEY, TRUNK_KEY}:
        return dataclasses.replace(find(tensors), metadata=metadata)
    expected = metadata.get(DIGEST_KEY)  # older files have none
    if expected is not None and sha256 is None:
        _require_digest("sha256 of its weights", file.sha256(start), expected)
    return Contents(_dense(tensors), metadata)


def _require_digest(name: str, digest: str, expected: str) -> None:
    if digest != expected:
        raise CheckpointError(
            f"Damaged: {name} differs ({digest[:12]}… instead of {expected[:12]}…); download or "
            "copy it again."
        )


def _chosen(loaded: Any, weights: str | None, whole: bool) -> Contents:
    """Choose the weights among all that a file held, and read them."""
    found = plain(loaded) if whole else choose(loaded, weights)
    return Contents(
        _dense(found.entries), layout=found.layout, notes=found.notes, classes=_classes(loaded)
    )


def _classes(loaded: Any) -> tuple[str, ...]:
    """Read the class names that mmsegmentation writes beside the weights; none elsewhere."""
    meta = loaded.get("meta") if isinstance(loaded, dict) else None
    about = meta.get("dataset_meta", meta) if isinstance(meta, dict) else None
    names = (about.get("classes") or about.get("CLASSES")) if isinstance(about, dict) else None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def _dense(values: dict[str, Any]) -> dict[str, Stored]:
    """Refuse all but ordinary tensors and arrays, without reading them."""
    if not values:
        raise CheckpointError("It holds no tensors.")
    return {key: _stored(key, value) for key, value in values.items()}


def _stored(key: str, value: Any) -> Stored:
    if isinstance(value, Array):
        if value.stored is None:
            raise CheckpointError(f"Its array {key[:80]!r} holds no numbers that torch has.")
        return value.stored
    if isinstance(value, OddTensor):
        raise CheckpointError(f"Its tensor {key[:80]!r} is {value.kind}.")
    if not isinstance(value, StoredTensor):
        raise CheckpointError(
            f"Its entry {key[:80]!r} is a {type(value).__name__}; a tensor was expected."
        )
    try:
        value.require_stored()
    except CheckpointError as error:
        raise CheckpointError(f"Its tensor {key[:80]!r} {error}.") from error
    return value
