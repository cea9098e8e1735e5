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
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mask2kan.checkpoints.files.pickles import Inert, Symbol, Symbols, unpickle
from mask2kan.errors import CheckpointError

LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled magic number

Read = Callable[[], bytes]

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
    """Numbers in the file: ``read`` gives their bytes."""

    dtype: torch.dtype
    count: int
    read: Read

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclasses.dataclass
class StoredTensor:
    """A tensor that is still in the file, which must be open when it is read."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> Tensor:
        """Read it.

        Raises:
            CheckpointError: when it claims more than is stored, or its CRC differs.
        """
        held = self.storage.bytes // self.dtype.itemsize
        if math.prod(self.shape) > held:
            raise CheckpointError(f"claims shape {self.shape}, more than is stored")
        last = self.offset + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        if 0 in self.shape:
            return torch.zeros(self.shape, dtype=self.dtype)
        if last >= held:
            raise CheckpointError("reaches beyond what is stored")
        data = bytearray(self.storage.read())
        if len(data) != self.storage.bytes:
            raise CheckpointError(f"has {len(data):,} bytes of {self.storage.bytes:,}")
        flat = torch.frombuffer(data, dtype=self.dtype)
        return flat.as_strided(self.shape, self.strides, self.offset).contiguous()


@dataclasses.dataclass
class OddTensor:
    """A tensor of a kind that no model here has."""

    kind: str


def read_torch_zip(file: BinaryIO, size: int) -> Any:
    """Read the archive that ``torch.save`` writes; its tensors are ``StoredTensor``.

    Raises:
        CheckpointError: for damage, code, or an archive that it never writes.
    """
    try:
        archive = zipfile.ZipFile(file)
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
        program = programs[0]
        folder = program.filename.removesuffix("data.pkl")
        names = {entry.filename for entry in entries}
        order = f"{folder}byteorder"
        if order in names and _entry(archive, order) != b"little":
            raise CheckpointError("It was written on a big-endian machine; convert it there.")
        data = _entry(archive, program.filename)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise _damaged(error) from error

    def storage(identifier: Any) -> _Storage:
        dtype, key, count = _storage_id(identifier)
        name = f"{folder}data/{key}"
        if name not in names:
            raise pickle.UnpicklingError(f"no storage {key[:40]!r}")
        return _Storage(dtype, count, lambda: _entry(archive, name))

    return unpickle(io.BytesIO(data), _SYMBOLS, storage)


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read one entry; its CRC is checked on the way."""
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError) as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"Damaged or truncated PyTorch file ({str(error)[:80]}); download it again."
    )


def read_legacy(file: BinaryIO, size: int) -> Any:
    """Read a file of torch before 1.6: pickles in a row, then the storages.

    Raises:
        CheckpointError: for damage or code.
    """
    storages: dict[str, _Storage] = {}

    def storage(identifier: Any) -> _Storage:
        dtype, key, count = _storage_id(identifier)
        return storages.setdefault(key, _Storage(dtype, count, _unread))

    for _ in range(3):  # a magic number, the format's, and the machine
        system = unpickle(file)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError("It was written on a big-endian machine; convert it there.")
    loaded = unpickle(file, _SYMBOLS, storage)
    keys = unpickle(file)
    if not isinstance(keys, list):
        raise CheckpointError("Damaged PyTorch file: it lists no storages.")
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise CheckpointError("Damaged PyTorch file: it has a storage that nothing uses.")
        count = int.from_bytes(file.read(8), "little")
        start, held = file.tell(), storages[key]
        if count != held.count or start + held.bytes > size:
            raise CheckpointError(
                f"Damaged or truncated PyTorch file: its storage {key[:40]} has {count} numbers "
                f"of {held.count}; download it again."
            )
        held.read = _part(file, start, held.bytes)
        file.seek(start + held.bytes)
    return loaded


def _unread() -> bytes:
    raise CheckpointError("is not in the file")


def _part(file: BinaryIO, start: int, count: int) -> Read:
    def read() -> bytes:
        file.seek(start)
        return file.read(count)

    return read


def _storage_id(identifier: Any) -> tuple[torch.dtype, str, int]:
    """Check a persistent id: ("storage", type, key, device, count, …)."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
        raise pickle.UnpicklingError("a persistent id that is no storage's")
    word, kind, key, _, count, *view = identifier
    if word != "storage" or not isinstance(kind, _StorageType) or view not in ([], [None]):
        raise pickle.UnpicklingError("a persistent id that is no storage's")
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise pickle.UnpicklingError("a storage without a key or a count")
    return kind.dtype, key, count


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
    numbers = (offset, *shape, *strides) if _tuples(shape, strides) else (None,)
    if len(shape) != len(strides) or len(shape) > 16:
        raise pickle.UnpicklingError("a tensor of an odd shape")
    if any(type(number) is not int or not 0 <= number < 2**48 for number in numbers):
        raise pickle.UnpicklingError("a tensor whose sizes are no counts")
    named = [value.dtype for value in more if isinstance(value, _DType)]
    return StoredTensor(storage, named[0] if named else storage.dtype, offset, shape, strides)


def _tuples(*values: Any) -> bool:
    return all(isinstance(value, tuple) for value in values)


def _parameter(data: Any, *_: Any) -> Any:
    if not isinstance(data, (StoredTensor, OddTensor)):
        raise pickle.UnpicklingError("a parameter without a tensor")
    return data


def _typed(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """``_rebuild_from_type_v2``: a tensor with attributes, which are dropped."""
    if not isinstance(function, Symbol) or not isinstance(arguments, tuple):
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


def read_plain_pickle(data: bytes) -> Any:
    """Read a pickle that is no PyTorch file.

    Raises:
        CheckpointError: for code, damage, or tensors in it.
    """
    return unpickle(io.BytesIO(data), _SYMBOLS)


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
    ("torch._utils", "_rebuild_tensor"): Symbol(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Symbol(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Symbol(_tensor),
    ("torch._utils", "_rebuild_parameter"): Symbol(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Symbol(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Symbol(_typed),
    # of a plain pickle.dump, whose tensors are files inside the file
    ("torch.storage", "_load_from_bytes"): Symbol(_by_pickle_dump),
    ("torch._utils", "_rebuild_sparse_tensor"): _odd("sparse"),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): _odd("sparse"),
    ("torch._utils", "_rebuild_qtensor"): _odd("quantized"),
    ("torch._utils", "_rebuild_nested_tensor"): _odd("nested"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _odd("without its values"),
}
