"""Read what ``torch.save`` wrote, zip archives and the format from before 1.6, running nothing.

The pickle inside goes through ``pickles.unpickle``, not through ``torch.load``: even with
``weights_only`` that one hashes dictionary keys of any depth, and a nested one overflows the C
stack. Tensors stay in the file until they are asked for, so the states of an optimiser cost
neither time nor memory.

Source of the formats: ``torch/serialization.py``.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import zipfile
from typing import Any

import torch

from mask2kan.checkpoints.files.opened import Extent, OpenedFile
from mask2kan.checkpoints.files.pickles import unpickle
from mask2kan.checkpoints.files.stand_ins import Inert, Symbol, Symbols
from mask2kan.checkpoints.files.stored import StoredTensor
from mask2kan.errors import CheckpointError

MAX_ENTRIES = 100_000  # of an archive: a model's tensors and an optimiser's
MAX_COUNT = 2**48  # of numbers in a storage or a tensor; no file has as many bytes
_LONGEST_KEY = 200  # of a storage; torch writes a number
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled magic number

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
    # quantized numbers, which are refused where they are needed
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}


@dataclasses.dataclass
class _Storage:
    """Numbers in the file, with the type their name says."""

    dtype: torch.dtype
    extent: Extent


@dataclasses.dataclass
class OddTensor:
    """A tensor of a kind that no model here has."""

    kind: str


def read_torch_zip(file: OpenedFile) -> Any:
    """Read the archive that ``torch.save`` writes; its tensors are ``StoredTensor``.

    Raises:
        CheckpointError: for damage, code, or an archive that it never writes.
    """
    try:
        entries = zipfile.ZipFile(file).infolist()
        _require_plain(entries, file.size)
        programs = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(programs) != 1:
            raise CheckpointError("It is a zip archive, but none that torch.save wrote.")
        folder = programs[0].filename.removesuffix("data.pkl")
        named = {entry.filename: entry for entry in entries}
        order = named.get(f"{folder}byteorder")
        if order is not None and _extent(file, order).read() != b"little":
            raise CheckpointError("It was written on a big-endian machine; convert it there.")
        program = _extent(file, programs[0])
        program.require_whole()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise _damaged(error) from error

    extents: dict[str, Extent] = {}  # one for all the tensors that share it

    def storage(identifier: Any) -> _Storage:
        dtype, key, count = _storage_id(identifier)
        if key not in extents:
            if (entry := named.get(f"{folder}data/{key}")) is None:
                raise pickle.UnpicklingError(f"no storage {key[:40]!r}")
            extents[key] = _extent(file, entry)
        if extents[key].size != count * dtype.itemsize:
            raise pickle.UnpicklingError(
                f"storage {key[:40]!r} has {extents[key].size:,} bytes of {count} {dtype}"
            )
        return _Storage(dtype, extents[key])

    return unpickle(io.BytesIO(program.read()), _SYMBOLS, storage)


def _require_plain(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse an archive that torch never writes."""
    if len(entries) > MAX_ENTRIES:
        raise CheckpointError(
            f"Its zip has {len(entries):,} entries; up to {MAX_ENTRIES:,} are read."
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError("Refused: its zip is compressed, which PyTorch's never are.")
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError("Refused: its zip's entries overlap.")
    if any(".." in entry.filename or entry.filename[:1] in "/\\" for entry in entries):
        raise CheckpointError("Refused: its zip has an entry outside its own folder.")


def _extent(file: OpenedFile, entry: zipfile.ZipInfo) -> Extent:
    """Find an entry's bytes, behind its own header: 30 bytes, its name and an extra field."""
    header = Extent(file, entry.header_offset, 30).read()
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    if header[:4] != b"PK\x03\x04" or start + entry.file_size > file.size:
        raise zipfile.BadZipFile(f"no entry {entry.filename[:40]!r} where its list says")
    return Extent(file, start, entry.file_size, entry.CRC)


def _damaged(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"Damaged or truncated PyTorch file ({str(error)[:80]}); download it again."
    )


def read_legacy(file: OpenedFile) -> Any:
    """Read a file of torch before 1.6: pickles in a row, then the storages.

    Raises:
        CheckpointError: for damage or code.
    """
    storages: dict[str, _Storage] = {}

    def storage(identifier: Any) -> _Storage:
        dtype, key, count = _storage_id(identifier)
        unread = Extent(file, 0, count * dtype.itemsize)  # where follows
        return storages.setdefault(key, _Storage(dtype, unread))

    for _ in range(3):  # a magic number, the format's, and the machine
        system = unpickle(file)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError("It was written on a big-endian machine; convert it there.")
    loaded = unpickle(file, _SYMBOLS, storage)
    keys = unpickle(file)
    if not isinstance(keys, list) or not all(map(_is_key, keys)):
        raise CheckpointError("Damaged PyTorch file: it lists no storages.")
    if sorted(keys) != sorted(storages):
        raise CheckpointError("Damaged PyTorch file: its storages are not those its tensors name.")
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        held = storages[key]
        extent, start = held.extent, file.tell()
        if count * held.dtype.itemsize != extent.size or start + extent.size > file.size:
            raise CheckpointError(
                f"Damaged or truncated PyTorch file: its storage {key[:40]!r} has {count:,} "
                f"numbers of {extent.size // held.dtype.itemsize:,}; download it again."
            )
        extent.start = start
        file.seek(start + extent.size)
    return loaded


def _storage_id(identifier: Any) -> tuple[torch.dtype, str, int]:
    """Check a persistent id: ("storage", type, key, device, count, …)."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
        raise pickle.UnpicklingError("a persistent id that is no storage's")
    word, kind, key, _, count, *view = identifier
    if word != "storage" or not isinstance(kind, _StorageType) or view not in ([], [None]):
        raise pickle.UnpicklingError("a persistent id that is no storage's")
    if not _is_key(key) or type(count) is not int or not 0 <= count < MAX_COUNT:
        raise pickle.UnpicklingError("a storage without a key or a count")
    return kind.dtype, key, count


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and len(key) <= _LONGEST_KEY


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class _DType:
    dtype: torch.dtype


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> StoredTensor:
    """``_rebuild_tensor``, ``_v2`` and ``_v3``, which names the dtype of an untyped storage."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    if not _tuples(shape, strides) or len(shape) != len(strides) or len(shape) > 16:
        raise pickle.UnpicklingError("a tensor of an odd shape")
    numbers = (offset, *shape, *strides)
    if any(type(number) is not int or not 0 <= number < MAX_COUNT for number in numbers):
        raise pickle.UnpicklingError("a tensor whose sizes are no counts")
    named = [value.dtype for value in more if isinstance(value, _DType)]
    dtype = named[0] if named else storage.dtype
    return StoredTensor(storage.extent, dtype, tuple(shape), offset, tuple(strides))


def _tuples(*values: Any) -> bool:
    return all(isinstance(value, tuple) for value in values)


def _parameter(data: Any, *_: Any) -> Any:
    if not isinstance(data, (StoredTensor, OddTensor)):
        raise pickle.UnpicklingError("a parameter without a tensor")
    return data


def _typed(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """``_rebuild_from_type_v2``: a tensor with attributes, which are dropped."""
    # Others copy their arguments, which lie too deep here to be counted
    if function not in _REBUILT.values() or not isinstance(arguments, tuple):
        raise pickle.UnpicklingError("a tensor that nothing makes")
    return function(*arguments)


def _by_pickle_dump(*_: Any) -> Any:
    raise CheckpointError(
        "It was written by pickle.dump, whose tensors are programs of their own; write it with "
        "torch.save, or as safetensors."
    )


def _odd(kind: str) -> Symbol:
    return Symbol(lambda *_: OddTensor(kind))


def _size(*values: Any) -> tuple[Any, ...]:
    return values[0] if values and isinstance(values[0], tuple) else ()


def read_plain_pickle(file: OpenedFile) -> Any:
    """Read a pickle that is no PyTorch file.

    Raises:
        CheckpointError: for code, damage, or tensors in it.
    """
    return unpickle(file, _SYMBOLS)


_REBUILT = {
    "_rebuild_tensor": Symbol(_tensor),
    "_rebuild_tensor_v2": Symbol(_tensor),
    "_rebuild_tensor_v3": Symbol(_tensor),
    "_rebuild_parameter": Symbol(_parameter),
    "_rebuild_parameter_with_state": Symbol(_parameter),
    "_rebuild_sparse_tensor": _odd("sparse"),
    "_rebuild_sparse_csr_tensor": _odd("sparse"),
    "_rebuild_qtensor": _odd("quantized"),
    "_rebuild_nested_tensor": _odd("nested"),
    "_rebuild_meta_tensor_no_storage": _odd("without its values"),
}
_FIRST_NAMES = ("float", "double", "half", "bfloat", "int", "uint", "long", "bool", "complex")
_SYMBOLS: Symbols = {
    **{
        (module, name): _StorageType(dtype)
        for name, dtype in _STORAGES.items()
        for module in ("torch", "torch.storage")
    },
    **{
        ("torch", name): _DType(value)
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype) and name.startswith(_FIRST_NAMES)
    },
    **{("torch", name): Inert() for name in vars(torch) if name.startswith("per_")},
    ("torch", "Size"): Symbol(_size),
    ("torch", "device"): Symbol(Inert),
    ("torch", "Tensor"): Symbol(Inert),
    ("torch.nn.parameter", "Parameter"): Symbol(_parameter),
    ("torch.nn.parameter", "Buffer"): Symbol(_parameter),
    ("torch.serialization", "_get_layout"): Symbol(Inert),
    **{("torch._utils", name): call for name, call in _REBUILT.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): Symbol(_typed),
    # of a plain pickle.dump, whose tensors are files inside the file
    ("torch.storage", "_load_from_bytes"): Symbol(_by_pickle_dump),
}
