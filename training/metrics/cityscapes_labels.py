"""Cityscapes' label table (Cordts et al., 2016, and its scripts): ids, train ids and categories.

``instanceIds`` files hold the label id, or id x 1000 + number for single objects. Train ids follow
``mask2kan.modeling.classes.CITYSCAPES``; labels without one are void.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mask2kan.modeling.classes import CITYSCAPES

VOID = 255
INSTANCE_FACTOR = 1000


class CityscapesLabel(NamedTuple):
    """One id of the ground truth."""

    name: str
    category: str

    @property
    def train_id(self) -> int:
        """Index of the predicted class; 255 (void) where the label does not count."""
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
    "vehicle": ("car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
}

# The place in the list is the id.
LABELS = tuple(
    CityscapesLabel(name, category) for category, names in _NAMES.items() for name in names
)

# The seven groups that the evaluation counts, in the table's order.
CATEGORIES: tuple[str, ...] = tuple(dict.fromkeys(la.category for la in LABELS if la.evaluated))


def _read_only(values: list[int]) -> npt.NDArray[np.uint8]:
    table = np.array(values, np.uint8)
    table.setflags(write=False)
    return table


_LABEL_IDS = {label.name: label_id for label_id, label in enumerate(LABELS)}

TRAIN_ID_OF_LABEL_ID = _read_only(
    [label.train_id for label in LABELS] + [VOID] * (256 - len(LABELS))
)
"""(256,) uint8: ``TRAIN_ID_OF_LABEL_ID[label_ids]`` is the map of train ids, 255 = void."""

LABEL_ID_OF_TRAIN_ID = _read_only([_LABEL_IDS[name] for name in CITYSCAPES])
"""(19,) uint8: the id that a prediction of each class is stored as."""
