"""Read detectron2's ``.pkl`` checkpoints without running anything they contain.

A pickle is a program: one that names more than numpy's array constructors is refused, and the
pure-Python unpickler runs the others with inert stand-ins, which check sizes. Mutated files crash
the C unpickler and numpy's own constructors.

Source of the format: ``pickletools`` and numpy's ``ndarray.__reduce__``.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mask2kan.errors import CheckpointError, one_line

MAX_OPCODES = 500_000  # a checkpoint of 1,000 arrays has some 30,000
MAX_DIMENSIONS = 8

_REFUSED_OPCODES = {
    # objects of arbitrary classes
    *("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"),
    # things that live outside the file
    *("PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"),
    # hashing of nested values, which no checkpoint needs
    *("EMPTY_SET", "ADDITEMS", "FROZENSET"),
}
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING"}
_STRINGS.add("SHORT_BINSTRING")
_PLAIN_MODULES = {"posix": "os", "nt": "os", "__builtin__": "builtins"}


def refusal(name: str) -> CheckpointError:
    """Build the error for a pickle that would call ``name``."""
    module, _, attribute = name.rpartition(".")
    return CheckpointError(
        f"Refused: it contains code ({_PLAIN_MODULES.get(module, module)}.{attribute}). "
        "Ask its author for a safetensors file."
    )


def globals_in(data: bytes) -> Iterator[str]:
    """Yield every ``module.attribute`` a pickle names, without running it.

    Raises:
        CheckpointError: for a damaged pickle or too many opcodes.
    """
    for name, opcode in _walk(data):
        if name:
            yield name
        elif opcode == "STACK_GLOBAL":
            yield "an unnamed.object"


def _walk(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the imported name ("" for none) and the opcode's of every opcode."""
    strings: list[str] = []  # the last two pushed: the name that STACK_GLOBAL imports
    memo: dict[Any, str] = {}
    top = ""  # the string just pushed
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES:
                raise CheckpointError(
                    f"Refused: its pickle has over {MAX_OPCODES} opcodes; a checkpoint has fewer."
                )
            name = ""
            if opcode.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if argument is None else argument] = top
                yield name, opcode.name
                continue
            top = ""
            if opcode.name in _STRINGS:
                top = str(argument)
            elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
                top = memo.get(argument, "")
            elif opcode.name == "STACK_GLOBAL":
                name = ".".join(strings[-2:]) if len(strings) > 1 else ""
            elif opcode.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
            strings = [*strings[-1:], top] if top else strings
            yield name, opcode.name
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, TypeError) as error:
        raise CheckpointError(
            f"Damaged: its pickle ends or breaks early ({one_line(error)})."
        ) from error


def read_pickle(data: bytes) -> Any:
    """Read containers, numbers, strings and arrays (see ``as_array``) from a whole ``.pkl``.

    Raises:
        CheckpointError: for code, damage, or anything a checkpoint has no use for.
    """
    for name, opcode in _walk(data):
        if name and tuple(name.rsplit(".", 1)) not in _SYMBOLS and opcode != "STACK_GLOBAL":
            raise refusal(name)
        if opcode in _REFUSED_OPCODES:
            raise CheckpointError(
                f"Refused: its pickle builds objects ({opcode}); only numbers, strings, "
                "containers and numpy arrays are read."
            )
    try:
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except CheckpointError:
        raise
    except Exception as error:  # a broken program may fail in any way
        raise CheckpointError(f"Damaged: its pickle can't be read ({one_line(error)}).") from error


