"""RoadAnomaly (Lis et al., ICCV 2019, EPFL): web images of animals, rocks and cones on roads.

    <root>/frames/<name>.{jpg,webp,png}
    <root>/frames/<name>.labels/labels_semantic.png    0 known, 2 anomaly, 255 void

The full set has 60 images of 1280x720; a part of it is read too, and results say so. So is
Mask2Anomaly's folder ``RoadAnomaly`` (``training.data.sets.mask_folders``).
"""

from __future__ import annotations

from pathlib import Path

from ..base import Scan
from ..folders import any_exists, exists
from .mask_folders import ZERO_TWO, AnomalySet, scan_masks

FRAMES, LABELS, LABEL = "frames", ".labels", "labels_semantic.png"


class RoadAnomaly(AnomalySet):
    """Images and where their anomalies are."""

    title = "RoadAnomaly"
    size = 60
    folders = ("road_anomaly", "RoadAnomaly", "dataset_RoadAnomaly")
    marks = (FRAMES, *AnomalySet.marks)

    @classmethod
    def scan(cls, root: Path) -> Scan:
        """Scan a folder."""
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
