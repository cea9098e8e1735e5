"""The crops a run trains on: image, label and name.

The n-th crop is a function of the seed and n, so a resumed run sees what it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mask2kan.errors import Mask2KANError

from . import LabelledImages
from .augmentation import Augmentation
from .mixture import Mixture
from .outliers import OutlierPaster


class Batch(TypedDict):
    """Training crops.

    ``images`` (B, 3, h, w), bytes, float32 in [0, 1] once ``prepared``; ``labels`` (B, h, w),
    bytes, then int64, as in ``training.data.label_space``; ``names`` of the images, ``numbers`` in
    the run, and ``views`` (equal for equal crops; the number where crops never repeat).
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    numbers: list[int]
    views: list[int]


class Crop(NamedTuple):
    """One training sample: (h, w, 3) RGB and label (h, w), bytes; else as in ``Batch``."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    name: str
    number: int
    view: int


class Unreadable(NamedTuple):
    """An error for the training process to raise, without a loading process's traceback."""

    error: Mask2KANError


def collate(drawn: Sequence[Crop | Unreadable]) -> Batch | Unreadable:
    """Stack crops into a batch, channels last in memory; or return the first unreadable one."""
    crops: list[Crop] = []
    for crop in drawn:
        if isinstance(crop, Unreadable):
            return crop
        crops.append(crop)
    images = torch.from_numpy(np.stack([crop.image for crop in crops]))
    return {
        "images": images.permute(0, 3, 1, 2),
        "labels": torch.from_numpy(np.stack([crop.label for crop in crops])),
        "names": [crop.name for crop in crops],
        "numbers": [crop.number for crop in crops],
        "views": [crop.view for crop in crops],
    }


def load(
    crops: TrainingCrops, batch_size: int, workers: int = 0, *, pin_memory: bool = False
) -> DataLoader[Crop | Unreadable]:
    """Load batches of crops in order, for ``prepared``; an incomplete last batch is dropped."""
    return DataLoader(
        crops,
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=workers,
        drop_last=True,
        pin_memory=pin_memory,
        # Its own generator, so that making an iterator draws nothing from the global one.
        generator=torch.Generator(),
    )


def prepared(batch: Batch | Unreadable) -> Batch:
    """Convert a batch to floats on its device: bytes travel faster.

    Raises:
        ImageError: for an image that could not be read.
    """
    if isinstance(batch, Unreadable):
        raise batch.error
    return {**batch, "images": batch["images"].float() / 255.0, "labels": batch["labels"].long()}


@dataclasses.dataclass(eq=False)
class TrainingCrops(Dataset[Crop | Unreadable]):
    """All crops of a run; every epoch sees each image once, in a new order.

    Of a mixture every crop is drawn anew, by the weights of its parts.

    Args:
        images: to cut crops from.
        augmentation: of each crop.
        length: number of crops of the whole run.
        seed: of the run.
        start: crop that is element 0, for a resumed run.
        paste: applied before cropping.
        views: fixed crops per image to choose from; 0 draws a new one every time.
    """

    images: LabelledImages
    augmentation: Augmentation
    length: int
    seed: int
    start: int = 0
    _: dataclasses.KW_ONLY
    paste: OutlierPaster | None = None
    views: int = 0

    def __post_init__(self) -> None:
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.length - self.start

    def __getitem__(self, index: int) -> Crop | Unreadable:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = self.start + index
        chosen, turn = self._choose(number)
        view = chosen * self.views + (turn + chosen) % self.views if self.views else number
        rng = np.random.default_rng((self.seed, 1, view))
        try:
            image, label = self.images.arrays(chosen)
            if self.paste is not None:
                objects = np.random.default_rng((self.seed, 2, view))
                image, label = self.paste(image, label, objects)
        except Mask2KANError as error:
            return Unreadable(error)
        image, label = self.augmentation(image, label, rng)
        return Crop(image, label, self.images.names[chosen], number, view)

    def _choose(self, number: int) -> tuple[int, int]:
        """The index of a crop's image, and the turn that decides its view."""
        if isinstance(self.images, Mixture) and not self.images.is_one:
            return self.images.choose(np.random.default_rng((self.seed, 3, number))), number
        epoch, position = divmod(number, len(self.images))
        return int(self._permutation(epoch)[position]), epoch

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch, cached for all its crops."""
        if self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._order = (epoch, rng.permutation(len(self.images)))
        return self._order[1]
