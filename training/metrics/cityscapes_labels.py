"""Cityscapes' label table: the 34 ids of its ground truth, train ids, categories.

Facts of the data set (Cordts et al., "The Cityscapes Dataset", 2016, and the labels published with
its scripts). ``*_gtFine_labelIds.png`` holds the id; ``*_gtFine_instanceIds.png`` holds the id
where instances are not told apart, and id x 1000 + number where they are. The nineteen labels that
count have a train id, in the order of ``mask2kan.modeling.classes.CITYSCAPES``; all others are
void, both in training and in the evaluation. The licence plate (id -1) never occurs in these files.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mask2kan.modeling.classes import CITYSCAPES

VOID = 255
INSTANCE_FACTOR = 1000


class CityscapesLabel(NamedTuple):
    """One id of the ground truth.

    Attributes:
        name: the data set's own.
        category: the group it belongs to.
    """

    name: str
    category: str

    @property
    def train_id(self) -> int:
        """Index of the class a model predicts; 255 (void) where the label does not count."""
        return _TRAIN_IDS.get(self.name, VOID)

    @property
    def evaluated(self) -> bool:
        """Whether pixels of this label count."""
        return self.train_id != VOID


_TRAIN_IDS = {name: train_id for train_id, name in enumerate(CITYSCAPES)}

_NAMES = {
    "void": (
        *("unlabeled", "ego vehicle", "rectification border", "out of roi"),
        *("static", "dynamic", "ground"),
    ),
    "flat": ("road", "sidewalk", "parking", "rail track"),
    "construction": ("building", "wall", "fence", "guard rail", "bridge", "tunnel"),
    "object": ("pole", "polegroup", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": (*("car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),),
}

# The place in the list is the id.
LABELS = tuple(
    CityscapesLabel(name, category) for category, names in _NAMES.items() for name in names
)

# The seven groups that the evaluation counts, in the table's order.
CATEGORIES: tuple[str, ...] = tuple(dict.fromkeys(la.category for la in LABELS if la.evaluated))


def _train_id_of_label_id() -> npt.NDArray[np.uint8]:
    table = np.full(256, VOID, np.uint8)
    table[: len(LABELS)] = [label.train_id for label in LABELS]
    table.setflags(write=False)
    return table


def _label_id_of_train_id() -> npt.NDArray[np.uint8]:
    ids = [label_id for label_id, label in enumerate(LABELS) if label.evaluated]
    assert [LABELS[label_id].train_id for label_id in ids] == list(range(len(ids)))
    table = np.array(ids, np.uint8)
    table.setflags(write=False)
    return table


TRAIN_ID_OF_LABEL_ID = _train_id_of_label_id()
"""(256,) uint8: ``TRAIN_ID_OF_LABEL_ID[label_ids]`` is the map of train ids, 255 = void."""

LABEL_ID_OF_TRAIN_ID = _label_id_of_train_id()
"""(19,) uint8: the id that a prediction of each class is stored as."""
