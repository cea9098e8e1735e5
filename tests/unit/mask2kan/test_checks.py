"""What is refused, and what the message says."""

import math

import numpy as np
import pytest

from mask2kan.checks import require, require_choice, require_numbers, require_range
from mask2kan.errors import ConfigError


@pytest.mark.parametrize("value", [1, 3.0, np.float32(2), np.int64(1)])
def test_numbers_within_the_limits_pass(value):
    require("x", value, 1, 3)


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (0, {"low": 1}, "x is 0; it must be a number of at least 1."),
        (math.inf, {"low": 0}, "x is inf; it must be a finite number of at least 0."),
        (math.inf, {}, "x is inf; it must be a finite number."),
        (6, {"high": 5}, "x is 6; it must be a number of at most 5."),
        (math.nan, {"low": 0, "high": 1}, "x is nan; it must be a finite number from 0 to 1."),
        (0, {"low": 0, "above": True}, "x is 0; it must be a number greater than 0."),
        (
            1.0,
            {"low": 0, "high": 1, "below": True},
            "x is 1.0; it must be a number of at least 0 and less than 1.",
        ),
        ("1", {"low": 0}, "x is '1'; it must be a finite number of at least 0."),
        (True, {"low": 1, "whole": True}, "x is True; it must be a whole number of at least 1."),
        (
            2.0,
            {"low": 1, "high": 9, "whole": True},
            "x is 2.0; it must be a whole number from 1 to 9.",
        ),
        (10**400, {"low": 0, "high": 9}, "x is 1000+…; it must be a number from 0 to 9."),
    ],
)
def test_other_values_are_named(value, options, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        require("x", value, **options)


def test_names_and_pairs():
    require_choice("colour", "red", {"red": 1})
    with pytest.raises(ConfigError, match=r"Unknown colour 'rad'. Nearest: red. Known: blue, red."):
        require_choice("colour", "rad", ("red", "blue"))
    with pytest.raises(ConfigError, match=r"Unknown colour '\[\]'"):
        require_choice("colour", [], {"red": 1})
    require_numbers("x", (0, -1), 2)
    require_numbers("x", [10**400, 0.0, 1], 3)
    require_range("x", (1, 1.5))
    for wrong in ((1,), (1, "2"), (0, 1), (2, 1), (1, math.inf), (math.nan, 1), 3, None, "ab", {}):
        with pytest.raises(ConfigError, match=r"x is .*; expected"):
            require_range("x", wrong)
