"""The figures the thesis prints in its Tables 3.1 to 3.6, and what is wrong with them.

Copied as printed, errors included; ``NOTES`` says what they are, and goes under the tables.
Backbones and heads are named as in the recipes ``thesis_<backbone>_<head>``, data sets as in
``training.benchmark``.
"""

from __future__ import annotations

from collections.abc import Mapping

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
CITYSCAPES_PICTURES = 500
# (backbone, head) -> the metrics above, in percent
CITYSCAPES: Mapping[tuple[str, str], tuple[float, float, float, float]] = {
    ("r50", "mlp"): (77.5332, 60.8383, 90.8862, 80.1791),
    ("r50", "kan"): (79.1285, 61.9124, 91.0144, 80.2947),
    ("swin_b", "mlp"): (79.5283, 64.6026, 91.2411, 80.3178),
    ("swin_b", "kan"): (81.4470, 66.2032, 91.4183, 80.9711),
    ("swin_s", "mlp"): (81.2626, 66.2940, 91.4223, 80.9639),
    ("swin_s", "kan"): (80.9848, 64.6869, 91.4023, 81.0443),
    ("swin_t", "mlp"): (80.4071, 64.7951, 91.2080, 81.4239),
    ("swin_t", "kan"): (80.2381, 63.5025, 91.2245, 81.1787),
}

