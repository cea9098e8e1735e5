"""The crops a run trains on: image, label and name, in an order that the seed alone decides.

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

    ``images`` (B, 3, h, w), bytes as loaded and float32 in [0, 1] once ``prepared``; ``labels``
    (B, h, w), bytes and then int64, as in ``training.data.label_space``;
    of each crop its image's name, its number in the run, and its ``view``, which is equal for
    crops that are equal (its number, unless crops repeat).
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    numbers: list[int]
    views: list[int]


class Crop(NamedTuple):
    """One training sample as bytes, (h, w, 3) RGB and label (h, w); the rest as in ``Batch``."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    name: str
    number: int
    view: int


class Unreadable(NamedTuple):
    """A crop that could not be made; travels to the training process, which stops with it.

    An error raised in a loading process would arrive wrapped in that process's traceback.
    """

    error: Mask2KANError


def collate(drawn: Sequence[Crop | Unreadable]) -> Batch | Unreadable:
    """Crops as one batch, the images channels last in memory; or the first that is unreadable."""
    crops: list[Crop] = []
    for one in drawn:
        if isinstance(one, Unreadable):
            return one
        crops.append(one)
    images = torch.from_numpy(np.stack([crop.image for crop in crops]))
    labels = torch.from_numpy(np.stack([crop.label for crop in crops]))
    return {
        "images": images.permute(0, 3, 1, 2),
        "labels": labels,
        "names": [crop.name for crop in crops],
        "numbers": [crop.number for crop in crops],
        "views": [crop.view for crop in crops],
    }


def load(
    crops: TrainingCrops, batch_size: int, workers: int = 0, *, pin_memory: bool = False
) -> DataLoader[Crop | Unreadable]:
    """Batches of crops in their order, for ``prepared``; what is left over is dropped."""
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
    """A batch as the model wants it, made where it is: bytes travel faster than floats.

    Raises:
        ImageError: for an image that could not be read.
    """
    if isinstance(batch, Unreadable):
        raise batch.error
    images, labels = batch["images"].float() / 255.0, batch["labels"].long()
    return {**batch, "images": images, "labels": labels}


@dataclasses.dataclass(eq=False)
class TrainingCrops(Dataset[Crop | Unreadable]):
    """All crops of a run, in order; every pass sees each image once, in a new order.

    Of a mixture every crop is drawn anew, by the weights of its parts.

    Args:
        images: where crops are cut from.
        augmentation: how.
        length: number of crops of the whole run.
        seed: of the run.
        start: first crop to deliver, for a resumed run: element 0 is crop ``start``.
        paste: pastes outliers into an image before it is cropped.
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
        view = number
        if self.views:
            view = chosen * self.views + (turn + chosen) % self.views
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
        """The image of a crop, and which of its turns this is."""
        if isinstance(self.images, Mixture) and not self.images.is_one:
            return self.images.choose(np.random.default_rng((self.seed, 3, number))), number
        epoch, position = divmod(number, len(self.images))
        return int(self._permutation(epoch)[position]), epoch

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        """The order of a pass; kept, since every crop of the pass asks for it."""
        if self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._order = (epoch, rng.permutation(len(self.images)))
        return self._order[1]
