"""Settings within their limits, or one message that says what they must be."""

from __future__ import annotations

import math

from mask2kan.errors import ConfigError


def require(
    field: str,
    value: float,
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuse a number outside [low, high]; ``above`` and ``below`` leave out the ends.

    Raises:
        ConfigError: naming the field, the value found and what it must be.
    """
    fits = math.isfinite(value) and low <= value <= high
    if fits and not (above and value == low) and not (below and value == high):
        return
    if high == math.inf:
        expected = f"greater than {low:g}" if above else f"at least {low:g}"
        if low == 0 and not above:
            expected = "finite and not negative"
    else:
        expected = f"in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
    raise ConfigError(f"{field} is {value}; it must be {expected}.")


def require_pair(field: str, value: tuple[float, ...]) -> None:
    """Refuse what is not two numbers.

    Raises:
        ConfigError: naming the field and the value found.
    """
    if len(value) != 2 or not all(isinstance(one, (int, float)) for one in value):
        raise ConfigError(f"{field} is {value!r}; expected two numbers.")
