"""Refuse a value with a ``ConfigError`` that names it, what was found and what it must be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from mask2kan.errors import ConfigError, shortened, unknown


def require(
    field: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    whole: bool = False,
) -> None:
    """Require a finite number in [low, high]; ``above`` and ``below`` exclude the ends.

    Raises:
        ConfigError: for anything else; with ``whole`` also for what is no int.
    """
    number = isinstance(value, int if whole else Real) and not isinstance(value, bool)
    fits = number and low <= value <= high and -math.inf < value < math.inf
    if fits and not (above and value == low) and not (below and value == high):
        return
    if high < math.inf:
        expected = f"in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
    elif above:
        expected = f"greater than {low:g}"
    else:
        expected = f"at least {low:g}" if low else "finite and not negative"
    kind = "a whole number, " if whole else ""
    raise ConfigError(f"{field} is {shortened(repr(value))}; it must be {kind}{expected}.")


def require_choice(kind: str, value: Any, choices: Iterable[str]) -> None:
    """Require one of the choices.

    Raises:
        ConfigError: listing the nearest, and all.
    """
    names = tuple(choices)
    if value not in names:
        raise ConfigError(unknown(kind, str(value), names))


def require_pair(field: str, value: Any) -> None:
    """Require two numbers.

    Raises:
        ConfigError: for anything else.
    """
    if len(value) != 2 or not all(isinstance(number, Real) for number in value):
        raise ConfigError(f"{field} is {value!r}; expected two numbers.")


def require_range(field: str, value: Any) -> None:
    """Require two finite numbers, 0 < lowest <= highest.

    Raises:
        ConfigError: for anything else.
    """
    require_pair(field, value)
    if not 0 < value[0] <= value[1] < math.inf:
        raise ConfigError(f"{field} is {value!r}; expected 0 < lowest <= highest.")
