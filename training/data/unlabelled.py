"""Images without labels, for distillation: a folder of images, subfolders included.

Written ``pictures:<folder>`` after ``--data``. Every tenth image, by name, is for validation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mask2kan.errors import ConfigError
from mask2kan.media.images import SUFFIXES, list_images

from .augmentation import VOID
from .base import LabelledImages
from .reading import Array, decode_image, read_file

PREFIX = "pictures:"
EVERY = 10  # one in so many images is for validation


class UnlabelledImages(LabelledImages):
    """The ``train`` or ``val`` split of a folder of images; all labels are void.

    Raises:
        ConfigError: for a folder that is missing or holds fewer than two images.
    """

    num_classes = 0
    class_names = ()
    palette = ()

    def __init__(self, root: str | Path, split: str) -> None:
        root = Path(root)
        if not root.is_dir():
            raise ConfigError(f"No images at {root}: it is no folder.")
        paths = list_images(root, nested=True)
        if len(paths) < 2:
            raise ConfigError(
                f"{root} holds {len(paths)} images ({', '.join(SUFFIXES)}); at least two "
                "are needed, one of them for validation."
            )
        self.paths = [
            path for place, path in enumerate(paths) if (place % EVERY == 0) == (split == "val")
        ]
        self.names = [path.relative_to(root).with_suffix("").as_posix() for path in self.paths]

    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return the image (H, W, 3) RGB and an all-void label (H, W).

        Raises:
            FaultError: when the file is damaged or no image.
        """
        path = self.paths[index]
        image = decode_image(path, read_file(path))
        return image, np.full(image.shape[:2], VOID, np.uint8)
