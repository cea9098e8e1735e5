"""The curves of the SegmentMeIfYouCan benchmark: binned per image, then merged.

From Chan et al., "SegmentMeIfYouCan", 2021, and SegmentMeIfYouCan/road-anomaly-benchmark. Scores
are float16; thresholds are 384 quantiles of an image's anomalous scores and 384 of its known ones.
Counts between two thresholds move to the lower one and are summed from the highest down over all
images. AP is a sum of steps, AUROC of trapezoids, FPR95 taken at the first point with a
true-positive rate of at least 0.95, the best-F1 threshold the highest of the best.

Differs from the exact curve by about 0.001. Where images share the highest score, the benchmark's
unstable sort, and ours, decides which becomes a point of its own: for scores that saturate, AP
moves by some per cent with NumPy's version and the CPU, so use "exact".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mask2kan.errors import NumericsError

from .curves import check_both_kinds

QUANTILES = 384

Halves = npt.NDArray[np.float16]
Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class BinnedSummary(NamedTuple):
    """Metrics of the binned curves; the threshold is not rounded to float16."""

    ap: float
    auroc: float
    fpr95: float
    best_f1: float
    best_f1_threshold: float


class _Bins(NamedTuple):
    """One image: thresholds descending, and the pixels from each up to the one above."""

    threshold: Doubles
    anomalous: Counts
    known: Counts


class BinnedCurve:
    """Counts of all images between their own thresholds; some 20 kB per image."""

    def __init__(self) -> None:
        self._images: list[_Bins] = []
        self._known = self._anomalous = 0

    def add(self, known: Halves, anomalous: Halves) -> None:
        """Add one image's scores, two 1-D arrays of finite float16, perhaps empty."""
        if len(known) or len(anomalous):
            self._images.append(_binned(known, anomalous))
            self._known += len(known)
            self._anomalous += len(anomalous)

    def summary(self) -> BinnedSummary:
        """Return the metrics so far.

        Raises:
            ConfigError: without both kinds of pixels.
        """
        check_both_kinds(self._known, self._anomalous)
        threshold, tp, fp = self._merged()
        tpr, fpr = tp / self._anomalous, fp / self._known
        precision = tp / np.maximum(tp + fp, 1)
        f1 = 2 * tp / (tp + fp + self._anomalous)
        best = int(np.argmax(f1))
        return BinnedSummary(
            ap=float(np.sum(np.diff(tpr) * precision[1:])),
            auroc=float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)),
            fpr95=float(fpr[np.searchsorted(tpr, 0.95)]),
            best_f1=float(f1[best]),
            best_f1_threshold=float(threshold[best]),
        )

    def rates(self, count: int) -> tuple[Counts, Counts]:
        """Return true and false positives along the curve; being binned, it ignores ``count``."""
        return self._merged()[1:]

    def _merged(self) -> tuple[Doubles, Counts, Counts]:
        """Threshold, true and false positives of the curve's points, from the origin on."""
        threshold, anomalous, known = (
            np.concatenate(parts) for parts in zip(*self._images, strict=True)
        )
        order = np.argsort(threshold)[::-1]  # NumPy's default, as in the benchmark: see above
        threshold = threshold[order]
        tp, fp = np.cumsum(anomalous[order]), np.cumsum(known[order])
        # Equal thresholds are one point, at the last of them; but the very first always stays.
        last = np.append(threshold[:-1] != threshold[1:], True)
        last[0] = True
        return np.append(np.inf, threshold[last]), np.append(0, tp[last]), np.append(0, fp[last])


def half_precision(scores: npt.NDArray[np.float32]) -> Halves:
    """Round scores as the benchmark stores them.

    Raises:
        NumericsError: when they or their differences are beyond float16.
    """
    with np.errstate(over="ignore"):
        halves = scores.astype(np.float16)
        fits = not halves.size or np.isfinite(halves.max() - halves.min())
    if not fits:
        raise NumericsError(
            f"Scores from {scores.min():g} to {scores.max():g} do not fit into float16 (a range of "
            'at most 65504), as which the benchmark stores them. Scale them, or use "exact".'
        )
    return halves


def _binned(known: Halves, anomalous: Halves) -> _Bins:
    # Sorting as float32 keeps the order and is ten times as fast as sorting float16.
    groups = [np.sort(group.astype(np.float32)).astype(np.float16) for group in (known, anomalous)]
    filled = [group for group in groups if len(group)]
    lowest, highest = min(group[0] for group in filled), max(group[-1] for group in filled)
    # One threshold lies below all scores: by 1 % of their range, at least 0.01.
    below = lowest - np.maximum((highest - lowest) * 1e-2, 1e-2)
    threshold = np.unique(np.concatenate([[below], *map(quantiles, filled)]))[::-1]
    counts = [
        np.diff(len(group) - np.searchsorted(group, threshold, side="left"), prepend=0)
        for group in groups
    ]
    return _Bins(threshold, known=counts[0], anomalous=counts[1])


def quantiles(ordered: Halves) -> Doubles:
    """Return up to 384 evenly spaced quantiles of ascending float16 values.

    Equals ``numpy.quantile`` without sorting again: linear, with differences rounded to float16.
    """
    share = np.linspace(0, 1, min(QUANTILES, len(ordered)))
    place = share * (len(ordered) - 1)
    left = np.floor(place).astype(np.int64)
    right = np.minimum(left + 1, len(ordered) - 1)
    weight = place - left
    low, high = ordered[left], ordered[right]
    step = high - low
    return np.where(weight < 0.5, low + step * weight, high - step * (1 - weight))