class _Symbol:
    """Stand-in for an importable name, which REDUCE may call."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)  # type: ignore[attr-defined]  # a slot

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("a stand-in has no state")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a stand-in has no state")


class _Dict(dict[Any, Any]):
    """OrderedDict, without the attributes that torch adds to a state dict."""

    def __setstate__(self, state: Any) -> None:
        pass


class _DType:
    """Stand-in for numpy.dtype: numbers and booleans of fixed size only."""

    __slots__ = ("dtype",)
    KINDS = "biuf"

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or len(code) > 3:
            raise pickle.UnpicklingError("dtype code is not a short string")
        dtype = np.dtype(code)
        if dtype.kind not in self.KINDS:
            raise pickle.UnpicklingError(f"arrays of {dtype.kind!r} are not numbers")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("dtype has no byte order")
        self.dtype = self.dtype.newbyteorder(">" if order == ">" else "<")


class _Array:
    """Stand-in for numpy.ndarray, filled by BUILD."""

    __slots__ = ("value",)

    def __init__(self, value: NDArray[Any] | None = None) -> None:
        self.value = np.zeros(0, dtype=np.float32) if value is None else value

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("array state has not five parts")
        _, shape, dtype, fortran, data = state
        self.value = _numbers(data, dtype, shape, "F" if fortran else "C")


def _numbers(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Read raw bytes whose type, shape and length agree."""
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, _DType) or not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError("array without numbers")
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or order not in ("C", "F"):
        raise pickle.UnpicklingError("array of an odd shape")
    expected = dtype.dtype.itemsize
    for size in shape:
        if type(size) is not int or size < 0:
            raise pickle.UnpicklingError("array size is not a count")
        expected *= size
    if expected != len(data):
        raise pickle.UnpicklingError(
            f"array of shape {shape} needs {expected} bytes and has {len(data)}"
        )
    if not data:
        return np.zeros(shape, dtype.dtype)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    return _numbers(data, dtype, (), "C").item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_numbers(data, dtype, shape, order))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("encode of something else than text")
    return text.encode("latin1")


def _no_bytes(*args: Any) -> bytes:
    if args:
        raise pickle.UnpicklingError("bytes made from something")
    return b""


def _ordered_dict(*args: Any) -> _Dict:
    return _Dict((_plain_key(key), value) for key, value in (args[0] if args else ()))


def _plain_key(key: Any) -> Any:
    """Refuse other keys: hashing a deeply nested tuple overflows the C stack."""
    if not isinstance(key, (str, int, float, bytes)):
        raise pickle.UnpicklingError("a dictionary key is neither text nor a number")
    return key


_SYMBOLS: dict[tuple[str, ...], _Symbol] = {
    ("collections", "OrderedDict"): _Symbol(_ordered_dict),
    ("_codecs", "encode"): _Symbol(_encode),
    ("builtins", "bytes"): _Symbol(_no_bytes),  # how b"" is written before protocol 3
    ("__builtin__", "bytes"): _Symbol(_no_bytes),
    ("numpy", "ndarray"): _Symbol(_reconstruct),
    ("numpy", "dtype"): _Symbol(_DType),
}
for _core in ("numpy.core", "numpy._core"):
    _SYMBOLS[f"{_core}.multiarray", "_reconstruct"] = _Symbol(_reconstruct)
    _SYMBOLS[f"{_core}.multiarray", "scalar"] = _Symbol(_scalar)
    _SYMBOLS[f"{_core}.numeric", "_frombuffer"] = _Symbol(_from_buffer)


# Undocumented but stable since Python 3.0; typeshed types only part of it.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    """The pure-Python unpickler, with handlers that only accept the stand-ins."""

    dispatch: ClassVar = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> _Symbol:
        """Return a name's stand-in; any other name is code."""
        symbol = _SYMBOLS.get((module, name))
        if symbol is None:
            raise refusal(f"{module}.{name}")
        return symbol

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(function, _Symbol) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("call of something that is no constructor")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        if not isinstance(instance, (_Array, _DType, _Dict)):
            raise pickle.UnpicklingError("state for something that has none")
        instance.__setstate__(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._target()[_plain_key(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._target().update(zip(map(_plain_key, items[::2]), items[1::2], strict=True))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(map(_plain_key, items[::2]), items[1::2], strict=True)))

    def _target(self) -> dict[Any, Any]:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise pickle.UnpicklingError("items for something that is no dictionary")
        return target

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict


def as_array(value: Any) -> NDArray[Any] | None:
    """Return the array behind a value of ``read_pickle``; None if it is no array."""
    return value.value if isinstance(value, _Array) else None
