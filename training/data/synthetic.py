"""A stand-in for CamVid that needs no download: street-like layers of flat shapes.

The same interface, size and 11 classes as ``CamVid``. Each class has its own colour (with noise
and a varying light), so a working training reaches a high score in minutes; the figure means
nothing beyond "training works".
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mask2kan.classes import CAMVID
from training.data.camvid import SPLITS, VOID

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)


class SyntheticStreets(Dataset[tuple[Tensor, Tensor]]):
    """Procedural pictures: picture i of a split is always the same.

    Args:
        split: ``train``, ``val`` or ``test``; they hold different pictures.
        length: number of pictures.
        size: (height, width).
    """

    num_classes = 11

    def __init__(self, split: str, length: int = 64, size: tuple[int, int] = (360, 480)) -> None:
        self.names = [f"{split}_{index:04d}" for index in range(length)]
        self.size = size
        self._seed = SPLITS.index(split)
        self._drawn: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) RGB and its label (H, W), 255 = void, as bytes; do not write."""
        if index not in self._drawn:
            rng = np.random.default_rng((self._seed, index))
            label = _draw_label(self.size, rng)
            self._drawn[index] = (_paint(label, rng), label)
        return self._drawn[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, label = self.arrays(index)
        image = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / 255.0)
        return image, torch.from_numpy(label.astype(np.int64))


def _draw_label(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = size
    label = np.full(size, SKY, np.uint8)
    horizon = int(height * rng.uniform(0.4, 0.55))

    def box(kind: int, foot: int, tall: float, wide: float) -> None:
        left = int(rng.integers(width))
        corner = (left, foot - int(tall * height))
        cv2.rectangle(label, corner, (left + max(2, int(wide * width)), foot), kind, -1)

    for kind, count, tall, wide in ((BUILDING, 4, 0.35, 0.25), (TREE, 3, 0.25, 0.1)):
        for _ in range(count):
            box(kind, horizon + 4, tall * rng.uniform(0.6, 1.2), wide * rng.uniform(0.6, 1.2))
    label[horizon:] = PAVEMENT
    middle = int(width * rng.uniform(0.35, 0.65))
    road = np.array([[middle, horizon], [-width // 5, height], [width + width // 5, height]])
    cv2.fillPoly(label, [road.astype(np.int32)], ROAD)
    small = (
        (FENCE, 0.08, 0.2),
        (POLE, 0.45, 0.015),
        (SIGN, 0.06, 0.05),
        (CAR, 0.14, 0.18),
        (PEDESTRIAN, 0.18, 0.05),
        (BICYCLIST, 0.15, 0.07),
    )
    for kind, tall, wide in small:
        for _ in range(int(rng.integers(1, 4))):
            foot = int(rng.integers(horizon, height))
            grow = 0.7 + (foot - horizon) / height
            box(kind, foot - (height // 4 if kind == SIGN else 0), tall * grow, wide * grow)
    label[-height // 40 :] = VOID
    return label


def _paint(label: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    colours = np.zeros((256, 3), np.float32)
    colours[: len(CAMVID)] = list(CAMVID.values())
    picture = colours[label] * rng.uniform(0.6, 1.0) + rng.uniform(0, 40)
    picture += rng.normal(0.0, 12.0, picture.shape)
    out: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return out