ANOMALY_METRICS: Mapping[str, str] = {"auroc": "AuROC ↑", "ap": "AuPRC ↑", "fpr95": "FPR95 ↓"}
LOWER_IS_BETTER = frozenset({"fpr95"})
ANOMALY_SETS: Mapping[str, str] = {
    "road_anomaly_21": "RoadAnomaly21",
    "road_obstacle_21": "RoadObstacle21",
    "road_anomaly": "RoadAnomaly",
    "fishyscapes_static": "fs_static",
    "fishyscapes_lost_and_found": "FS_LostFound_full",
}
ANOMALY_PICTURES: Mapping[str, int] = {
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
# set -> (backbone, head) -> AuROC, AuPRC, FPR95
ANOMALY: Mapping[str, Mapping[tuple[str, str], tuple[float, float, float]]] = {
    "road_anomaly_21": {
        ("r50", "mlp"): (0.9140, 0.8066, 0.6513),
        ("r50", "kan"): (0.4269, 0.2863, 0.4701),
        ("swin_t", "mlp"): (0.7833, 0.5770, 0.7770),
        ("swin_t", "kan"): (0.6951, 0.5518, 0.9302),
        ("swin_s", "mlp"): (0.8394, 0.6264, 0.6684),
        ("swin_s", "kan"): (0.7323, 0.5671, 0.9438),
        ("swin_l", "mlp"): (0.8886, 0.7055, 0.6440),
        ("swin_l", "kan"): (0.8949, 0.7065, 0.3548),
    },
    "road_obstacle_21": {
        ("r50", "mlp"): (0.8277, 0.8658, 0.3010),
        ("r50", "kan"): (0.4315, 0.9996, 0.4605),
        ("swin_t", "mlp"): (0.9734, 0.4803, 0.0523),
        ("swin_t", "kan"): (0.9716, 0.4991, 0.0584),
        ("swin_s", "mlp"): (0.9991, 0.9369, 0.0034),
        ("swin_s", "kan"): (0.9963, 0.9582, 0.0019),
        ("swin_l", "mlp"): (0.9949, 0.8863, 0.0097),
        ("swin_l", "kan"): (0.9894, 0.8935, 0.0129),
    },
    "road_anomaly": {
        ("r50", "mlp"): (0.7146, 0.6618, 0.3187),
        ("r50", "kan"): (0.2718, 0.9425, 0.8925),
        ("swin_t", "mlp"): (0.8408, 0.4323, 0.6134),
        ("swin_t", "kan"): (0.8292, 0.4261, 0.6982),
        ("swin_s", "mlp"): (0.9014, 0.6438, 0.6153),
        ("swin_s", "kan"): (0.9177, 0.6613, 0.4138),
        ("swin_l", "mlp"): (0.9229, 0.6924, 0.5852),
        ("swin_l", "kan"): (0.9624, 0.7898, 0.1317),
    },
    "fishyscapes_static": {
        ("r50", "mlp"): (0.9119, 0.9020, 0.3536),
        ("r50", "kan"): (0.2708, 0.4922, 0.4887),
        ("swin_t", "mlp"): (0.8261, 0.3114, 0.7996),
        ("swin_t", "kan"): (0.8411, 0.3297, 0.7705),
        ("swin_s", "mlp"): (0.9009, 0.4568, 0.7774),
        ("swin_s", "kan"): (0.8232, 0.3479, 0.9048),
        ("swin_l", "mlp"): (0.9570, 0.6979, 0.2701),
        ("swin_l", "kan"): (0.9066, 0.4485, 0.7299),
    },
    "fishyscapes_lost_and_found": {
        ("r50", "mlp"): (0.9111, 0.9130, 0.2648),
        ("r50", "kan"): (0.2347, 0.8503, 0.7519),
        ("swin_t", "mlp"): (0.8688, 0.3831, 0.9416),
        ("swin_t", "kan"): (0.8854, 0.3983, 0.8415),
        ("swin_s", "mlp"): (0.9262, 0.4888, 0.5210),
        ("swin_s", "kan"): (0.9014, 0.4200, 0.9413),
        ("swin_l", "mlp"): (0.9365, 0.5605, 0.6229),
        ("swin_l", "kan"): (0.9417, 0.5930, 0.4775),
    },
}

# experiment of training.ablation -> accuracy on MNIST
ABLATION: Mapping[str, float] = {
    "default": 0.9471,
    "grid_3": 0.9478,
    "grid_7": 0.9444,
    "order_2": 0.9598,
    "order_4": 0.9400,
    "no_spline_scaler": 0.9531,
    "relu": 0.9578,
    "no_regularization": 0.9465,
    "no_grid_update": 0.9425,
}

_SCRAMBLED = (
    "Thesis: the columns are scrambled. An AuROC of 0.23 to 0.43 for KAN contradicts the text, "
    "and 0.9996, printed as AuPRC on RoadObstacle21, is an FPR95 in the conclusion."
)
_SETS = (
    "RoadAnomaly21 and RoadObstacle21 are the public validation pictures (10 and 30), not the "
    "hidden test sets; the score is msp, 1 − max class score."
)
_COUNTS = (
    "Thesis: over the 15 Swin cells of Tables 3.4 and 3.5, KAN is better in AuROC 6, in AuPRC 9 "
    "and in FPR95 7 times, and worse on average in all three."
)
NOTES: Mapping[str, tuple[str, ...]] = {
    "3.1": (
        "In percent. What the thesis calls IoU_sup and iIoU_sup are IoU and iIoU over Cityscapes' "
        "categories; nothing about them is supervised.",
        "Thesis: KAN lowers IoU for Swin-S and Swin-T, and the best iIoU_sup is Swin-T MLP, "
        "against its text.",
    ),
    "3.2": (_SCRAMBLED, _SETS),
    "3.3": (
        _SCRAMBLED,
        "FS_LostFound_full is Fishyscapes' validation set of 100 pictures, not all of Lost and "
        "Found.",
    ),
    "3.4": (_SETS, _COUNTS),
    "3.5": (
        _COUNTS,
        "FS_LostFound_full is Fishyscapes' validation set of 100 pictures, not all of Lost and "
        "Found.",
    ),
    "3.6": (
        "Thesis: MNIST, one accuracy each, with neither protocol nor spread; all lie within 0.0127 "
        "of the default.",
        "Thesis: the text reads the table backwards. Grid size 3 beats 7, spline order 2 is best, "
        "ReLU second and no spline scaler third.",
    ),
}
