"""The thesis's printed figures, Tables 3.1 to 3.6, and what is wrong with them.

``published.csv`` copies them as printed, errors included; ``NOTES`` names those under the tables.
Backbones and heads: as in the recipes ``thesis_<backbone>_<head>``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

BACKBONES: Mapping[str, str] = {
    "r50": "ResNet-50",
    "swin_t": "Swin-T",
    "swin_s": "Swin-S",
    "swin_b": "Swin-B",
    "swin_l": "Swin-L",
}
HEADS: Mapping[str, str] = {"mlp": "MLP", "kan": "KAN"}

CITYSCAPES_METRICS: Mapping[str, str] = {
    "iou": "IoU ↑",
    "iiou": "iIoU ↑",
    "category_iou": "category IoU ↑",
    "category_iiou": "category iIoU ↑",
}
CITYSCAPES_IMAGES = 500

ANOMALY_METRICS: Mapping[str, str] = {"auroc": "AuROC ↑", "ap": "AuPRC ↑", "fpr95": "FPR95 ↓"}
LOWER_IS_BETTER = frozenset({"fpr95"})
ANOMALY_SETS: Mapping[str, str] = {
    "road_anomaly_21": "RoadAnomaly21",
    "road_obstacle_21": "RoadObstacle21",
    "road_anomaly": "RoadAnomaly",
    "fishyscapes_static": "fs_static",
    "fishyscapes_lost_and_found": "FS_LostFound_full",
}
ANOMALY_IMAGES: Mapping[str, int] = {
    "road_anomaly_21": 10,
    "road_obstacle_21": 30,
    "road_anomaly": 60,
    "fishyscapes_static": 30,
    "fishyscapes_lost_and_found": 100,
}
# table -> the sets in it, and its backbones
ANOMALY_TABLES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "3.2": (("road_anomaly_21", "road_obstacle_21", "road_anomaly"), ("r50",)),
    "3.3": (("fishyscapes_static", "fishyscapes_lost_and_found"), ("r50",)),
    "3.4": (("road_anomaly_21", "road_obstacle_21"), ("swin_t", "swin_s", "swin_b", "swin_l")),
    "3.5": (
        ("road_anomaly", "fishyscapes_static", "fishyscapes_lost_and_found"),
        ("swin_t", "swin_s", "swin_b", "swin_l"),
    ),
}


def _printed() -> dict[str, dict[tuple[str, str], tuple[float, ...]]]:
    """Map data set -> (backbone, head), or (experiment, "") -> the metrics above."""
    figures: dict[str, dict[tuple[str, str], tuple[float, ...]]] = {}
    with Path(__file__).with_suffix(".csv").open(newline="") as file:
        for data, model, head, *values in csv.reader(file):
            figures.setdefault(data, {})[model, head] = tuple(map(float, values))
    return figures


ANOMALY = _printed()
CITYSCAPES = ANOMALY.pop("cityscapes")  # in percent
ABLATION = {name: value for (name, _), (value,) in ANOMALY.pop("ablation").items()}  # on MNIST

_SCRAMBLED = (
    "Thesis: the columns are scrambled. An AuROC of 0.23 to 0.43 for KAN contradicts the text, "
    "and 0.9996, printed as AuPRC on RoadObstacle21, is an FPR95 in the conclusion."
)
_SETS = (
    "RoadAnomaly21 and RoadObstacle21 are the public validation images (10 and 30), not the "
    "hidden test sets; the score is msp, 1 − max class score."
)
_COUNTS = (
    "Thesis: over the 15 Swin cells of Tables 3.4 and 3.5, KAN is better in AuROC 6, in AuPRC 9 "
    "and in FPR95 7 times, and worse on average in all three."
)
_LOST_AND_FOUND = (
    "FS_LostFound_full is Fishyscapes' validation set of 100 images, not all of Lost and Found."
)
NOTES: Mapping[str, tuple[str, ...]] = {
    "3.1": (
        "In percent. What the thesis calls IoU_sup and iIoU_sup are IoU and iIoU over Cityscapes' "
        "categories; nothing about them is supervised.",
        "Thesis: KAN lowers IoU for Swin-S and Swin-T, and the best iIoU_sup is Swin-T MLP, "
        "against its text.",
    ),
    "3.2": (_SCRAMBLED, _SETS),
    "3.3": (_SCRAMBLED, _LOST_AND_FOUND),
    "3.4": (_SETS, _COUNTS),
    "3.5": (_COUNTS, _LOST_AND_FOUND),
    "3.6": (
        "Thesis: MNIST, one accuracy each, with neither protocol nor spread; all lie within 0.0127 "
        "of the default.",
        "Thesis: the text reads the table backwards. Grid size 3 beats 7, spline order 2 is best, "
        "ReLU second and no spline scaler third.",
    ),
}
