"""Import all our modules under a bare Python: ``import_everything.py <stand-ins> <root>``.

Packages that this Python lacks are stood in for, so what fails is what our own modules say that the
Python does not understand: syntax, names of the standard library, classes it cannot build. Runs on
the standard library alone.
"""

from __future__ import annotations

import abc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import traceback
import types
from pathlib import Path

PACKAGES = ("mask2kan", "training", "app")


def _itself(cls, *_, **__):
    return Anything


class _Anything(abc.ABCMeta):
    """The type of a class that may be called, subscripted, subclassed and computed with."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything

    def __call__(cls, *args, **kwargs):
        return Anything if cls is Anything else super().__call__(*args, **kwargs)

    def __iter__(cls):
        return iter(())

    def __len__(cls):
        return 1

    def __int__(cls):
        return 1

    def __index__(cls):
        return 1

    def __float__(cls):
        return 1.0

    def __format__(cls, _):
        return "anything"


for _name in (
    *("getitem", "or", "ror", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv"),
    *("rtruediv", "floordiv", "mod", "pow", "neg", "lt", "le", "gt", "ge", "matmul", "lshift"),
    *("setitem", "enter", "exit", "rpow", "and", "invert", "xor"),
):
    setattr(_Anything, f"__{_name}__", _itself)


class Anything(metaclass=_Anything):
    """What every name of a stood-in package is."""

    def __init__(self, *args, **kwargs):
        pass

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__()

    def __class_getitem__(cls, _):
        return cls


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the named packages and all that is inside them, when nobody else does."""

    def __init__(self, names):
        self._names = frozenset(names)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self._names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: getattr(Anything, name)
        return module

    def exec_module(self, module):
        pass


def modules(root):
    """The names of all modules of our packages."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def main():
    stand_ins, root = sys.argv[1].split(","), Path(sys.argv[2])
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    if importlib.util.find_spec("torch") is None:  # else it has everything: no mixture of both
        sys.meta_path.append(_StandIns(stand_ins))
    failed = 0
    names = [name for name in modules(root) if not name.endswith("__main__")]
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:
            failed += 1
            *_, reason = traceback.format_exc(limit=-1).splitlines()
            print(f"{name}: {reason}", file=sys.stderr)
    print(f"{len(names)} modules, {failed} do not import")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
