"""Anomaly data sets as a folder of images beside a folder of masks.

The layout of all five data sets of Mask2Anomaly's evaluation:

    <set>/images/<n>.{png,webp,jpg}
    <set>/labels_masks/<n>.png

    <set>               images   values of the masks
    RoadAnomaly21       png        0 known, 1 anomaly, 255 void
    RoadObsticle21      webp       the same (the name is spelt so)
    fs_static           jpg        the same
    FS_LostFound_full   png        the same; Fishyscapes' 100, not Lost and Found's 2,104
    RoadAnomaly         jpg        0 known, 2 anomaly, 255 void

SegmentMeIfYouCan's downloads name the masks otherwise (``training.data.sets.smiyc``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from ...metrics.pixel import ANOMALY, KNOWN
from ..base import Description, PairedImages, Scan
from ..faults import Fault
from ..reading import VOID, LabelReader, LabelValues

SMIYC_MASK = "_labels_semantic"
ZERO_ONE = LabelValues(
    {KNOWN: KNOWN, ANOMALY: ANOMALY, VOID: VOID}, "0 (known), 1 (anomaly) and 255 (void)"
)
ZERO_TWO = LabelValues({0: KNOWN, 2: ANOMALY, VOID: VOID}, "0 (known), 2 (anomaly) and 255 (void)")


class AnomalySet(PairedImages):
    """Images and where their anomalies are: labels 0 known, 1 anomaly, 255 void.

    Attributes:
        track: of SegmentMeIfYouCan, which sets the smallest components; None for neither.
        counted: how the benchmark counts it, and we; a sentence for tables of results.
        size: the benchmark's number of images.
        left_out: beginnings of the names of images that the benchmark leaves out.

    Raises:
        ConfigError: when images or labels are missing.
    """

    track: ClassVar[str | None] = None
    counted: ClassVar[str] = ""
    size: ClassVar[int | None] = None
    left_out: ClassVar[tuple[str, ...]] = ()
    marks: ClassVar[tuple[str, ...]] = ("images", "labels_masks")

    def __init__(self, root: str | Path) -> None:
        super().__init__(self.scan(Path(root)))

    def described(self) -> Description:
        """Describe the set for tables and results."""
        return Description(self.title, self.track, self.counted, self.size)

    @classmethod
    def scan(cls, root: Path) -> Scan:
        """Scan a folder."""
        return scan_masks(cls.title, root, ZERO_ONE, cls.left_out)


def scan_masks(title: str, root: Path, reader: LabelReader, left_out: tuple[str, ...] = ()) -> Scan:
    """Pair ``images`` and ``labels_masks``.

    SegmentMeIfYouCan's downloads have masks of the ``validation…`` images alone; others are left
    out, and so are images whose names begin as ``left_out``.
    """
    scan = Scan(f"{title} at {root}")
    images = scan.index(root / "images")
    labels = scan.index(
        root / "labels_masks", (SMIYC_MASK, ""), companions=(f"{SMIYC_MASK}_color.png",)
    )
    leave_out(scan, images, labels, [key for key in images if key.startswith(left_out)])
    if any(path.stem.endswith(SMIYC_MASK) for path in labels.values()):
        hidden = {
            key: path
            for key, path in images.items()
            if key not in labels and not key.startswith("validation")
        }
        scan.match(hidden, {}, reader, expected="", optional="a test image without a mask")
        images = {key: path for key, path in images.items() if key not in hidden}
    scan.match(images, labels, reader, expected="labels_masks/{key}.png")
    return scan.finish(root / "images")


def leave_out(
    scan: Scan, images: dict[str, Path], labels: dict[str, Path], keys: Iterable[str]
) -> None:
    """Take out the images that the benchmark leaves out, with a note of each."""
    for key in keys:
        scan.notes.append(Fault(images.pop(key), "not-counted", "left out by the benchmark"))
        labels.pop(key, None)
