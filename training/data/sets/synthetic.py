"""Stand-ins for data sets that need no download: layers of flat shapes.

``SyntheticStreets`` has CamVid's 11 or Cityscapes' 19 classes, ``SyntheticRooms`` ADE20K's 150;
``SyntheticAnomalies`` are streets with an object of no class. Images are drawn when asked for;
image i of a split is always the same.

Each class has its own colour (with noise and a varying light), so training reaches a high score in
minutes, which means nothing beyond "training works".
"""

from __future__ import annotations

import abc
import dataclasses

import cv2
import numpy as np

from mask2kan.checks import require_choice
from mask2kan.modeling.classes import ADE20K, CAMVID, CITYSCAPES, palette_for

from ...metrics.pixel import ANOMALY, KNOWN
from ..base import AnomalyImages, Color, Description, LabelledImages
from ..reading import VOID, Array, Size

SPLITS = ("train", "val", "test")
SIZE = (360, 480)


@dataclasses.dataclass(frozen=True)
class _Street:
    """Classes of a street; boxes are (class, height, width) as shares of the image.

    Attributes:
        behind: (class, how many, height, width) of boxes that stand on the horizon.
        boxes: one to three of each stand anywhere below.
        raised: classes of boxes that hang above where they would stand.
    """

    classes: dict[str, Color]
    sky: int
    pavement: int
    road: int
    behind: tuple[tuple[int, int, float, float], ...]
    boxes: tuple[tuple[int, float, float], ...]
    raised: tuple[int, ...]


def _street(
    classes: dict[str, Color],
    pavement: str,
    tree: str,
    boxes: dict[str, tuple[float, float]],
    raised: tuple[str, ...],
) -> _Street:
    index = {name: place for place, name in enumerate(classes)}
    return _Street(
        classes,
        index["sky"],
        index[pavement],
        index["road"],
        ((index["building"], 4, 0.35, 0.25), (index[tree], 3, 0.25, 0.1)),
        tuple((index[name], tall, wide) for name, (tall, wide) in boxes.items()),
        tuple(index[name] for name in raised),
    )


_CAMVID_BOXES = {
    "fence": (0.08, 0.2),
    "pole": (0.45, 0.015),
    "sign symbol": (0.06, 0.05),
    "car": (0.14, 0.18),
    "pedestrian": (0.18, 0.05),
    "bicyclist": (0.15, 0.07),
}
_CITYSCAPES_BOXES = {
    "wall": (0.08, 0.25),
    "fence": (0.08, 0.2),
    "terrain": (0.05, 0.25),
    "pole": (0.45, 0.015),
    "traffic light": (0.08, 0.03),
    "traffic sign": (0.06, 0.05),
    "train": (0.2, 0.3),
    "bus": (0.22, 0.22),
    "truck": (0.2, 0.2),
    "car": (0.14, 0.18),
    "motorcycle": (0.1, 0.08),
    "bicycle": (0.1, 0.07),
    "rider": (0.16, 0.05),
    "person": (0.18, 0.05),
}
_RAISED = ("traffic light", "traffic sign")
_STREETS = {
    "camvid": _street(CAMVID, "pavement", "tree", _CAMVID_BOXES, ("sign symbol",)),
    "cityscapes": _street(CITYSCAPES, "sidewalk", "vegetation", _CITYSCAPES_BOXES, _RAISED),
}


class _Drawn(LabelledImages):
    """Procedural images, kept once drawn; see ``SyntheticStreets``."""

    def __init__(self, split: str, length: int = 64, size: Size = SIZE) -> None:
        require_choice("split", split, SPLITS)
        self.names = [f"{split}_{index:04d}" for index in range(length)]
        self.size = size
        self._seed = SPLITS.index(split)
        self._drawn: dict[int, tuple[Array, Array]] = {}

    def arrays(self, index: int) -> tuple[Array, Array]:
        if index not in self._drawn:
            rng = np.random.default_rng((self._seed, index))
            label = self._label(rng)
            self._drawn[index] = (_paint(label, self.palette, rng), label)
        return self._drawn[index]

    @abc.abstractmethod
    def _label(self, rng: np.random.Generator) -> Array:
        """Labels (H, W) of an image, to be painted."""


class SyntheticStreets(_Drawn):
    """Streets with the classes of CamVid or Cityscapes.

    Args:
        split: ``train``, ``val`` or ``test``; they hold different images.
        length: number of images.
        size: (height, width).
        classes: ``camvid`` or ``cityscapes``.

    Raises:
        ConfigError: for another split.
    """

    def __init__(
        self, split: str, length: int = 64, size: Size = SIZE, classes: str = "camvid"
    ) -> None:
        super().__init__(split, length, size)
        self._street = _STREETS[classes]
        self.class_names = tuple(self._street.classes)
        self.palette = tuple(self._street.classes.values())
        self.num_classes = len(self.class_names)

    def _label(self, rng: np.random.Generator) -> Array:
        return _draw_street(self.size, self._street, rng)


