"""Refuse a value with a ``ConfigError`` that names it, what was found and what it must be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from mask2kan.errors import ConfigError, shortened, shown, unknown


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
    fits = _is_finite(value) and (isinstance(value, int) or not whole) and low <= value <= high
    if fits and not (above and value == low) and not (below and value == high):
        return
    finite = "" if _is_finite(value) else "finite "
    kind = "a whole number" if whole else f"a {finite}number"
    limits = []
    if low > -math.inf:
        limits.append(f"greater than {_shown(low)}" if above else f"of at least {_shown(low)}")
    if high < math.inf:
        limits.append(f"less than {_shown(high)}" if below else f"of at most {_shown(high)}")
    if len(limits) == 2 and not above and not below:
        limits = [f"from {_shown(low)} to {_shown(high)}"]
    expected = " ".join([kind, " and ".join(limits)]).rstrip()
    raise ConfigError(f"{field} is {shown(value)}; it must be {expected}.")


def _shown(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return bool(-math.inf < value < math.inf)  # type: ignore[operator]  # large ints have no float


def require_choice(kind: str, value: Any, choices: Iterable[str]) -> None:
    """Require one of the choices.

    Raises:
        ConfigError: listing the nearest, and all.
    """
    names = tuple(choices)
    if value not in names:
        raise ConfigError(unknown(kind, shortened(value), names))


def require_numbers(field: str, value: Any, count: int, most: float = math.inf) -> None:
    """Require a sequence of ``count`` finite numbers, of magnitudes up to ``most``.

    Raises:
        ConfigError: for anything else.
    """
    numbers = value if isinstance(value, (list, tuple)) else ()
    if len(numbers) != count or not all(map(_is_finite, numbers)):
        raise ConfigError(f"{field} is {shown(value)}; expected {count} finite numbers.")
    if any(abs(number) > most for number in numbers):
        raise ConfigError(f"{field} is {shown(value)}; {_shown(most)} is the largest.")


def require_range(field: str, value: Any, otherwise: str = "") -> None:
    """Require two finite numbers, 0 < lowest <= highest; ``otherwise`` says what else would do.

    Raises:
        ConfigError: for anything else.
    """
    require_numbers(field, value, 2)
    if not 0 < value[0] <= value[1]:
        instead = otherwise and f", or {otherwise}"
        raise ConfigError(f"{field} is {value!r}; expected 0 < lowest <= highest{instead}.")
