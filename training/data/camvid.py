"""CamVid: 367 / 101 / 233 labelled road pictures, 480x360, 11 classes (CC BY-NC 4.0).

Brostow et al., "Semantic object classes in video", in the split and classes of SegNet. Expected
folder: ``<root>/{train,val,test}/{images,labels}``, pictures of any common format and 8-bit
label PNGs of the same name. Pictures are decoded once and kept in memory (190 MB for ``train``).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mask2kan.errors import ConfigError

VOID = 255
FILE_VOID = 11
SPLITS = ("train", "val", "test")
PICTURE_TYPES = (".webp", ".png", ".jpg", ".jpeg")


class CamVid(Dataset[tuple[Tensor, Tensor]]):
    """One split as (image (3, H, W) float32 in [0, 1], label (H, W) int64, 255 = void) pairs.

    Args:
        root: folder that holds the splits.
        split: ``train``, ``val`` or ``test``.

    Attributes:
        names: the pictures' names without extension, sorted.
        num_classes: 11.

    Raises:
        ConfigError: when the folder is not laid out as expected.
    """

    num_classes = 11

    def __init__(self, root: str | Path, split: str) -> None:
        folder = Path(root) / split
        if split not in SPLITS:
            raise ConfigError(
                f"CamVid has no split {split!r}; expected one of {', '.join(SPLITS)}."
            )
        if not (folder / "images").is_dir() or not (folder / "labels").is_dir():
            raise ConfigError(
                f"No CamVid at {root}: {folder}/images and {folder}/labels were expected. Point "
                "--data at the folder that holds train, val and test, or use --data synthetic."
            )
        pictures = sorted(p for p in (folder / "images").iterdir() if p.suffix in PICTURE_TYPES)
        if not pictures:
            raise ConfigError(f"{folder}/images holds no picture ({', '.join(PICTURE_TYPES)}).")
        self.pictures = pictures
        self.labels = [folder / "labels" / f"{picture.stem}.png" for picture in pictures]
        missing = [label.name for label in self.labels if not label.is_file()]
        if missing:
            raise ConfigError(
                f"{folder}/labels lacks {len(missing)} of {len(pictures)} labels, first "
                f"{missing[0]}; every picture needs one of its name."
            )
        self.names = [picture.stem for picture in pictures]
        self._decoded: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def __len__(self) -> int:
        return len(self.pictures)

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) RGB and its label (H, W), 255 = void, as bytes; do not write."""
        if index not in self._decoded:
            self._decoded[index] = _decode(self.pictures[index], self.labels[index])
        return self._decoded[index]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, label = self.arrays(index)
        image = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / 255.0)
        return image, torch.from_numpy(label.astype(np.int64))


def _decode(picture_path: Path, label_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    with Image.open(picture_path) as opened:
        picture = np.asarray(opened.convert("RGB"))
    label = cv2.imread(str(label_path), cv2.IMREAD_GRAYSCALE)
    if label is None:
        raise ConfigError(f"Cannot read the label {label_path}; expected an 8-bit PNG.")
    if label.shape != picture.shape[:2]:
        raise ConfigError(
            f"{label_path.name} is {label.shape[1]}x{label.shape[0]}, its picture "
            f"{picture.shape[1]}x{picture.shape[0]}; they must be equal."
        )
    out = label.astype(np.uint8, copy=True)
    out[out >= FILE_VOID] = VOID
    return picture, out
