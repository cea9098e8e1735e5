"""numpy's arrays in a pickle: stand-ins for its constructors, which check every size.

The numbers of a large array stay in the file until they are read.
"""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.checkpoints.files.opened import Extent
from mask2kan.checkpoints.files.stand_ins import Inert, Symbol, Symbols
from mask2kan.errors import CheckpointError

MAX_DIMENSIONS = 8
_KINDS = "biuf"
_LARGEST_ITEM = 8  # torch has no longer numbers


@dataclasses.dataclass
class Piece:
    """Bytes that a pickle leaves in its file; ``text``: each as a character, in UTF-8."""

    extent: Extent
    text: bool = False


@dataclasses.dataclass(eq=False)
class StoredArray:
    """An array's numbers, in the order ``C`` or ``F``, and how they read."""

    data: bytes | bytearray | Piece
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Any

    def numbers(self) -> NDArray[Any]:
        """Read them, into memory of their own.

        Raises:
            CheckpointError: when the file has another number of bytes.
        """
        raw = np.frombuffer(self._bytes(), np.uint8)
        expected = self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))
        if len(raw) != expected:
            raise CheckpointError(f"Damaged: an array has {len(raw):,} bytes of {expected:,}.")
        numbers: NDArray[Any] = raw.view(self.dtype).reshape(self.shape, order=self.order)
        return numbers.astype(self.dtype.newbyteorder("="), order="C", copy=False)

    def _bytes(self) -> bytearray:
        if not isinstance(self.data, Piece):
            return bytearray(self.data)
        raw = self.data.extent.read()
        if not self.data.text:
            return raw
        try:
            return bytearray(raw.decode("utf-8", "surrogatepass").encode("latin1"))
        except UnicodeError as error:
            raise CheckpointError("Damaged: an array has bytes that are none.") from error

    def read(self) -> Tensor:
        """Read it as a tensor, into memory of its own."""
        return torch.from_numpy(self.numbers())


class DType:
    """Stand-in for numpy.dtype: None but for numbers and booleans that torch has."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str):
            raise pickle.UnpicklingError("dtype code is no string")
        dtype = np.dtype(code) if len(code) <= 3 and code[:1] in _KINDS else None
        self.dtype = dtype if dtype is not None and dtype.itemsize <= _LARGEST_ITEM else None

    def __setstate__(self, state: Any) -> None:
        if self.dtype is None:
            return
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("dtype has no byte order")
        self.dtype = self.dtype.newbyteorder(">" if order == ">" else "<")


class Array:
    """Stand-in for numpy.ndarray, filled by BUILD; None where it holds something else."""

    __slots__ = ("stored",)

    def __init__(self, stored: StoredArray | None = None) -> None:
        self.stored = stored

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("array state has not five parts")
        _, shape, dtype, fortran, data = state
        self.stored = _stored(data, dtype, shape, "F" if fortran else "C")


def _stored(data: Any, dtype: Any, shape: Any, order: Any) -> StoredArray | None:
    """Take raw bytes whose type, shape and length agree; None for other types."""
    data = data.encode("latin1") if isinstance(data, str) else data
    if isinstance(dtype, DType) and dtype.dtype is None:
        return None
    if not isinstance(dtype, DType) or not isinstance(data, (bytes, bytearray, Piece)):
        raise pickle.UnpicklingError("array without numbers")
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or order not in ("C", "F"):
        raise pickle.UnpicklingError("array of an odd shape")
    assert dtype.dtype is not None
    expected = dtype.dtype.itemsize
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**48:
            raise pickle.UnpicklingError("array size is not a count")
        expected *= size
    held = data.extent.size if isinstance(data, Piece) else len(data)
    # In UTF-8 a byte takes one or two; which of them is seen when it is read
    if held != expected and not (isinstance(data, Piece) and data.text and held > expected):
        raise pickle.UnpicklingError(f"array of shape {shape} needs {expected} bytes, has {held}")
    return StoredArray(data, dtype.dtype, shape, order)


def as_array(value: Any) -> NDArray[Any] | None:
    """Return the array of numbers behind a value of ``read_pickle``; None if it is no such."""
    return value.stored.numbers() if isinstance(value, Array) and value.stored else None


def _reconstruct(*_: Any) -> Array:
    return Array()


def _scalar(dtype: Any, data: Any) -> Any:
    stored = _stored(data, dtype, (), "C")
    return Inert() if stored is None else stored.numbers().item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    return Array(_stored(data, dtype, shape, order))


def _encode(text: Any, encoding: Any = "latin1") -> bytes | Piece:
    """``codecs.encode``, by which protocols before 3 write bytes."""
    if encoding in ("latin1", "latin-1"):
        if isinstance(text, str):
            return text.encode("latin1")
        if isinstance(text, Piece) and text.text:
            return text
    raise pickle.UnpicklingError("encode of something else than text")


SYMBOLS: Symbols = {
    ("_codecs", "encode"): Symbol(_encode),
    ("numpy", "ndarray"): Symbol(_reconstruct),
    ("numpy", "dtype"): Symbol(DType),
    **{
        (f"{core}.{module}", name): Symbol(call)
        for core in ("numpy.core", "numpy._core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
