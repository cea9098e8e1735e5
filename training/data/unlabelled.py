"""Pictures without labels, for distillation: any folder of pictures, subfolders included.

Written ``pictures:<folder>`` after ``--data``. Every tenth picture, by name, is for validation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.errors import ConfigError
from mask2kan.media.images import read_picture

from .augmentation import VOID
from .base import PICTURE_TYPES

PREFIX = "pictures:"
EVERY = 10  # one in so many pictures is for validation


class UnlabelledPictures:
    """A split of a folder of pictures; all labels are void.

    Args:
        root: the folder.
        split: ``train`` or ``val``.

    Raises:
        ConfigError: for a folder that is missing or holds fewer than two pictures.
    """

    num_classes = 0
    class_names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()

    def __init__(self, root: str | Path, split: str) -> None:
        root = Path(root)
        if not root.is_dir():
            raise ConfigError(f"No pictures at {root}: it is no folder.")
        found = sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURE_TYPES)
        if len(found) < 2:
            raise ConfigError(
                f"{root} holds {len(found)} pictures ({', '.join(PICTURE_TYPES)}); at least two "
                "are needed, one of them for validation."
            )
        self._paths = (
            found[::EVERY]
            if split == "val"
            else [path for index, path in enumerate(found) if index % EVERY]
        )
        self.names = [path.relative_to(root).with_suffix("").as_posix() for path in self._paths]

    def __len__(self) -> int:
        return len(self.names)

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) RGB and a label (H, W) that is void everywhere."""
        picture = read_picture(self._paths[index])
        return picture, np.full(picture.shape[:2], VOID, np.uint8)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, label = self.arrays(index)
        image = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / 255.0)
        return image, torch.from_numpy(label.astype(np.int64))
