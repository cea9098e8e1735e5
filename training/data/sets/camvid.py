"""CamVid: 367 / 101 / 233 labelled road images, 480x360, 11 classes (CC BY-NC 4.0).

Brostow et al., "Semantic object classes in video", in the split and classes of SegNet. Layout:

    <root>/{train,val,test}/images/<name>.{png,webp,jpg}
    <root>/{train,val,test}/labels/<name>.png    0 sky … 10 bicyclist; 11 or 255 void

Decoded images stay in memory (190 MB for ``train``).
"""

from __future__ import annotations

from pathlib import Path

from mask2kan.modeling.classes import CAMVID

from ..base import Scan, SegmentationImages, class_labels
from ..reading import VOID, Array

FILE_VOID = 11
SPLIT_MARKS = tuple(
    f"{split}/{part}" for split in SegmentationImages.splits for part in ("images", "labels")
)


class CamVid(SegmentationImages):
    """One split of CamVid."""

    title = "CamVid"
    folders = ("camvid", "CamVid")
    marks = SPLIT_MARKS
    class_names = tuple(CAMVID)
    palette = tuple(CAMVID.values())

    def __init__(self, root: str | Path, split: str) -> None:
        super().__init__(root, split)
        self._decoded: dict[int, tuple[Array, Array]] = {}

    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return image and label; the same arrays every time, so do not write."""
        if index not in self._decoded:
            self._decoded[index] = super().arrays(index)
        return self._decoded[index]

    @classmethod
    def claims(cls, root: Path) -> bool:
        """Whether it is named so, too: many own data are laid out alike."""
        return "camvid" in root.resolve().name.lower() and cls.recognised(root)

    @classmethod
    def scan(cls, root: Path, split: str) -> Scan:
        """Scan a folder for a split."""
        scan = Scan(f"{cls.title} {split} at {root}")
        reader = class_labels(len(CAMVID), void=(FILE_VOID, VOID))
        images, labels = scan.index(root / split / "images"), scan.index(root / split / "labels")
        scan.match(images, labels, reader, expected="labels/{key}.png")
        return scan.finish(root / split)
