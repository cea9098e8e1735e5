"""ADE20K in the form of SceneParse150: 20,210 / 2,000 images of scenes, 150 classes (BSD).

Zhou et al., "Scene parsing through ADE20K dataset". Layout of ``ADEChallengeData2016``:

    <root>/images/{training,validation}/<name>.jpg
    <root>/annotations/{training,validation}/<name>.png    0 void; 1 wall … 150 flag

The classes become 0 … 149; ``train`` is ``training``, ``val`` is ``validation``. The labels of the
test images are not published.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from mask2kan.modeling.classes import ADE20K, palette_for

from ..base import Scan, SegmentationImages
from ..reading import VOID, LabelValues

SPLIT_FOLDERS = MappingProxyType({"train": "training", "val": "validation"})
PARTS = ("images", "annotations")
VALUES = LabelValues(
    {0: VOID} | {value: value - 1 for value in range(1, len(ADE20K) + 1)}, "0 (void) and 1 to 150"
)


class ADE20KImages(SegmentationImages):
    """One split of ADE20K."""

    title = "ADE20K"
    folders = ("ade20k", "ADE20K", "ADEChallengeData2016")
    marks = tuple(f"{part}/{split}" for part in PARTS for split in SPLIT_FOLDERS.values())
    splits = ("train", "val")
    class_names = ADE20K
    palette = palette_for(ADE20K)

    @classmethod
    def scan(cls, root: Path, split: str) -> Scan:
        """Scan a folder for a split."""
        scan = Scan(f"{cls.title} {split} at {root}")
        folder = SPLIT_FOLDERS[split]
        images = scan.index(root / "images" / folder)
        labels = scan.index(root / "annotations" / folder)
        scan.match(images, labels, VALUES, expected="annotations/…/{key}.png")
        return scan.finish(root / "images" / folder)
