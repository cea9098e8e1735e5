"""Read pickles of numbers without running anything they contain.

A pickle is a program: it names what it imports, and calls it. The pure-Python unpickler runs it
here with stand-ins for every name, so nothing is ever imported. Those of arrays and tensors check
sizes; those of what training leaves beside the weights (counters, sets, paths, options) take
anything and keep nothing; a program that names anything else is refused. Mutated files crash the
C unpickler and numpy's own constructors, which is why neither is used.

Source of the format: ``pickletools`` and numpy's ``ndarray.__reduce__``.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from mask2kan.errors import CheckpointError, one_line

MAX_OPCODES = 2_000_000  # 1,000 tensors with an optimiser's states take 100,000
MAX_DIMENSIONS = 8

_REFUSED_OPCODES = {
    # objects of arbitrary classes
    *("INST", "OBJ", "EXT1", "EXT2", "EXT4"),
    # things that live outside the file
    *("NEXT_BUFFER", "READONLY_BUFFER"),
}
_PERSISTENT = {"PERSID", "BINPERSID"}
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING"}
_STRINGS.add("SHORT_BINSTRING")
_PLAIN_MODULES = {"posix": "os", "nt": "os", "__builtin__": "builtins"}

# What training leaves beside the weights. Their stand-ins are inert, so a name here is harmless
# whatever the real thing does; other names are refused because a checkpoint has no use for them.
_EXTRAS = {
    "builtins": "bool complex dict float frozenset int list object range set slice str tuple",
    "collections": "deque",
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "typing": "Any Union Optional List Dict Tuple",
    "datetime": "date datetime time timedelta timezone",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "uuid": "UUID SafeUUID",
    "decimal": "Decimal",
    "fractions": "Fraction",
}
_EXTRA_PACKAGES = (  # of options and records: any name in them
    *("addict", "easydict", "ml_collections", "omegaconf", "yacs"),
    *("lightning", "lightning_fabric", "mmcv.utils", "mmengine.config", "mmengine.logging"),
    *("numpy.dtypes", "numpy.random", "pathlib._local", "pytorch_lightning"),
)


def refusal(name: str) -> CheckpointError:
    """Build the error for a pickle that would call ``name``."""
    module, _, attribute = name.rpartition(".")
    return CheckpointError(
        f"Refused: it contains code ({_PLAIN_MODULES.get(module, module)}.{attribute}). "
        "Save the model's state_dict() instead, or ask its author for a safetensors file."
    )


class Inert:
    """Stand-in for an object that no weights need: it takes anything and keeps nothing."""

    __slots__ = ()

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Drop an item."""

    def extend(self, _: Any) -> None:
        """Drop items."""


class Symbol:
    """Stand-in for an importable name, which REDUCE and NEWOBJ may call."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        """Make what the real thing would make, or its stand-in."""
        return self._call(*args)  # type: ignore[attr-defined]  # a slot

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("a stand-in has no state")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a stand-in has no state")


Symbols = Mapping[tuple[str, str], Any]


def stand_in(module: str, name: str, symbols: Symbols) -> Any:
    """Return the stand-in of a name.

    Raises:
        CheckpointError: for any name a checkpoint has no use for.
    """
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    known = symbols.get((module, name)) or _SYMBOLS.get((module, name))
    if known is not None:
        return known
    if name in _EXTRAS.get(module, "").split() or any(
        module == package or module.startswith(f"{package}.") for package in _EXTRA_PACKAGES
    ):
        return _INERT
    raise refusal(f"{module}.{name}")


def read_pickle(data: bytes) -> Any:
    """Read containers, numbers, strings and arrays (see ``as_array``) from a whole ``.pkl``.

    Raises:
        CheckpointError: for code, damage, or anything a checkpoint has no use for.
    """
    return unpickle(io.BytesIO(data))


def unpickle(
    file: BinaryIO,
    symbols: Symbols | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle from where a file stands, and leave the file behind it.

    Args:
        file: at the pickle's start.
        symbols: further stand-ins by module and name.
        persistent: what makes an object of a persistent id; None refuses those.

    Raises:
        CheckpointError: as ``read_pickle``.
    """
    symbols = symbols or {}
    start = file.tell()
    for name, opcode in _walk(file):
        if name and opcode != "STACK_GLOBAL":  # whose name is looked at when it is run
            module, _, attribute = name.rpartition(".")
            stand_in(module, attribute, symbols)
        if opcode in _REFUSED_OPCODES or (opcode in _PERSISTENT and persistent is None):
            raise CheckpointError(
                f"Refused: its pickle builds objects ({opcode}); only numbers, strings, "
                "containers and arrays are read."
            )
    file.seek(start)
    try:
        return _Unpickler(file, symbols, persistent).load()
    except CheckpointError:
        raise
    except Exception as error:  # a broken program may fail in any way
        raise CheckpointError(f"Damaged: its pickle can't be read ({one_line(error)}).") from error


