"""Read named tensors from a file of any kind.

Its first bytes decide the kind, and it is opened once, so what was checked is read. PyTorch files
go through ``torch.load(weights_only=True)`` after a check of CRCs and of the names in their pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import re
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from mask2kan.checkpoints.pickles import as_array, globals_in, read_pickle, refusal
from mask2kan.errors import CheckpointError, one_line
from mask2kan.media.files import parse_object

MAX_BYTES = 16 * 2**30
MAX_HEADER = 50_000_000
MAX_JSON = 20_000_000
MAX_TENSORS = 50_000
SHA256 = re.compile("[0-9a-f]{64}")

_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled magic number
_PICKLE = re.compile(rb"\x80[\x00-\x05]|[(}\]]|c[\w.]+\r?\n\w+\r?\n")
# How torch names what its weights_only mode does not allow
_REFUSED_NAME = re.compile(r"(?:GLOBAL|class) `?(\w+(?:\.\w+)+)")
_TENSOR_MODULES = (
    "torch",
    "torch._utils",
    "torch.storage",
    "torch.serialization",
    "torch.nn.parameter",
    "torch._tensor",
)
_WRAPPERS = ("model", "state_dict", "model_state_dict")


@dataclasses.dataclass
class Contents:
    """Tensors by name, all dense, floating point ones in float32; and metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


def read_file(path: Path, origin: str, sha256: str | None = None) -> Contents:
    """Read a checkpoint file of any kind.

    ``origin`` is the user's name for it, for messages; ``sha256`` its expected digest.

    Raises:
        CheckpointError: one line that says what is wrong with the file.
    """
    try:
        return _read_regular(path, sha256)
    except CheckpointError as error:
        raise CheckpointError(f"Can't load {origin}. {error}") from error
    except OSError as error:
        raise CheckpointError(f"Can't read {origin}: {error.strerror or error}.") from error
    except MemoryError as error:
        raise CheckpointError(
            f"Can't load {origin}: it needs more memory than there is."
        ) from error


def _read_regular(path: Path, sha256: str | None) -> Contents:
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
        return _read(file, size)


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


def _read(file: BinaryIO, size: int) -> Contents:
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
    if head.startswith(b"PK"):
        return Contents(_dense(_state_dict(_read_torch_zip(file, size))))
    if head.startswith(_LEGACY_TORCH):
        return Contents(_dense(_state_dict(_torch_load(file))))
    if head[8:9] == b"{":
        return _read_safetensors(file.read(), size)
    if _PICKLE.match(head):
        return Contents(_dense(_state_dict(read_pickle(file.read()))))
    raise CheckpointError(
        "It is neither a safetensors nor a PyTorch file nor a detectron2 pickle, or its start "
        "is damaged."
    )


def _read_safetensors(data: bytes, size: int) -> Contents:
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
    return Contents(_dense(tensors), metadata)


def _read_torch_zip(file: BinaryIO, size: int) -> Any:
    """Check the archive and its pickle, then let torch load them."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise CheckpointError("Refused: its zip is compressed, which PyTorch's never are.")
            if sum(entry.file_size for entry in entries) > size:
                raise CheckpointError("Refused: its zip's entries overlap.")
            if any(".." in entry.filename or entry.filename[:1] in "/\\" for entry in entries):
                raise CheckpointError("Refused: its zip has an entry outside its own folder.")
            programs = [entry for entry in entries if entry.filename.endswith("data.pkl")]
            if len(programs) != 1:
                raise CheckpointError("It is a zip archive, but none that torch.save wrote.")
            damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(
                    f"Damaged: the CRC of {damaged[:80]} differs; download it again."
                )
            _require_no_code(archive.read(programs[0]))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"Damaged or truncated PyTorch file ({str(error)[:80]}); download it again."
        ) from error
    file.seek(0)
    return _torch_load(file)


def _require_no_code(data: bytes) -> None:
    """Refuse in a line what ``weights_only`` would refuse with a page of advice."""
    for name in globals_in(data):
        module, _, attribute = name.rpartition(".")
        plain = (module, attribute) in (("collections", "OrderedDict"), ("_codecs", "encode"))
        if not plain and module not in _TENSOR_MODULES:
            raise refusal(name)


def _torch_load(file: BinaryIO) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _REFUSED_NAME.search(str(error))
        if named:
            raise refusal(named[1]) from error
        raise CheckpointError(
            "Refused or damaged: PyTorch reads only tensors, numbers, text and containers from it."
        ) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file may fail in any way
        raise CheckpointError(f"Damaged or truncated PyTorch file ({one_line(error)}).") from error


def _state_dict(loaded: Any) -> dict[str, Any]:
    """Find the table of weights: itself, or under one of ``_WRAPPERS``."""
    if not isinstance(loaded, dict):
        raise CheckpointError(f"It holds a {type(loaded).__name__}, not a table of weights.")
    tables = (loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict))
    loaded = next(tables, loaded)
    if len(loaded) > MAX_TENSORS:
        raise CheckpointError(f"It has {len(loaded):,} entries; up to {MAX_TENSORS:,} are read.")
    # DataParallel's models say "module." before every key
    wrapped = all(str(key).startswith("module.") for key in loaded)
    return {str(key)[len("module.") if wrapped else 0 :]: value for key, value in loaded.items()}


def _dense(values: dict[str, Any]) -> dict[str, Tensor]:
    """Refuse all but ordinary tensors and arrays; convert floating point ones to float32."""
    tensors = {}
    for key, value in values.items():
        array = as_array(value)
        if array is not None:
            native = array.astype(array.dtype.newbyteorder("="), order="C")  # a writable copy
            try:
                value = torch.from_numpy(native)
            except TypeError as error:
                raise CheckpointError(f"Its array {key[:80]!r} has type {native.dtype}.") from error
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"Its entry {key[:80]!r} is a {type(value).__name__}; a tensor was expected."
            )
        if value.layout != torch.strided or value.is_complex() or value.is_quantized:
            raise CheckpointError(f"Its tensor {key[:80]!r} is sparse, complex or quantized.")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"Its tensor {key[:80]!r} claims shape {tuple(value.shape)}, more than is stored."
            )
        tensors[key] = value.detach().float() if value.is_floating_point() else value.detach()
    if not tensors:
        raise CheckpointError("It holds no tensors.")
    return tensors
