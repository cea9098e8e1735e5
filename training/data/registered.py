"""Classes of data sets by name, and the modules of users that add theirs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from typing import TypeVar

from mask2kan.errors import ConfigError, Mask2KANError

MODULES = "MASK2KAN_DATA_SETS"
_imported: set[str] = set()  # of the modules that the variable names
_importing = False

K = TypeVar("K")


class Registered(Mapping[str, K]):
    """Classes of data sets by name: the package's and, from the first look on, users' own.

    Attributes:
        builtin: names of the package's.

    Raises:
        ConfigError: at a look, when a module of MASK2KAN_DATA_SETS cannot be imported.
    """

    def __init__(self, builtin: Mapping[str, K]) -> None:
        self.builtin = frozenset(builtin)
        self._sets = dict(builtin)

    def __getitem__(self, name: str) -> K:
        _import_modules()
        return self._sets[name]

    def __iter__(self) -> Iterator[str]:
        _import_modules()
        return iter(tuple(self._sets))

    def __len__(self) -> int:
        _import_modules()
        return len(self._sets)

    def add(self, name: str, images: K) -> None:
        """Add a user's; see ``register``."""
        self._sets[name] = images


def _import_modules() -> None:
    """Import what MASK2KAN_DATA_SETS names, once.

    Raises:
        ConfigError: when a module fails.
    """
    global _importing  # noqa: PLW0603 - a module's own ``register`` looks at the sets, too
    names = [name.strip() for name in os.environ.get(MODULES, "").split(",")]
    for name in names:
        if not name or name in _imported or _importing:
            continue
        _importing = True
        try:
            importlib.import_module(name)
            _imported.add(name)
        except Exception as error:  # whatever a user's module raises
            reason = " ".join(str(error).split()).rstrip(".")
            if not isinstance(error, Mask2KANError):
                reason = f"{type(error).__name__}: {reason}"
            raise ConfigError(
                f"{MODULES} names the module {name}, which cannot be imported: {reason}. Expected "
                "modules, separated by commas, that call training.data.register; they lie in the "
                "current folder or are installed."
            ) from error
        finally:
            _importing = False
