"""Data sets and how training reads them.

``open_split`` opens what follows ``--data``, ``open_anomaly`` a set to measure anomaly scores on;
``register`` adds your own; ``training.data.check`` lists faults, ``training.data.crops`` cuts a
run's augmented crops.
"""

from .augmentation import Augmentation
from .base import AnomalyImages, LabelledImages, Scan, SegmentationImages, class_labels
from .folders import find_data
from .reading import LabelValues
from .registry import (
    ANOMALY_SETS,
    SEGMENTATION_SETS,
    find_anomaly_sets,
    open_anomaly,
    open_split,
    register,
    usual_split,
)
from .sets.camvid import CamVid
from .sets.mask_folders import AnomalySet
from .sets.synthetic import SyntheticStreets

__all__ = [
    "ANOMALY_SETS",
    "SEGMENTATION_SETS",
    "AnomalyImages",
    "AnomalySet",
    "Augmentation",
    "CamVid",
    "LabelValues",
    "LabelledImages",
    "Scan",
    "SegmentationImages",
    "SyntheticStreets",
    "class_labels",
    "find_anomaly_sets",
    "find_data",
    "open_anomaly",
    "open_split",
    "register",
    "usual_split",
]
