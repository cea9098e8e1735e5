"""Pictures without labels, for distillation: any folder of pictures, subfolders included.

Written ``pictures:<folder>`` after ``--data``. Every tenth picture, by name, is for validation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mask2kan.errors import ConfigError
from mask2kan.media.images import SUFFIXES, list_images

from .augmentation import VOID
from .base import LabelledPictures
from .reading import Array, decode_picture, read_file

PREFIX = "pictures:"
EVERY = 10  # one in so many pictures is for validation


class UnlabelledPictures(LabelledPictures):
    """A split of a folder of pictures; all labels are void.

    Args:
        root: the folder.
        split: ``train`` or ``val``.

    Raises:
        ConfigError: for a folder that is missing or holds fewer than two pictures.
    """

    num_classes = 0
    class_names = ()
    palette = ()

    def __init__(self, root: str | Path, split: str) -> None:
        root = Path(root)
        if not root.is_dir():
            raise ConfigError(f"No pictures at {root}: it is no folder.")
        found = list_images(root, nested=True)
        if len(found) < 2:
            raise ConfigError(
                f"{root} holds {len(found)} pictures ({', '.join(SUFFIXES)}); at least two "
                "are needed, one of them for validation."
            )
        self._paths = (
            found[::EVERY]
            if split == "val"
            else [path for index, path in enumerate(found) if index % EVERY]
        )
        self.names = [path.relative_to(root).with_suffix("").as_posix() for path in self._paths]

    def arrays(self, index: int) -> tuple[Array, Array]:
        """The picture (H, W, 3) RGB and a label (H, W) that is void everywhere.

        Raises:
            FaultError: when the file is no picture, or damaged.
        """
        path = self._paths[index]
        picture = decode_picture(path, read_file(path))
        return picture, np.full(picture.shape[:2], VOID, np.uint8)
