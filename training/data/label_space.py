"""One set of classes for several data sets, coarse ones included.

A label of an image is a class, or a *group*: "one of these classes", which is what a coarser data
set says. CamVid's building is Cityscapes' building or wall, and a model of Cityscapes' classes
learns from it that one of the two is there. The class loss and the matching cost use the group's
summed probability (``training.objectives.criterion``), evaluation its summed class scores.

Label values: 0 to K - 1 are classes, K to K + G - 1 groups, 253 void that says nothing
(``transforms.IGNORED``), 254 a pasted outlier, 255 void.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import meanings_of

from .augmentation import IGNORED
from .reading import VOID, Array

Groups = tuple[tuple[int, ...], ...]


def membership(num_classes: int, groups: Groups) -> Tensor:
    """Which classes a label value stands for: (K + G, K) bool."""
    table = torch.zeros(num_classes + len(groups), num_classes, dtype=torch.bool)
    table[:num_classes] = torch.eye(num_classes, dtype=torch.bool)
    for index, members in enumerate(groups):
        table[num_classes + index, list(members)] = True
    return table


def plain_labels(label: Array, num_classes: int) -> Array:
    """Labels for measuring: everything that is no single class becomes void (255)."""
    return np.where(label < num_classes, label, np.uint8(VOID)).astype(np.uint8)


def coarse_classes(
    names: tuple[str, ...], wanted: tuple[str, ...]
) -> Callable[[NDArray[np.float32]], NDArray[np.uint8]] | None:
    """How a model's class scores (K, H, W) become a map (H, W) of a data set's coarser classes.

    Args:
        names: of the model's classes.
        wanted: of the data set's.

    Returns:
        None where the classes are the model's own.
    """
    meanings = meanings_of(wanted, names)
    if not meanings:
        return None
    members = [[names.index(one) for one in meanings[name]] for name in wanted]

    def coarse_map(class_scores: NDArray[np.float32]) -> NDArray[np.uint8]:
        sums = np.stack([class_scores[chosen].sum(0) for chosen in members])
        return np.asarray(sums.argmax(0), np.uint8)

    return coarse_map


class Translation:
    """Label values of one data set in the numbering of another, with groups where it is coarser.

    Args:
        names: the data set's classes.
        groups: and its own groups, as indices of its classes.
        into: the classes to translate into.
        meanings: what a name stands for, as names there; itself where it is not listed.
        known: groups numbered already; new ones are added behind them.

    Attributes:
        groups: all groups, as indices of ``into``.

    Raises:
        ConfigError: for a name that has no meaning there.
    """

    def __init__(
        self,
        names: Sequence[str],
        groups: Groups,
        into: Sequence[str],
        meanings: Mapping[str, Sequence[str]],
        known: Groups = (),
    ) -> None:
        number = {name: index for index, name in enumerate(into)}
        numbered = list(known)
        self._table = np.arange(VOID + 1, dtype=np.uint8)

        def members(name: str) -> tuple[int, ...]:
            meant = meanings.get(name, (name,))
            for one in meant:
                require_choice("class", one, into)
            return tuple(sorted(number[one] for one in meant))

        each = [members(name) for name in names]
        each += [tuple(sorted({c for one in group for c in each[one]})) for group in groups]
        for value, found in enumerate(each):
            if len(found) == 1:
                self._table[value] = found[0]
                continue
            if found not in numbered:
                numbered.append(found)
            self._table[value] = len(into) + numbered.index(found)
        if len(into) + len(numbered) > IGNORED:
            raise ConfigError(
                f"{len(into)} classes and {len(numbered)} groups; a label has room for {IGNORED}."
            )
        self.groups: Groups = tuple(numbered)

    def __call__(self, label: Array) -> Array:
        """(H, W) labels in the new numbering."""
        return self._table[label]
