"""Lost and Found: small lost cargo on roads, 1,036 / 1,203 frames of 2048x1024.

Pinggera et al., "Lost and found: detecting small road hazards for self-driving vehicles" (the paper
counts 2,104 labelled frames). Laid out like Cityscapes:

    <root>/leftImg8bit/{train,test}/<sequence>/<name>_leftImg8bit.png
    <root>/gtCoarse/{train,test}/<sequence>/<name>_gtCoarse_labelIds.png

Values: 0 and 255 void, 1 free road and known, 2 to 200 objects and anomalies. ``test`` is measured.
Fishyscapes labels 100 of its frames anew (``training.data.sets.fishyscapes``).
"""

from __future__ import annotations

from pathlib import Path

from ...metrics.pixel import ANOMALY, KNOWN
from ..base import Scan
from ..reading import VOID, LabelValues
from .mask_folders import AnomalySet

IMAGE, IDS = "_leftImg8bit", "_gtCoarse_labelIds"
COMPANIONS = (
    "_gtCoarse_color.png",
    "_gtCoarse_instanceIds.png",
    "_gtCoarse_labelTrainIds.png",
    ".json",
)
SPLIT = "test"
FOLDERS = ("lost_and_found", "LostAndFound", "lostandfound", "lost_found")
VALUES = LabelValues(
    {0: VOID, 1: KNOWN, VOID: VOID} | dict.fromkeys(range(2, 201), ANOMALY),
    "0 and 255 (void), 1 (known) and 2 to 200 (anomaly)",
)


class LostAndFound(AnomalySet):
    """Test frames and where the lost cargo is."""

    title = "Lost and Found"
    track = "obstacle"
    folders = FOLDERS
    marks = ("gtCoarse",)

    @classmethod
    def scan(cls, root: Path) -> Scan:
        """Scan a folder."""
        scan = Scan(f"{cls.title} at {root}")
        images = scan.index(root / "leftImg8bit" / SPLIT, (IMAGE,), nested=True)
        labels = scan.index(root / "gtCoarse" / SPLIT, (IDS,), nested=True, companions=COMPANIONS)
        scan.match(images, labels, VALUES, expected=f"gtCoarse/{SPLIT}/{{key}}{IDS}.png")
        return scan.finish(root / "leftImg8bit" / SPLIT)