def _walk(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Yield the imported name ("" for none) and the opcode's of every opcode."""
    strings: list[str] = []  # the last two pushed: the name that STACK_GLOBAL imports
    memo: dict[Any, str] = {}
    top = ""  # the string just pushed
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count >= MAX_OPCODES:
                raise CheckpointError(
                    f"Refused: its pickle has over {MAX_OPCODES:,} opcodes; a checkpoint has fewer."
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


class _Dict(dict[Any, Any]):
    """OrderedDict and its kin, without the attributes that torch adds to a state dict."""

    def __setstate__(self, state: Any) -> None:
        pass


class _DType:
    """Stand-in for numpy.dtype: None but for numbers and booleans of fixed size."""

    __slots__ = ("dtype",)
    KINDS = "biuf"

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str):
            raise pickle.UnpicklingError("dtype code is no string")
        self.dtype = np.dtype(code) if len(code) <= 3 and code[:1] in self.KINDS else None

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

    __slots__ = ("value",)

    def __init__(self, value: NDArray[Any] | None = None) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("array state has not five parts")
        _, shape, dtype, fortran, data = state
        self.value = _numbers(data, dtype, shape, "F" if fortran else "C")


def _numbers(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any] | None:
    """Read raw bytes whose type, shape and length agree; None for other types."""
    data = data.encode("latin1") if isinstance(data, str) else data
    if isinstance(dtype, _DType) and dtype.dtype is None:
        return None
    if not isinstance(dtype, _DType) or not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError("array without numbers")
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or order not in ("C", "F"):
        raise pickle.UnpicklingError("array of an odd shape")
    assert dtype.dtype is not None
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


def _reconstruct(*_: Any) -> Array:
    return Array()


def _scalar(dtype: Any, data: Any) -> Any:
    value = _numbers(data, dtype, (), "C")
    return Inert() if value is None else value.item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    return Array(_numbers(data, dtype, shape, order))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("encode of something else than text")
    return text.encode("latin1")


def _no_bytes(*args: Any) -> bytes:
    if args:
        raise pickle.UnpicklingError("bytes made from something")
    return b""


def _ordered_dict(*args: Any) -> _Dict:
    return _kept(args[0] if args else ())


def _default_dict(*_: Any) -> _Dict:
    return _Dict()


def _counter(*args: Any) -> _Dict:
    return _kept(args[0].items() if args and isinstance(args[0], dict) else ())


def _object(made: Any, *_: Any) -> Any:
    """``copyreg._reconstructor`` and ``__newobj__``: how old protocols make an object."""
    if not isinstance(made, Symbol):
        raise pickle.UnpicklingError("object of something that is no class")
    return made()


def _kept(pairs: Any) -> _Dict:
    """Keep the items with a plain key: hashing a deeply nested tuple overflows the C stack."""
    return _Dict((key, value) for key, value in pairs if isinstance(key, _PLAIN_KEYS))


_PLAIN_KEYS = (str, int, float, bytes, type(None))
_INERT = Symbol(Inert)
_SYMBOLS: dict[tuple[str, str], Symbol] = {
    ("collections", "OrderedDict"): Symbol(_ordered_dict),
    ("collections", "defaultdict"): Symbol(_default_dict),
    ("collections", "Counter"): Symbol(_counter),
    ("copyreg", "_reconstructor"): Symbol(_object),
    ("copyreg", "__newobj__"): Symbol(_object),
    ("_codecs", "encode"): Symbol(_encode),
    ("builtins", "bytes"): Symbol(_no_bytes),  # how b"" is written before protocol 3
    ("numpy", "ndarray"): Symbol(_reconstruct),
    ("numpy", "dtype"): Symbol(_DType),
}
for _core in ("numpy.core", "numpy._core"):
    _SYMBOLS[f"{_core}.multiarray", "_reconstruct"] = Symbol(_reconstruct)
    _SYMBOLS[f"{_core}.multiarray", "scalar"] = Symbol(_scalar)
    _SYMBOLS[f"{_core}.numeric", "_frombuffer"] = Symbol(_from_buffer)


# Undocumented but stable since Python 3.0; typeshed types only part of it.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    """The pure-Python unpickler, with handlers that only accept the stand-ins."""

    dispatch: ClassVar = dict(_PythonUnpickler.dispatch)

    def __init__(
        self, file: BinaryIO, symbols: Symbols, persistent: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.symbols = symbols
        self.persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        """Return a name's stand-in; any other name is code."""
        return stand_in(module, name, self.symbols)

    def persistent_load(self, identifier: Any) -> Any:
        """Make the object of a persistent id."""
        if self.persistent is None:
            raise pickle.UnpicklingError("a persistent id outside of a PyTorch file")
        return self.persistent(identifier)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(function, Symbol) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("call of something that is no constructor")
        self.stack[-1] = function(*arguments)

    def load_newobj(self) -> None:
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # the named arguments, which no stand-in reads
        self.load_reduce()

    def load_build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        if isinstance(instance, Inert):
            return
        if not isinstance(instance, (Array, _DType, _Dict)):
            raise pickle.UnpicklingError("state for something that has none")
        instance.__setstate__(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([(key, value)])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._put(zip(items[::2], items[1::2], strict=True))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(_kept(zip(items[::2], items[1::2], strict=True))))

    def _put(self, pairs: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(_kept(pairs))
        elif not isinstance(target, Inert):
            raise pickle.UnpicklingError("items for something that is no dictionary")

    def load_empty_set(self) -> None:
        self.append(Inert())

    def load_additems(self) -> None:
        self.pop_mark()
        if not isinstance(self.stack[-1], Inert):
            raise pickle.UnpicklingError("items for something that is no set")

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.append(Inert())

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.EMPTY_SET[0]] = load_empty_set
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def as_array(value: Any) -> NDArray[Any] | None:
    """Return the array of numbers behind a value of ``read_pickle``; None if it is no such."""
    return value.value if isinstance(value, Array) else None
