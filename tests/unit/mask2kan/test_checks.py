"""What is refused, and what the message says."""

import math

import numpy as np
import pytest

from mask2kan.checks import require, require_choice, require_pair, require_range
from mask2kan.errors import ConfigError


@pytest.mark.parametrize("value", [1, 3.0, np.float32(2), np.int64(1)])
def test_numbers_within_the_limits_pass(value):
    require("x", value, 1, 3)


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (0, {"low": 1}, "x is 0; it must be at least 1."),
        (-1, {"low": 0}, "x is -1; it must be finite and not negative."),
        (math.inf, {"low": 0}, "x is inf; it must be finite and not negative."),
        (math.nan, {"low": 0, "high": 1}, r"x is nan; it must be in \[0, 1\]."),
        (0, {"low": 0, "above": True}, "x is 0; it must be greater than 0."),
        (1.0, {"low": 0, "high": 1, "below": True}, r"x is 1.0; it must be in \[0, 1\)."),
        ("1", {"low": 0}, "x is '1'; it must be finite and not negative."),
        (None, {"low": 1}, "x is None; it must be at least 1."),
        (True, {"low": 1, "whole": True}, "x is True; it must be a whole number, at least 1."),
        (2.0, {"low": 1, "high": 9, "whole": True}, "x is 2.0; it must be a whole number, in"),
        (10**400, {"low": 0, "high": 9}, r"x is 1000+…; it must be in \[0, 9\]."),
    ],
)
def test_other_values_are_named(value, options, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        require("x", value, **options)


def test_names_and_pairs():
    require_choice("colour", "red", {"red": 1})
    with pytest.raises(ConfigError, match=r"Unknown colour 'rad'. Nearest: red. Known: blue, red."):
        require_choice("colour", "rad", ("red", "blue"))
    with pytest.raises(ConfigError, match=r"Unknown colour '\[\]'"):
        require_choice("colour", [], {"red": 1})
    require_pair("x", (0, -1))
    require_range("x", (1, 1.5))
    for wrong in ((1,), (1, "2"), (0, 1), (2, 1), (1, math.inf)):
        with pytest.raises(ConfigError, match=r"x is \(.*\); expected"):
            require_range("x", wrong)
