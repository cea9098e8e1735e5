"""RoadAnomaly (Lis et al., ICCV 2019, EPFL): web pictures of animals, rocks and cones on roads.

Expected folder: ``<root>/frames/<name>.{jpg,webp,png}`` beside
``<root>/frames/<name>.labels/labels_semantic.png``, whose value 2 is an anomaly and 0 is not. The
full set has 60 pictures of 1280x720; whatever part of it is there is used, so figures should say
how many pictures they stand on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2kan.errors import ConfigError, PictureError
from mask2kan.pictures import read_picture
from training.metrics.pixel import ANOMALY, KNOWN, VOID

PICTURE_TYPES = (".jpg", ".jpeg", ".webp", ".png")
FILE_KNOWN, FILE_ANOMALY = 0, 2


class RoadAnomaly:
    """Pictures and where their anomalies are.

    Args:
        root: folder that holds ``frames``.

    Attributes:
        names: the pictures' names without extension, sorted.

    Raises:
        ConfigError: when the folder is not laid out as expected.
    """

    title = "RoadAnomaly"

    def __init__(self, root: str | Path) -> None:
        frames = Path(root) / "frames"
        if not frames.is_dir():
            raise ConfigError(
                f"No RoadAnomaly at {root}: {frames} was expected. Point --root at the folder "
                "that holds it."
            )
        self._pictures = sorted(p for p in frames.iterdir() if p.suffix.lower() in PICTURE_TYPES)
        if not self._pictures:
            raise ConfigError(f"{frames} holds no picture ({', '.join(PICTURE_TYPES)}).")
        self._labels = [
            picture.with_name(f"{picture.stem}.labels") / "labels_semantic.png"
            for picture in self._pictures
        ]
        missing = [str(label) for label in self._labels if not label.is_file()]
        if missing:
            raise ConfigError(
                f"{len(missing)} of {len(self._labels)} labels are missing, first {missing[0]}; "
                "every picture needs one."
            )
        self.names = [picture.stem for picture in self._pictures]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.names)

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) RGB and its label (H, W): 0 known, 1 anomaly, 255 void.

        Raises:
            PictureError: for a picture or label that cannot be read or has unexpected values.
        """
        picture = read_picture(self._pictures[index])
        path = self._labels[index]
        with Image.open(path) as opened:
            found = np.asarray(opened)
        if found.shape != picture.shape[:2]:
            raise PictureError(
                f"Label {path} has shape {found.shape} for a picture of {picture.shape[:2]}; "
                "expected one value per pixel."
            )
        others = set(np.unique(found).tolist()) - {FILE_KNOWN, FILE_ANOMALY, VOID}
        if others:
            raise PictureError(
                f"Label {path} holds {sorted(others)[:5]}; expected 0 (known), 2 (anomaly) and "
                "255 (void)."
            )
        label = np.full(found.shape, KNOWN, np.uint8)
        label[found == FILE_ANOMALY] = ANOMALY
        label[found == VOID] = VOID
        return picture, label
