"""One set of classes for several data sets, coarse ones included.

A label is a class or, where a data set is coarser, a *group*, "one of these classes": CamVid's
building is Cityscapes' building or wall. The class loss and the matching cost sum a group's
probabilities (``training.objectives.criterion``), evaluation its class scores.

Label values: 0 to K - 1 are classes, K to K + G - 1 groups, 253 void that says nothing
(``augmentation.IGNORED``), 254 a pasted outlier, 255 void.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import are_unnamed, meanings_of

from .augmentation import IGNORED
from .reading import VOID, Array

Groups = tuple[tuple[int, ...], ...]
SHOWN = 5  # names listed in a message


def membership(num_classes: int, groups: Groups) -> Tensor:
    """Return which classes a label value stands for: (K + G, K) bool."""
    table = torch.zeros(num_classes + len(groups), num_classes, dtype=torch.bool)
    table[:num_classes] = torch.eye(num_classes, dtype=torch.bool)
    for index, members in enumerate(groups):
        table[num_classes + index, list(members)] = True
    return table


def plain_labels(label: Array, num_classes: int) -> Array:
    """Make everything but single classes void (255), for evaluation."""
    return np.where(label < num_classes, label, np.uint8(VOID)).astype(np.uint8)


def require_classes(
    names: Sequence[str],
    data_names: Sequence[str],
    *,
    holder: str = "the checkpoint",
    data: str = "the data",
    advice: str,
    finer: bool = True,
) -> None:
    """Require a model's classes to be a data set's, by name and order, or finer ones.

    A model without names fits any data with as many classes.

    Args:
        names: of the model's classes.
        data_names: of the data set's.
        holder: of ``names``, for the message.
        data: the data set, for the message.
        advice: what to do when they differ, a sentence.
        finer: whether a model's finer classes fit, and one's without names.

    Raises:
        ConfigError: naming what differs.
    """
    ours, theirs = tuple(names), tuple(data_names)
    unnamed = are_unnamed(ours) and len(ours) == len(theirs)
    if ours == theirs or (finer and (unnamed or meanings_of(theirs, ours))):
        return
    subject = holder.replace("the ", "The ", 1) if holder.startswith("the ") else holder
    counts = f"{subject} has {len(ours)} classes and {data} has {len(theirs)}"
    hint = " The data names no classes; its classes.txt would." if are_unnamed(theirs) else ""
    raise ConfigError(f"{counts}, and {_difference(ours, theirs, holder, data)}. {advice}{hint}")


def _difference(ours: tuple[str, ...], theirs: tuple[str, ...], holder: str, data: str) -> str:
    sides = ((holder, ours, theirs), (data, theirs, ours))
    alone = [
        f"only {who} has {_shown([name for name in names if name not in other])}"
        for who, names, other in sides
        if set(names) - set(other)
    ]
    if alone:
        return "; ".join(alone)
    place = next(place for place, name in enumerate(ours) if name != theirs[place])
    return f"their order differs: number {place} is {ours[place]} and {theirs[place]}"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def coarse_classes(
    names: tuple[str, ...], wanted: tuple[str, ...]
) -> Callable[[NDArray[np.float32]], NDArray[np.uint8]] | None:
    """Map a model's class scores (K, H, W) to a data set's coarser classes (H, W).

    Returns:
        The map; None where the wanted classes are the model's own.
    """
    meanings = meanings_of(wanted, names)
    if not meanings:
        return None
    members = [[names.index(member) for member in meanings[name]] for name in wanted]

    def coarse_map(class_scores: NDArray[np.float32]) -> NDArray[np.uint8]:
        sums = np.stack([class_scores[indices].sum(0) for indices in members])
        return np.asarray(sums.argmax(0), np.uint8)

    return coarse_map


class Translation:
    """Label values of one data set in the classes of another, with groups where it is coarser.

    Args:
        names: the data set's classes.
        groups: its groups, as indices of its classes.
        into: classes to translate into.
        meanings: of a name in ``into``; itself where it is not listed.
        known: groups that have numbers; new ones follow.

    Attributes:
        groups: all groups, as indices of ``into``.

    Raises:
        ConfigError: for a name without a meaning.
    """

    def __init__(
        self,
        names: Sequence[str],
        groups: Groups,
        into: Sequence[str],
        meanings: Mapping[str, Sequence[str]],
        known: Groups = (),
    ) -> None:
        numbered = list(known)
        self._table = np.arange(VOID + 1, dtype=np.uint8)
        meant = []
        for name in names:
            members = meanings.get(name, (name,))
            for member in members:
                require_choice("class", member, into)
            meant.append(tuple(sorted(into.index(member) for member in members)))
        meant += [tuple(sorted({c for index in group for c in meant[index]})) for group in groups]
        for value, classes in enumerate(meant):
            if len(classes) == 1:
                self._table[value] = classes[0]
                continue
            if classes not in numbered:
                numbered.append(classes)
            self._table[value] = len(into) + numbered.index(classes)
        if len(into) + len(numbered) > IGNORED:
            raise ConfigError(
                f"{len(into)} classes and {len(numbered)} groups; a label has room for {IGNORED}."
            )
        self.groups: Groups = tuple(numbered)

    def __call__(self, label: Array) -> Array:
        """Translate labels (H, W)."""
        return self._table[label]
