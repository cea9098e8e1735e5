"""Read safetensors files: a JSON header, then the numbers of all tensors without gaps.

The library's own readers either copy a whole file in memory, twice, or open it by its name again
and map it. Source of the format: huggingface/safetensors, README.md.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from mask2kan.checkpoints.files.json_files import parse_json
from mask2kan.checkpoints.files.opened import Extent, OpenedFile, open_file
from mask2kan.checkpoints.files.stored import LONGEST_KEY, StoredTensor
from mask2kan.checkpoints.files.weight_sets import MAX_TENSORS
from mask2kan.errors import CheckpointError

MAX_HEADER = 4_000_000  # bytes; a tensor takes about 150

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(file: OpenedFile) -> tuple[dict[str, StoredTensor], dict[str, str], int]:
    """Read a file's header.

    Returns:
        Its tensors, which stay in the file; its metadata; where its numbers begin.

    Raises:
        CheckpointError: for damage, or more than a checkpoint has.
    """
    header, start = _header(file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("Damaged: its safetensors metadata is not a table of text.")
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"It has {len(header):,} tensors; up to {MAX_TENSORS:,} are read.")
    if any(len(key) > LONGEST_KEY for key in header):
        raise CheckpointError(
            f"A tensor of it has a name of over {LONGEST_KEY:,} characters; no model's has."
        )
    tensors = {key: _tensor(file, start, key, entry) for key, entry in header.items()}
    _require_gapless(tensors, start, file.size)
    return tensors, metadata, start


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file alone.

    Raises:
        CheckpointError: for what is no such file, or damaged.
        OSError: when it cannot be read.
    """
    with open_file(path) as file:
        return read_safetensors(file)[1]


def _header(file: OpenedFile) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(Extent(file, 0, min(8, file.size)).read(), "little")
    if length > file.size - 8:
        raise CheckpointError(
            f"Damaged: its safetensors header claims {length:,} bytes in a file of {file.size:,}."
        )
    if length > MAX_HEADER:
        raise CheckpointError(
            f"Its safetensors header has {length:,} bytes; up to {MAX_HEADER:,} are read."
        )
    return parse_json(Extent(file, 8, length).read(), "safetensors header"), 8 + length


def _tensor(file: OpenedFile, start: int, key: str, entry: Any) -> StoredTensor:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, place = (entry.get(name) for name in ("dtype", "shape", "data_offsets"))
    if not _are_counts(shape) or not _are_counts(place) or len(place) != 2 or len(shape) > 16:
        raise CheckpointError(f"Damaged: its header does not say where {key[:80]!r} is.")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(
            f"Its tensor {key[:80]!r} has type {dtype!s:.20}; {', '.join(_DTYPES)} are read."
        )
    begin, end = place
    if end - begin != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise CheckpointError(
            f"Damaged: its tensor {key[:80]!r} of shape {tuple(shape)!s:.80} has "
            f"{end - begin:,} bytes."
        )
    return StoredTensor(Extent(file, start + begin, end - begin), _DTYPES[dtype], tuple(shape))


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**48 for value in values
    )


def _require_gapless(tensors: dict[str, StoredTensor], start: int, size: int) -> None:
    """Refuse tensors that overlap, and bytes that belong to none."""
    extents = sorted((tensor.extent.start, tensor.extent.size) for tensor in tensors.values())
    for begin, count in extents:
        if begin != start:
            raise CheckpointError("Damaged: tensors of the safetensors file overlap or leave gaps.")
        start += count
    if start != size:
        raise CheckpointError(
            f"Damaged or truncated safetensors file: {size:,} bytes, and {start:,} were expected."
        )
