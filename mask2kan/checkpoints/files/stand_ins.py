"""What stands for the names a pickle imports."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any


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
