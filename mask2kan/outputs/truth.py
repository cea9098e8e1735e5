"""Compare an analysis with its image's ground truth: pixels, objects, and the score's ranking.

``Analysis.outlined`` is what is judged: the smoothed score at the threshold, without regions that
are too small. AP, AUROC and FPR95 judge the raw score, at every threshold.

Source: average precision and AUROC as in scikit-learn; FPR95 where its ROC curve, straight between
its points, first reaches a true-positive rate of 0.95. Equal to ``training.metrics``, whose curves
are made for data sets that do not fit in memory, and which has beside it the other convention, FPR
at the first threshold that reaches 0.95: higher where scores tie there.

Legend: H W image size; a truth (H, W) is 0 known, 1 anomaly, 255 void (ignored).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mask2kan.errors import ConfigError
from mask2kan.inference.scores import anomalous_regions
from mask2kan.outputs.summary import Analysis

_RECALL = 0.95  # of FPR95


def truth_figures(analysis: Analysis, truth: NDArray[np.uint8]) -> dict[str, Any]:
    """Judge an analysis in plain values ready for JSON.

    Returns:
        ``precision``, ``recall``, ``f1``, ``iou`` of the regions' pixels (``mask_quality``);
        ``objects``, the truth's 8-connected anomalies, and ``objects_half_covered``, those of which
        the regions cover at least half; ``false_regions`` (``count_false_regions``); ``ap``,
        ``auroc``, ``fpr95`` of the raw score (``ranking``).

    Raises:
        ConfigError: for a truth of another size.
    """
    if truth.shape != analysis.prediction.size:
        raise ConfigError(
            f"The ground truth is {truth.shape}, the image {analysis.prediction.size}; their sizes "
            "must be equal."
        )
    quality = mask_quality(analysis.outlined, truth)
    objects, covered = count_objects(analysis.outlined, truth)
    return {
        **{name.lower(): value for name, value in quality.items()},
        "objects": objects,
        "objects_half_covered": covered,
        "false_regions": count_false_regions(analysis.outlined, truth),
        **ranking(analysis.prediction.anomaly(analysis.score), truth),
    }


def mask_quality(mask: NDArray[np.bool_], truth: NDArray[np.uint8]) -> dict[str, float]:
    """Measure a mask of anomalies; a ratio whose denominator is 0 is 0."""
    tp = int((mask & (truth == 1)).sum())
    fp = int((mask & (truth == 0)).sum())
    fn = int((~mask & (truth == 1)).sum())
    return {
        "precision": tp / max(1, tp + fp),
        "recall": tp / max(1, tp + fn),
        "F1": 2 * tp / max(1, 2 * tp + fp + fn),
        "IoU": tp / max(1, tp + fp + fn),
    }


def count_objects(
    mask: NDArray[np.bool_], truth: NDArray[np.uint8], min_pixels: int = 0
) -> tuple[int, int]:
    """Count the truth's 8-connected anomalies, and those that the mask covers by half or more.

    Anomalies of fewer than ``min_pixels`` are not counted.
    """
    labels, count = anomalous_regions(truth == 1, min_pixels)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    covered = np.bincount(labels[mask], minlength=count + 1)[1:]
    return count, int((2 * covered >= sizes).sum())


def count_false_regions(mask: NDArray[np.bool_], truth: NDArray[np.uint8]) -> int:
    """Count the mask's regions without a pixel of an anomaly; all in void, one is neither."""
    labels, count = anomalous_regions(mask)
    known, anomalous = (
        np.bincount(labels[truth == value], minlength=count + 1)[1:] > 0 for value in (0, 1)
    )
    return int((known & ~anomalous).sum())


def ranking(score: NDArray[np.float32], truth: NDArray[np.uint8]) -> dict[str, float | None]:
    """Measure how well a score (H, W) puts anomalous pixels above known ones.

    Returns:
        ``ap``, ``auroc``, ``fpr95``; all None where the truth has pixels of one kind alone.
    """
    known, anomalous = np.sort(score[truth == 0]), np.sort(score[truth == 1])
    if not len(known) or not len(anomalous):
        return {"ap": None, "auroc": None, "fpr95": None}
    # Every distinct score is a threshold (score >= t), the highest first; before it nothing counts.
    thresholds = np.unique(np.concatenate([known, anomalous]))[::-1]
    tp = np.r_[0, len(anomalous) - np.searchsorted(anomalous, thresholds)].astype(np.float64)
    fp = np.r_[0, len(known) - np.searchsorted(known, thresholds)].astype(np.float64)
    gained = np.diff(tp)
    # Trapezoids: equal scores are a straight line, half of their pairs in the right order.
    area = float(np.sum(np.diff(fp) * (tp[1:] + tp[:-1]))) / 2
    # The first step that reaches the recall gains something, so the division is safe.
    at = int(np.argmax(tp >= _RECALL * len(anomalous)))
    share = min(1.0, (_RECALL * len(anomalous) - tp[at - 1]) / gained[at - 1])
    return {
        "ap": float(np.sum(gained * tp[1:] / (tp[1:] + fp[1:]))) / len(anomalous),
        "auroc": area / len(anomalous) / len(known),
        "fpr95": float(fp[at - 1] + share * (fp[at] - fp[at - 1])) / len(known),
    }
