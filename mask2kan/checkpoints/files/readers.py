"""Read named tensors from a file of any kind.

Its first bytes decide the kind, and it is opened once, so what was checked is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from mask2kan.checkpoints.files.pickles import Array, as_array
from mask2kan.checkpoints.files.torch_files import (
    LEGACY_START,
    OddTensor,
    StoredTensor,
    read_legacy,
    read_plain_pickle,
    read_torch_zip,
)
from mask2kan.checkpoints.files.weight_sets import MAX_TENSORS, choose, plain
from mask2kan.errors import CheckpointError, one_line
from mask2kan.media.files import parse_object

MAX_BYTES = 16 * 2**30
MAX_HEADER = 50_000_000
MAX_JSON = 20_000_000
METADATA_KEY = "mask2kan"  # in the metadata of our own files
TRUNK_KEY = "mask2kan_trunk"  # of a file that holds a trunk alone
SHA256 = re.compile("[0-9a-f]{64}")

_PICKLE = re.compile(rb"\x80[\x00-\x05]|[(}\]]|c[\w.]+\r?\n\w+\r?\n")


@dataclasses.dataclass
class Contents:
    """One model's weights, and what else a file says about them.

    Attributes:
        tensors: by name, all dense, floating point ones in float32.
        metadata: of a safetensors file.
        layout: whose names these are; a key of ``LAYOUTS``, or "".
        notes: what a user should know about how the weights were found.
        classes: the names of its classes, where it says them.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    layout: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)
    classes: tuple[str, ...] = ()


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
        return _read_regular(path, sha256, lambda loaded: _chosen(loaded, weights, whole))
    except CheckpointError as error:
        raise CheckpointError(f"Can't load {origin}. {error}") from error
    except OSError as error:
        raise CheckpointError(f"Can't read {origin}: {error.strerror or error}.") from error
    except MemoryError as error:
        raise CheckpointError(
            f"Can't load {origin}: it needs more memory than there is."
        ) from error


def _read_regular(path: Path, sha256: str | None, find: Find) -> Contents:
    if path.is_dir():
        raise CheckpointError("It is a folder, and a file was expected.")
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device might never end
        raise CheckpointError("It is no regular file.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"It has {size:,} bytes; up to {MAX_BYTES:,} are read.")
        if sha256 is not None and (digest := _digest(file)) != sha256.lower():
            raise CheckpointError(
                f"Damaged: sha256 differs ({digest[:12]}… instead of {sha256[:12]}…). "
                "Download the file again."
            )
        return _read(file, size, find)


def sha256_of(path: Path) -> str:
    """Compute a file's sha256 in hexadecimal digits."""
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object beside a checkpoint; empty when there is no such file.

    Raises:
        CheckpointError: when it is there and no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path.name} has over {MAX_JSON:,} bytes.")
        return parse_json(path.read_bytes(), path.name)
    except OSError as error:
        raise CheckpointError(f"Can't read {path}: {error.strerror or error}.") from error


def parse_json(data: bytes | str, name: str) -> dict[str, Any]:
    """Parse a JSON object as ``parse_object`` does.

    Raises:
        CheckpointError: for anything else, with the ``name`` of the text.
    """
    try:
        return parse_object(data)
    except ValueError as error:
        raise CheckpointError(f"Its {name} is no valid JSON ({str(error)[:80]}).") from error


def _read(file: BinaryIO, size: int, find: Find) -> Contents:
    if size == 0:
        raise CheckpointError("It is empty (0 bytes); download or copy it again.")
    head = file.read(512)
    file.seek(0)
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "It is a Git LFS pointer, not the file itself; run `git lfs pull` or download it."
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError("It is a web page, not a checkpoint; the download link was wrong.")
    # first of all: the length of a header, with which such a file starts, may read "PK"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return _read_safetensors(file.read(), size, find)
    if head.startswith(b"PK"):
        return find(read_torch_zip(file, size))
    if head.startswith(LEGACY_START):
        return find(read_legacy(file, size))
    if head[8:9] == b"{":
        return _read_safetensors(file.read(), size, find)
    if _PICKLE.match(head):
        return find(read_plain_pickle(file.read()))
    raise CheckpointError(
        "It is neither a safetensors nor a PyTorch file nor a detectron2 pickle, or its start "
        "is damaged."
    )


def _read_safetensors(data: bytes, size: int, find: Find) -> Contents:
    length = int.from_bytes(data[:8], "little")
    if length > min(size - 8, MAX_HEADER):
        raise CheckpointError(
            f"Damaged: its safetensors header claims {length:,} bytes in a file of {size:,}."
        )
    header = parse_json(data[8 : 8 + length], "safetensors header")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("Damaged: its safetensors metadata is not a table of text.")
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"It has {len(header):,} tensors; up to {MAX_TENSORS:,} are read.")
    try:
        tensors = load_safetensors(data)
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Damaged or truncated safetensors file ({one_line(error)})."
        ) from error
    if metadata.keys() & {METADATA_KEY, TRUNK_KEY}:
        return Contents(_dense(tensors), metadata)
    return dataclasses.replace(find(tensors), metadata=metadata)


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


def _dense(values: dict[str, Any]) -> dict[str, Tensor]:
    """Refuse all but ordinary tensors and arrays; convert floating point ones to float32."""
    tensors = {}
    for key, value in values.items():
        tensor = _tensor(key, value)
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise CheckpointError(f"Its tensor {key[:80]!r} is sparse, complex or quantized.")
        tensors[key] = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    if not tensors:
        raise CheckpointError("It holds no tensors.")
    return tensors


def _tensor(key: str, value: Any) -> Tensor:
    array = as_array(value)
    if isinstance(value, Array) and array is None:
        raise CheckpointError(f"Its array {key[:80]!r} holds no numbers.")
    if array is not None:
        native = array.astype(array.dtype.newbyteorder("="), order="C")  # a writable copy
        try:
            return torch.from_numpy(native)
        except TypeError as error:
            raise CheckpointError(f"Its array {key[:80]!r} has type {native.dtype}.") from error
    if isinstance(value, OddTensor):
        raise CheckpointError(f"Its tensor {key[:80]!r} is {value.kind}.")
    if isinstance(value, StoredTensor):
        try:
            return value.read()
        except CheckpointError as error:
            said = str(error)
            raise CheckpointError(
                said if said[0].isupper() else f"Its tensor {key[:80]!r} {said}."
            ) from error
    if not isinstance(value, Tensor):
        raise CheckpointError(
            f"Its entry {key[:80]!r} is a {type(value).__name__}; a tensor was expected."
        )
    return value
