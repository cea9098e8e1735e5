"""How a checkpoint's makers want it run: ``InferenceSettings``, which travel in its metadata.

A model sees best at the size of the crops it was trained on, and small objects only at larger ones:
class scores of several sizes, averaged, cost little more than one look at an image's own size and
tell anomalies better. Checkpoints without settings, all foreign ones among them, run natively.

Imports no torch.
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
        sides: longest sides, in pixels, to compute an image at; class scores are averaged. Those
            above the image's own are skipped, and where none is left its own is used, as it is
            where there are none.
        score: the anomaly score shown unless another is asked for.
        sigma: spread of the Gaussian that smooths the score before it is thresholded, as a share of
            the image's longer side; 0 for none. ``Prediction.anomaly`` is never smoothed.
        smallest_region: share of the image's area below which a region is not reported.
    """

    sides: tuple[int, ...] = ()
    score: str = "msp"
    sigma: float = 0.0
    smallest_region: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ConfigError: naming the field, the value found and what it must be.
        """
        require("The number of settings.sides", len(self.sides), 0, MOST_SIDES)
        for side in self.sides:
            require("settings.sides", side, SMALLEST_SIDE, LARGEST_SIDE, whole=True)
        require_choice("score", self.score, SCORE_NAMES)
        for field in ("sigma", "smallest_region"):
            require(f"settings.{field}", getattr(self, field), 0, 0.1)

    def sides_of(self, longest: int, limit: int) -> list[int]:
        """The sides to compute an image at, largest first.

        Args:
            longest: the image's longer side.
            limit: no side is larger.
        """
        largest = min(longest, limit)
        fitting = {side for side in self.sides if side <= largest}
        return sorted(fitting, reverse=True) or [largest]

    def smallest_pixels(self, height: int, width: int, least: int = 0) -> int:
        """Pixels of the smallest region reported in an image, at least ``least``."""
        return max(least, round(self.smallest_region * height * width))

    def in_words(self) -> str:
        """One line for cards and pages."""
        sides = " + ".join(map(str, self.sides)) + " px" if self.sides else "the image's own size"
        words = f"{self.score} at {sides}"
        if self.sigma:
            words += f", smoothed by {100 * self.sigma:.2g} % of the longer side"
        if self.smallest_region:
            words += f", regions from {100 * self.smallest_region:.2g} % of the area"
        return words

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**dataclasses.asdict(self), "sides": list(self.sides)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InferenceSettings:
        """The settings behind ``to_dict()``.

        Raises:
            ConfigError: for a field that does not exist or a value that cannot be used.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            require_choice("setting", key, known)
        sides = values.get("sides", ())
        if not isinstance(sides, (list, tuple)):
            raise ConfigError(f"settings.sides is {sides!r:.40}; expected a list of numbers.")
        return cls(**{**values, "sides": tuple(sides)})


NATIVE = InferenceSettings()
"""One look at the image's own size: the originals' numbers."""
