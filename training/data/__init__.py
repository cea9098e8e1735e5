"""Data sets and how training reads them.

``open_split`` turns what a user wrote after ``--data`` into a data set; ``TrainingCrops`` is the
endless stream of augmented crops of a run, whose n-th element depends on the seed and n alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mask2kan.errors import ConfigError
from training.data.camvid import CamVid
from training.data.synthetic import SyntheticStreets
from training.data.transforms import Augmentation

__all__ = [
    "Augmentation",
    "Batch",
    "CamVid",
    "Crop",
    "LabelledPictures",
    "SyntheticStreets",
    "TrainingCrops",
    "collate",
    "find_data",
    "open_split",
]


class LabelledPictures(Protocol):
    """What every data set here offers besides indexing."""

    names: list[str]
    num_classes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) RGB and its label (H, W), 255 = void, as bytes; do not write."""
        ...


def find_data(name: str | Path) -> Path:
    """A file or folder of data: a path as it is, or below one of the places where data lies.

    The places are ``$MASK2KAN_DATA``, ``data`` in the repository and ``shared/data`` beside it.

    Raises:
        ConfigError: when it is in none of them.
    """
    root = Path(__file__).resolve().parents[2]
    places = [root / "data", root.parent / "shared" / "data"]
    if "MASK2KAN_DATA" in os.environ:
        places.insert(0, Path(os.environ["MASK2KAN_DATA"]))
    for candidate in [Path(name), *(place / name for place in places)]:
        if candidate.exists():
            return candidate
    raise ConfigError(
        f"No data at {name}: it is no path, and not in {', '.join(map(str, places))}. Give its "
        "path, set MASK2KAN_DATA to the folder that holds it, or train on --data synthetic."
    )


def open_split(data: str | Path, split: str) -> LabelledPictures:
    """A split of the data set at a folder, or of the ``synthetic`` twin.

    Args:
        data: see ``find_data``, e.g. ``camvid``; or ``synthetic``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: when there is no data set of the expected layout.
    """
    if str(data) == "synthetic":
        return SyntheticStreets(split)
    return CamVid(find_data(data), split)


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