class SyntheticRooms(_Drawn):
    """Rooms with the 150 classes of ADE20K: wall, floor, ceiling and a dozen boxes of any class."""

    num_classes = len(ADE20K)
    class_names = ADE20K
    palette = palette_for(ADE20K)

    def _label(self, rng: np.random.Generator) -> Array:
        height, width = self.size
        label = np.full(self.size, ADE20K.index("wall"), np.uint8)
        label[: int(height * rng.uniform(0.1, 0.25))] = ADE20K.index("ceiling")
        label[int(height * rng.uniform(0.6, 0.8)) :] = ADE20K.index("floor")
        for kind in rng.choice(len(ADE20K), 12, replace=False):
            top, left = int(rng.integers(height)), int(rng.integers(width))
            corner = (
                left + int(width * rng.uniform(0.05, 0.3)),
                top + int(height * rng.uniform(0.05, 0.3)),
            )
            cv2.rectangle(label, (left, top), corner, int(kind), -1)
        label[-height // 40 :] = VOID
        return label


class SyntheticAnomalies(AnomalyImages):
    """Streets with one object of no class each: a checkered polygon on the ground."""

    title = "Synthetic anomalies"

    def __init__(self, length: int = 16, size: Size = SIZE) -> None:
        self._streets = SyntheticStreets("test", length, size)
        self.names = [f"anomaly_{index:04d}" for index in range(length)]

    def described(self) -> Description:
        """Describe the set for tables and results."""
        return Description(self.title)

    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return the image (H, W, 3) RGB and its label (H, W): 0 known, 1 anomaly, 255 void."""
        image, classes = self._streets.arrays(index)
        rng = np.random.default_rng((len(SPLITS), index))
        height, width = classes.shape
        radius = height * rng.uniform(0.06, 0.15)
        middle = np.array([width * rng.uniform(0.2, 0.8), height * rng.uniform(0.6, 0.8)])
        angles = np.sort(rng.uniform(0.0, 2.0 * np.pi, 9))
        reach = radius * rng.uniform(0.6, 1.3, (9, 1))
        corners = middle + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        label = np.where(classes == VOID, VOID, KNOWN).astype(np.uint8)
        cv2.fillPoly(label, [corners.astype(np.int32)], ANOMALY)
        label[classes == VOID] = VOID
        rows, columns = np.indices(label.shape) // max(2, height // 60)
        checker = ((rows + columns) % 2 * 255).astype(np.uint8)
        colours = np.stack([checker, np.full_like(checker, 40), 255 - checker // 2], axis=-1)
        out = image.copy()
        out[label == ANOMALY] = colours[label == ANOMALY]
        return out, label


def _draw_street(size: Size, street: _Street, rng: np.random.Generator) -> Array:
    height, width = size
    label = np.full(size, street.sky, np.uint8)
    horizon = int(height * rng.uniform(0.4, 0.55))

    def box(kind: int, foot: int, tall: float, wide: float) -> None:
        left = int(rng.integers(width))
        corner = (left, foot - int(tall * height))
        cv2.rectangle(label, corner, (left + max(2, int(wide * width)), foot), kind, -1)

    for kind, count, tall, wide in street.behind:
        for _ in range(count):
            box(kind, horizon + 4, tall * rng.uniform(0.6, 1.2), wide * rng.uniform(0.6, 1.2))
    label[horizon:] = street.pavement
    middle = int(width * rng.uniform(0.35, 0.65))
    road = np.array([[middle, horizon], [-width // 5, height], [width + width // 5, height]])
    cv2.fillPoly(label, [road.astype(np.int32)], street.road)
    for kind, tall, wide in street.boxes:
        for _ in range(int(rng.integers(1, 4))):
            foot = int(rng.integers(horizon, height))
            grow = 0.7 + (foot - horizon) / height
            above = height // 4 if kind in street.raised else 0
            box(kind, foot - above, tall * grow, wide * grow)
    label[-height // 40 :] = VOID
    return label


def _paint(label: Array, palette: tuple[Color, ...], rng: np.random.Generator) -> Array:
    colours = np.zeros((256, 3), np.float32)
    colours[: len(palette)] = palette
    image = colours[label] * rng.uniform(0.6, 1.0) + rng.uniform(0, 40)
    image += rng.normal(0.0, 12.0, image.shape)
    return np.asarray(np.clip(image, 0, 255), np.uint8)
