"""Read pickles of numbers without running anything they contain.

A pickle is a program: it names what it imports, and calls it. The pure-Python unpickler runs it
here with stand-ins for every name, so nothing is ever imported. Those of arrays and tensors check
sizes, and leave their numbers in the file; those of what training leaves beside the weights
(counters, sets, paths, options) take anything and keep nothing; a program that names anything else
is refused. Mutated files crash the C unpickler and numpy's own constructors, which is why neither
is used.

Source of the format: ``pickletools`` and numpy's ``ndarray.__reduce__``.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar, cast

from mask2kan.checkpoints.files.arrays import SYMBOLS as ARRAYS
from mask2kan.checkpoints.files.arrays import Array, DType, Piece
from mask2kan.checkpoints.files.opened import Extent
from mask2kan.checkpoints.files.stand_ins import Inert, Symbol, Symbols
from mask2kan.checkpoints.files.stored import LONGEST_KEY
from mask2kan.errors import CheckpointError, one_line

_LONGEST_NAME = 1000  # of what a pickle imports
_LARGEST_KEY = 1 << 60  # of a table, if it is an integer
_LARGE = 1 << 16  # bytes; protocol 4 and later write such a piece outside of their frames
MAX_OPCODES = 2_000_000  # 1,000 tensors with an optimiser's states take 100,000
# Stand-ins copy what they are called with, and the memo hands it to them again for two bytes. All
# their arguments may take this much and some times the pickle, of which honest ones take twice.
_ROOM = 64 << 20  # bytes
_TIMES = 4
_ITEM = 64  # bytes of an item in a dictionary
_POINTER = 8  # bytes of an item that is only looked at

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
    file: io.BufferedIOBase,
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
    room = _ROOM + _TIMES * (file.tell() - start)
    file.seek(start)
    try:
        return _Unpickler(file, symbols, persistent, room).load()
    except CheckpointError:
        raise
    except Exception as error:  # a broken program may fail in any way
        raise CheckpointError(f"Damaged: its pickle can't be read ({one_line(error)}).") from error


def _walk(file: io.BufferedIOBase) -> Iterator[tuple[str, str]]:
    """Yield the imported name ("" for none) and the opcode's of every opcode."""
    strings: list[str] = []  # the last two pushed: the name that STACK_GLOBAL imports
    memo: dict[Any, str] = {}
    top = ""  # the string just pushed
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(BinaryIO, file))):
            if count >= MAX_OPCODES:
                raise CheckpointError(
                    f"Refused: its pickle has over {MAX_OPCODES:,} opcodes; a checkpoint has fewer."
                )
            name = ""
            if opcode.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                place = len(memo) if argument is None else argument
                if not 0 <= place <= MAX_OPCODES:  # large ones may all have the same hash
                    raise CheckpointError(
                        "Refused: its pickle keeps things under numbers that no pickle needs."
                    )
                memo[place] = top
                yield name, opcode.name
                continue
            top = ""
            if opcode.name in _STRINGS:
                text = str(argument)
                top = text if len(text) < _LONGEST_NAME else ""
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


def _no_bytes(*args: Any) -> bytes:
    if args:
        raise pickle.UnpicklingError("bytes made from something")
    return b""


def _ordered_dict(*args: Any) -> _Dict:
    if args and not isinstance(args[0], list):
        raise pickle.UnpicklingError("dictionary of something that is no list")
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
    return _Dict((key, value) for key, value in pairs if _is_plain(key))


def _is_plain(key: Any) -> bool:
    """Whether a key is compared at once: large integers may have all the same hash."""
    if isinstance(key, (str, bytes)):
        return len(key) <= LONGEST_KEY
    if isinstance(key, int):
        return -_LARGEST_KEY < key < _LARGEST_KEY
    return key is None or isinstance(key, float)


_INERT = Symbol(Inert)
_SYMBOLS: Symbols = {
    **ARRAYS,
    ("collections", "OrderedDict"): Symbol(_ordered_dict),
    ("collections", "defaultdict"): Symbol(_default_dict),
    ("collections", "Counter"): Symbol(_counter),
    ("copyreg", "_reconstructor"): Symbol(_object),
    ("copyreg", "__newobj__"): Symbol(_object),
    ("builtins", "bytes"): Symbol(_no_bytes),  # how b"" is written before protocol 3
}


def _large(layout: str, make: Callable[[bytes], Any]) -> Callable[[Any], None]:
    """Make the handler of an opcode with a length, which may leave its bytes in the file."""

    def load(unpickler: _Unpickler) -> None:
        [length] = struct.unpack(layout, unpickler.read(struct.calcsize(layout)))
        if length < _LARGE or unpickler.in_frame:
            unpickler.append(make(unpickler.read(length)))
        else:
            unpickler.append(unpickler.leave(length, text=make is _text))

    return load


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _characters(data: bytes) -> str:
    return data.decode("latin1")  # a text of Python 2


# Undocumented but stable since Python 3.0; typeshed types only part of it.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    """The pure-Python unpickler, with handlers that only accept the stand-ins."""

    dispatch: ClassVar = dict(_PythonUnpickler.dispatch)

    def __init__(
        self,
        file: io.BufferedIOBase,
        symbols: Symbols,
        persistent: Callable[[Any], Any] | None,
        room: int,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.room = room
        self.file = file
        self.symbols = symbols
        self.persistent = persistent

    @property
    def in_frame(self) -> bool:
        """Whether what comes next was read together with what came before."""
        return self._unframer.current_frame is not None

    def leave(self, length: int, *, text: bool) -> Piece:
        """Pass by what comes next in the file."""
        piece = Piece(Extent(self.file, self.file.tell(), length), text)
        self.file.seek(length, io.SEEK_CUR)
        return piece

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
        self._spend(arguments)
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
        if not isinstance(instance, (Array, DType, _Dict)):
            raise pickle.UnpicklingError("state for something that has none")
        if isinstance(state, tuple):
            self._spend(state)
        instance.__setstate__(state)

    def _spend(self, values: tuple[Any, ...]) -> None:
        """Count what a stand-in may copy of its arguments or state."""
        self.room -= _POINTER * len(values)
        for value in values:
            if isinstance(value, (str, bytes, bytearray)):
                self.room -= len(value)
            elif isinstance(value, tuple):
                self.room -= _POINTER * len(value)
            elif isinstance(value, (list, dict)):
                self.room -= _ITEM * len(value)
        if self.room < 0:
            raise CheckpointError(
                "Refused: its pickle copies the same data over and over; a checkpoint holds "
                "everything once."
            )

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
    dispatch[pickle.BINBYTES[0]] = _large("<I", bytes)
    dispatch[pickle.BINBYTES8[0]] = _large("<Q", bytes)
    dispatch[pickle.BYTEARRAY8[0]] = _large("<Q", bytearray)
    dispatch[pickle.BINUNICODE[0]] = _large("<I", _text)
    dispatch[pickle.BINUNICODE8[0]] = _large("<Q", _text)
    dispatch[pickle.BINSTRING[0]] = _large("<I", _characters)
