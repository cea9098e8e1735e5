"""Several data sets as one to train on, each with a weight: ``"3 cityscapes256 + 1 camvid"``.

The first one's classes are the model's; coarser classes become groups of them
(``training.data.label_space``). Crops are drawn by weight, with replacement inside a set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import meanings_of

from .base import Color, LabelledImages
from .label_space import Translation
from .reading import Array

_PART = re.compile(r"\s*(?:(\d+(?:\.\d+)?)\s+)?(\S.*?)\s*$")


class Part(NamedTuple):
    """A data set as the user wrote it, and its share of the crops relative to the others'."""

    weight: float
    data: str


def parts_of(data: str) -> list[Part]:
    """Split ``--data`` at `` + `` into one or several parts.

    Raises:
        ConfigError: for a part without a name or with a weight of 0.
    """
    if " + " not in data:
        return [Part(1.0, data)]
    parts = []
    for text in data.split(" + "):
        match = _PART.match(text)
        weight = float(match[1] or 1) if match else 0.0
        if match is None or weight <= 0:
            raise ConfigError(
                f"{text!r} in --data {data!r} is no part of a mixture; expected a weight above 0 "
                "and a data set, as in '3 cityscapes256 + 1 camvid'."
            )
        parts.append(Part(weight, match[2]))
    return parts


class Mixture(LabelledImages):
    """Images of several data sets, labelled in one set of classes.

    Args:
        parts: weights and data sets, at least one.
        classes: names and colours; None for those of the first part.

    Raises:
        ConfigError: when a part's classes have no meaning among these.
    """

    def __init__(
        self,
        parts: Sequence[tuple[float, LabelledImages]],
        classes: tuple[tuple[str, ...], tuple[Color, ...]] | None = None,
    ) -> None:
        first = parts[0][1]
        self.class_names, self.palette = classes or (tuple(first.class_names), tuple(first.palette))
        self.num_classes = len(self.class_names)
        self.groups = ()
        self._parts = [images for _, images in parts]
        self._translate: list[Translation] = []
        for images in self._parts:
            names = tuple(images.class_names)
            meanings = meanings_of(names, self.class_names)
            translation = Translation(names, images.groups, self.class_names, meanings, self.groups)
            self._translate.append(translation)
            self.groups = translation.groups
        self._ends = np.cumsum([len(images) for images in self._parts])
        weights = np.array([weight for weight, _ in parts])
        self._shares = np.cumsum(weights / weights.sum())
        self.names = [name for images in self._parts for name in images.names]

    def choose(self, rng: np.random.Generator) -> int:
        """Draw the index of an image: its part by weight, then one of the part's."""
        first = self._parts[0]
        if len(self._parts) == 1 and isinstance(first, Mixture):
            return first.choose(rng)
        part = min(int(np.searchsorted(self._shares, rng.random(), "right")), len(self._parts) - 1)
        return int(self._start(part) + rng.integers(len(self._parts[part])))

    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return the image (H, W, 3) RGB and its label (H, W) in the common classes."""
        part = int(np.searchsorted(self._ends, index, "right"))
        image, label = self._parts[part].arrays(index - self._start(part))
        return image, self._translate[part](label)

    @property
    def is_one(self) -> bool:
        """Whether it is one data set in other classes, read epoch by epoch."""
        first = self._parts[0]
        return len(self._parts) == 1 and (not isinstance(first, Mixture) or first.is_one)

    def _start(self, part: int) -> int:
        return int(self._ends[part - 1]) if part else 0
