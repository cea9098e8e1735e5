"""The crops a run trains on: picture, label and name, in an order that the seed alone decides.

The n-th crop is a function of the seed and n, so a resumed run sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from training.data import LabelledPictures
from training.data.transforms import Augmentation


class Batch(TypedDict):
    """Training crops: images (B, 3, h, w) float32 in [0, 1], labels (B, h, w) int64, names."""

    images: Tensor
    labels: Tensor
    names: list[str]


class Crop(NamedTuple):
    """One training sample as bytes: (h, w, 3) RGB, label (h, w), and the picture's name."""

    picture: NDArray[np.uint8]
    label: NDArray[np.uint8]
    name: str


def collate(crops: Sequence[Crop]) -> Batch:
    """Crops as one batch; the images lie in memory channels last."""
    pictures = torch.from_numpy(np.stack([crop.picture for crop in crops]))
    labels = torch.from_numpy(np.stack([crop.label for crop in crops]))
    return {
        "images": pictures.permute(0, 3, 1, 2).float() / 255.0,
        "labels": labels.long(),
        "names": [crop.name for crop in crops],
    }


class TrainingCrops(Dataset[Crop]):
    """All crops of a run, in order.

    Args:
        pictures: where crops are cut from; every pass sees each picture once, in a new order.
        augmentation: how.
        length: number of crops of the whole run.
        seed: of the run.
        start: first crop to deliver, for a resumed run: element 0 is crop ``start``.
    """

    def __init__(
        self,
        pictures: LabelledPictures,
        augmentation: Augmentation,
        length: int,
        seed: int,
        start: int = 0,
    ) -> None:
        self.pictures = pictures
        self.augmentation = augmentation
        self.length = length
        self.seed = seed
        self.start = start

    def __len__(self) -> int:
        return self.length - self.start

    def __getitem__(self, index: int) -> Crop:
        n = self.start + index
        epoch, position = divmod(n, len(self.pictures))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures))
        chosen = int(order[position])
        rng = np.random.default_rng((self.seed, 1, n))
        picture, label = self.augmentation(*self.pictures.arrays(chosen), rng)
        return Crop(picture, label, self.pictures.names[chosen])
