"""How a checkpoint's makers want it run: ``InferenceSettings``, which travel in its metadata.

Models see best at their training crops' size, and small objects only at larger ones, so class
scores of several sizes may be averaged. Checkpoints without settings run natively.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mask2kan.checks import require, require_choice
from mask2kan.errors import ConfigError

SCORE_NAMES = ("msp", "entropy", "energy", "rba", "eam")
SMALLEST_SIDE, LARGEST_SIDE, MOST_SIDES = 32, 8192, 8


@dataclasses.dataclass(frozen=True)
class InferenceSettings:
    """Sizes, score and what is done with it.

    Attributes:
        sides: longest sides, in pixels, to compute an image at and average; those above the image's
            own are skipped; where none is left, its own.
        score: the default anomaly score.
        sigma: of the Gaussian that smooths a score before it is thresholded, as a share of the
            image's longer side; 0 for none.
        smallest_region: share of the image's area below which a region is not reported.
    """

    sides: tuple[int, ...] = ()
    score: str = "msp"
    sigma: float = 0.0
    smallest_region: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be run with a ConfigError."""
        require("The number of settings.sides", len(self.sides), 0, MOST_SIDES)
        for side in self.sides:
            require("settings.sides", side, SMALLEST_SIDE, LARGEST_SIDE, whole=True)
        require_choice("score", self.score, SCORE_NAMES)
        for field in ("sigma", "smallest_region"):
            require(f"settings.{field}", getattr(self, field), 0, 0.1)

    def sides_of(self, longest: int, limit: int) -> list[int]:
        """Return the sides to compute an image of this longest side at, largest first."""
        largest = min(longest, limit)
        fitting = {side for side in self.sides if side <= largest}
        return sorted(fitting, reverse=True) or [largest]

    def smallest_pixels(self, height: int, width: int, least: int = 0) -> int:
        """Return the pixels of the smallest region reported in an image, at least ``least``."""
        return max(least, round(self.smallest_region * height * width))

    def in_words(self) -> str:
        """Describe the settings in one line, for model cards and pages."""
        sides = " + ".join(map(str, self.sides)) + " px" if self.sides else "the image's own size"
        words = f"{self.score} at {sides}"
        if self.sigma:
            words += f", smoothed by {100 * self.sigma:.2g} % of the longer side"
        if self.smallest_region:
            words += f", regions from {100 * self.smallest_region:.2g} % of the area"
        return words

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**dataclasses.asdict(self), "sides": list(self.sides)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InferenceSettings:
        """Read settings from ``to_dict()``.

        Raises:
            ConfigError: for an unknown field or a value that cannot be used.
        """
        for key in values:
            require_choice("setting", key, {field.name for field in dataclasses.fields(cls)})
        sides = values.get("sides", ())
        if not isinstance(sides, (list, tuple)):
            raise ConfigError(f"settings.sides is {sides!r:.40}; expected a list of numbers.")
        return cls(**{**values, "sides": tuple(sides)})


NATIVE = InferenceSettings()  # one pass at the image's own size: the originals' numbers
