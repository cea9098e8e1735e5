"""The curves of the SegmentMeIfYouCan benchmark: binned per image, then merged.

Definitions: Chan et al., "SegmentMeIfYouCan", 2021, and the benchmark's published evaluation
(SegmentMeIfYouCan/road-anomaly-benchmark). Scores are float16, because the benchmark stores them
so. Every image has thresholds of its own: 384 quantiles of its anomalous scores and 384 of its
known ones. The counts between two thresholds are moved to the lower one, all images' thresholds
are put in order, and their counts summed from the highest down. On that curve AP is a sum of steps,
AUROC a sum of trapezoids, FPR95 the rate at the first point with a true-positive rate of at least
0.95, and the threshold with the best F1 is the highest of the best.

Two things to know of it. Bins flatter or harm a score a little: expect differences of about 0.001
to the exact curve. And where several images have the same highest score, the benchmark takes one
of them, whichever its unstable sort brings first, as a point of its own; so do we, with the same
sort. With scores that saturate at one value AP moves by some per cent with NumPy's version and the
processor, here as there: rank such scores with the protocol "exact".
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
    """What is read off the binned curves. The threshold is not rounded to float16."""

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
        """Take one image's scores, two 1-D arrays of finite float16; none of both is fine."""
        if len(known) or len(anomalous):
            self._images.append(_binned(known, anomalous))
            self._known += len(known)
            self._anomalous += len(anomalous)

    def summary(self) -> BinnedSummary:
        """Figures over all images so far.

        Raises:
            ConfigError: when there is no anomalous or no known pixel.
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
        """True and false positives along the curve; ``count`` is not needed, it is binned."""
        del count
        _, tp, fp = self._merged()
        return tp, fp

    def _merged(self) -> tuple[Doubles, Counts, Counts]:
        """The curve's points from the origin on: threshold, true and false positives."""
        threshold, anomalous, known = (
            np.concatenate(parts) for parts in zip(*self._images, strict=True)
        )
        order = np.argsort(threshold)[::-1]  # NumPy's default, as in the benchmark: see above
        threshold = threshold[order]
        tp, fp = np.cumsum(anomalous[order]), np.cumsum(known[order])
        # Equal thresholds are one point, at the last of them; but the very first always stays.
        last = np.append(threshold[:-1] != threshold[1:], True)
        last[0] = True
        return (
            np.append(np.inf, threshold[last]),
            np.append(0, tp[last]),
            np.append(0, fp[last]),
        )


def half_precision(scores: npt.NDArray[np.float32]) -> Halves:
    """Scores as the benchmark stores them.

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
    """Up to 384 evenly spaced quantiles of ascending float16 values.

    Linear between neighbours, the difference of the two rounded to float16: what
    ``numpy.quantile`` answers for float16, without sorting again.
    """
    share = np.linspace(0, 1, min(QUANTILES, len(ordered)))
    place = share * (len(ordered) - 1)
    left = np.floor(place).astype(np.int64)
    right = np.minimum(left + 1, len(ordered) - 1)
    weight = place - left
    low, high = ordered[left], ordered[right]
    step = high - low
    return np.where(weight < 0.5, low + step * weight, high - step * (1 - weight))
