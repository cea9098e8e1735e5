"""Lost and Found: small lost cargo on roads, 1,036 / 1,203 frames of 2048x1024.

Pinggera et al., "Lost and found: detecting small road hazards for self-driving vehicles" (the paper
counts 2,104 labelled frames). Laid out like Cityscapes:

    <root>/leftImg8bit/{train,test}/<sequence>/<name>_leftImg8bit.png
    <root>/gtCoarse/{train,test}/<sequence>/<name>_gtCoarse_labelIds.png

Values: 0 and 255 void, 1 free road and known, 2 to 200 objects and anomalies. ``test`` is measured,
as SegmentMeIfYouCan counts it (``LostAndFound-testNoKnown``, 1,043 frames, by the rules of its
obstacle track): without the scenes of children and bicycles, which are objects there but known
classes here, and without the 17 frames that have no label. These are recognised by their place
among all 1,203; of an incomplete copy they stay, void everywhere, which changes no figure. The
paper's own figures are of all frames.

Fishyscapes labels 100 frames of ``train`` and ``test`` anew, for the whole image and not only the
road (``training.data.sets.fishyscapes``): the two are different benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...metrics.pixel import ANOMALY, KNOWN
from ..base import Scan
from ..reading import VOID, LabelValues
from .mask_folders import AnomalySet, leave_out

IMAGE, IDS = "_leftImg8bit", "_gtCoarse_labelIds"
COMPANIONS = (
    "_gtCoarse_color.png",
    "_gtCoarse_instanceIds.png",
    "_gtCoarse_labelTrainIds.png",
    ".json",
)
SPLIT = "test"
FRAMES = 1203
# Places, by name, of the test frames without a label.
UNLABELLED = (17, 37, 55, 72, 91, 110, 129, 153, 174, 197, 218, 353, 490, 618, 686, 792, 793)
FOLDERS = ("lost_and_found", "LostAndFound", "lostandfound", "lost_found")
VALUES = LabelValues(
    {0: VOID, 1: KNOWN, VOID: VOID} | dict.fromkeys(range(2, 201), ANOMALY),
    "0 and 255 (void), 1 (known) and 2 to 200 (anomaly)",
)


class LostAndFound(AnomalySet):
    """Test frames and where the lost cargo is."""

    title = "Lost and Found"
    track = "obstacle"
    size = 1043
    counted = (
        "counted as SegmentMeIfYouCan's LostAndFound-testNoKnown: without the scenes of children "
        "and bicycles; all but the road is void; in components, segments below 50 pixels are "
        "dropped and obstacles below 10 are void"
    )
    left_out = (
        "15_Rechbergstr_Deckenpfronn",
        "01_Hanns_Klemm_Str_45_000006",
        "01_Hanns_Klemm_Str_45_000007",
        "10_Schlossberg_9_000004",
    )
    folders = FOLDERS
    marks = ("gtCoarse",)

    @classmethod
    def scan(cls, root: Path) -> Scan:
        """Scan a folder."""
        scan = Scan(f"{cls.title} at {root}")
        images = scan.index(root / "leftImg8bit" / SPLIT, (IMAGE,), nested=True)
        labels = scan.index(root / "gtCoarse" / SPLIT, (IDS,), nested=True, companions=COMPANIONS)
        leave_out(scan, images, labels, cls._not_counted(images))
        scan.match(images, labels, VALUES, expected=f"gtCoarse/{SPLIT}/{{key}}{IDS}.png")
        return scan.finish(root / "leftImg8bit" / SPLIT)

    @classmethod
    def _not_counted(cls, images: Mapping[str, Path]) -> list[str]:
        names = {key: key.rpartition("/")[2] for key in images}
        ordered = sorted(images, key=names.__getitem__)
        unlabelled = {ordered[place] for place in UNLABELLED} if len(ordered) == FRAMES else set()
        return [key for key in ordered if key in unlabelled or names[key].startswith(cls.left_out)]
