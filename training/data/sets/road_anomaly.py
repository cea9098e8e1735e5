"""RoadAnomaly (Lis et al., ICCV 2019, EPFL): web images of animals, rocks and cones on roads.

    <root>/frames/<name>.{jpg,webp,png}
    <root>/frames/<name>.labels/labels_semantic.png    0 known, 2 anomaly, 255 void

The full set has 60 images of 1280x720; whatever part of it is there is used, so figures should
say how many images they stand on. Mask2Anomaly's folder ``RoadAnomaly`` is read too
(``training.data.sets.mask_folders``).
"""

from __future__ import annotations

from pathlib import Path

from ..base import Scan
from ..folders import any_exists, exists
from .mask_folders import ZERO_TWO, AnomalySet, scan_masks

FRAMES, LABELS, LABEL = "frames", ".labels", "labels_semantic.png"


class RoadAnomaly(AnomalySet):
    """Images and where their anomalies are; see ``AnomalySet``."""

    title = "RoadAnomaly"
    folders = ("road_anomaly", "RoadAnomaly", "dataset_RoadAnomaly")
    marks = (FRAMES, *AnomalySet.marks)

    @classmethod
    def scan(cls, root: Path) -> Scan:
        """What a folder holds."""
        if not any_exists(root, FRAMES) and cls.recognised(root):
            return scan_masks(cls.title, root, ZERO_TWO)
        scan = Scan(f"{cls.title} at {root}")
        frames = root / FRAMES
        images = scan.index(frames)
        labels = {key: frames / f"{key}{LABELS}" / LABEL for key in images}
        labels = {key: path for key, path in labels.items() if exists(path) or path.is_symlink()}
        for folder in sorted(frames.glob(f"*{LABELS}")):
            key = folder.name.removesuffix(LABELS)
            if key not in images:
                labels[key] = folder / LABEL
        scan.match(images, labels, ZERO_TWO, expected=f"{{key}}{LABELS}/{LABEL}")
        return scan.finish(frames)
