"""The exact curves: every distinct score of every image is a threshold.

AP and AUROC equal scikit-learn's ``average_precision_score`` and ``roc_auc_score``. Of FPR95 there
are two conventions, which differ where scores tie around a true-positive rate of 0.95:

- ``fpr95``: where the ROC curve, straight between its points, first reaches 0.95, as
  ``numpy.interp`` reads it off scikit-learn's ``roc_curve``, with ``drop_intermediate`` or not. It
  is the average over breaking ties at random.
- ``fpr95_at_threshold``: at the first point with at least 0.95, each distinct score a threshold: of
  ``roc_curve(drop_intermediate=False)``, in Fishyscapes' code and, on its bins, in
  SegmentMeIfYouCan's. Never lower. (By default scikit-learn drops points inside straight lines, of
  which this may be one.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mask2kan.errors import ConfigError

from .sorted_scores import BLOCK_LENGTH, RUN_LENGTH, Floats, SortedScores, merged_blocks

Rates = npt.NDArray[np.int64]

# Of the false-alarm curve that a checkpoint carries: about evenly spaced on a logarithmic axis.
FALSE_ALARM_RATES = (
    *(0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0014, 0.002, 0.003, 0.004, 0.005, 0.007),
    *(0.01, 0.014, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.4, 0.5),
)
FPR05 = 0.05


class ExactCurve:
    """Known and anomalous pixels' scores, ranked together; ``Args`` as ``SortedScores``."""

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        run_length: int = RUN_LENGTH,
        block_length: int = BLOCK_LENGTH,
    ) -> None:
        self.known = SortedScores(folder, run_length=run_length, block_length=block_length)
        self.anomalous = SortedScores(folder, run_length=run_length, block_length=block_length)

    def add(self, known: Floats, anomalous: Floats) -> None:
        """Add one image's scores, two 1-D arrays."""
        self.known.add(known)
        self.anomalous.add(anomalous)

    def summary(self) -> CurveSummary:
        """Return the metrics so far.

        Raises:
            ConfigError: without both kinds of pixels.
        """
        negatives, positives = len(self.known), len(self.anomalous)
        check_both_kinds(negatives, positives)
        integral = _Integral(negatives, positives)
        for points in _curve(self.known, self.anomalous):
            integral.add(points)
        return integral.summary()

    def rates(self, count: int) -> tuple[Rates, Rates]:
        """Return about ``count`` true- and false-positive counts, ascending, the last included."""
        step = max(1, len(self.known) // count), max(1, len(self.anomalous) // count)
        tps, fps, last = [], [], (-1, -1)
        for points in _curve(self.known, self.anomalous):
            cells = points.fp // step[0], points.tp // step[1]
            new = np.empty(len(points.tp), bool)
            new[0] = (int(cells[0][0]), int(cells[1][0])) != last
            new[1:] = (np.diff(cells[0]) != 0) | (np.diff(cells[1]) != 0)
            last = int(cells[0][-1]), int(cells[1][-1])
            tps.append(points.tp[new])
            fps.append(points.fp[new])
        ends = np.array([len(self.anomalous)]), np.array([len(self.known)])
        return np.concatenate([*tps, ends[0]]), np.concatenate([*fps, ends[1]])

    def percentiles(self, percents: tuple[float, ...]) -> list[float]:
        """Return percentiles (in [0, 100]) of all scores, linear between neighbours as in NumPy."""
        count = len(self.known) + len(self.anomalous)
        # Ranks from the top, because values arrive in descending order.
        ranks = [(count - 1) * (1 - percent / 100) for percent in percents]
        wanted = sorted({int(side) for rank in ranks for side in (np.floor(rank), np.ceil(rank))})
        at: dict[int, float] = {}
        seen = 0
        for parts in merged_blocks([self.known, self.anomalous]):
            block = np.sort(np.concatenate(parts))[::-1]
            at |= {r: float(block[r - seen]) for r in wanted if seen <= r < seen + len(block)}
            seen += len(block)
        return [float(value) for value in np.interp(ranks, wanted, [at[rank] for rank in wanted])]


class CurveSummary(NamedTuple):
    """Metrics of the precision-recall and ROC curves. Thresholds: score >= t."""

    ap: float
    auroc: float
    fpr95: float
    fpr95_at_threshold: float
    best_f1: float
    best_f1_threshold: float
    tpr95_threshold: float
    fpr05_threshold: float
    false_alarms: list[FalseAlarms]


class FalseAlarms(NamedTuple):
    """The lowest threshold whose false-positive rate is at most ``rate``, and its recall."""

    rate: float
    threshold: float
    recall: float


class _Points(NamedTuple):
    """Some points of the curve, thresholds descending and distinct; counts of score >= t."""

    threshold: npt.NDArray[Any]  # float64
    tp: npt.NDArray[Any]  # int64
    fp: npt.NDArray[Any]


def _curve(known: SortedScores, anomalous: SortedScores) -> Iterator[_Points]:
    """Every distinct score as a threshold, descending, in pieces; equal scores stay together."""
    tp = fp = 0
    # A block's lowest score may go on in the next block, so its point waits until that is known
    held = _Points(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    for known_block, anomalous_block in merged_blocks([known, anomalous]):
        values = np.unique(np.concatenate([known_block, anomalous_block]))[::-1]
        points = _Points(
            values.astype(np.float64),
            tp + np.searchsorted(-anomalous_block, -values, side="right"),
            fp + np.searchsorted(-known_block, -values, side="right"),
        )
        tp, fp = int(points.tp[-1]), int(points.fp[-1])
        if len(held.threshold) and held.threshold[0] != points.threshold[0]:
            points = _Points(*(np.concatenate(pair) for pair in zip(held, points, strict=True)))
        held = _Points(*(values[-1:] for values in points))
        if len(points.threshold) > 1:
            yield _Points(*(values[:-1] for values in points))
    if len(held.threshold):
        yield held


def check_both_kinds(known: int, anomalous: int) -> None:
    """Refuse to rank pixels of one kind.

    Raises:
        ConfigError: when one of the counts is zero.
    """
    if not known or not anomalous:
        missing = "known (label 0)" if anomalous else "anomalous (label 1)"
        raise ConfigError(
            f"No {missing} pixels among the {known + anomalous} valid ones; both kinds are "
            "needed to rank them. Check the labels, or add images."
        )


class _Integral:
    """Running sums over the curve; see ``CurveSummary``."""

    def __init__(self, negatives: int, positives: int) -> None:
        self.negatives, self.positives = negatives, positives
        self.last_tp = self.last_fp = 0
        self.ap_sum = self.area = 0.0
        self.fpr95 = self.fpr95_at_threshold = self.best_f1 = -1.0
        self.best_f1_threshold = self.tpr95_threshold = np.nan
        self.allowed: dict[float, tuple[float, int]] = {}  # per rate: threshold, true positives

    def add(self, points: _Points) -> None:
        tp, fp = points.tp.astype(np.float64), points.fp.astype(np.float64)
        tp_before = np.concatenate([[self.last_tp], tp[:-1]])
        fp_before = np.concatenate([[self.last_fp], fp[:-1]])
        self.ap_sum += float(np.sum((tp - tp_before) * (tp / (tp + fp))))
        # Trapezoids: ties are a straight line, half of them in the right order
        self.area += float(np.sum((fp - fp_before) * (tp + tp_before))) / 2
        f1 = 2 * tp / (tp + fp + self.positives)
        best = int(np.argmax(f1))
        if f1[best] > self.best_f1:
            self.best_f1 = float(f1[best])
            self.best_f1_threshold = float(points.threshold[best])
        tpr = tp / self.positives
        if self.fpr95 < 0 and tpr[-1] >= 0.95:
            at = int(np.argmax(tpr >= 0.95))
            share = (0.95 * self.positives - tp_before[at]) / (tp[at] - tp_before[at])
            fp_there = fp_before[at] + min(share, 1.0) * (fp[at] - fp_before[at])
            self.fpr95 = float(fp_there / self.negatives)
            self.fpr95_at_threshold = float(fp[at] / self.negatives)
            self.tpr95_threshold = float(points.threshold[at])
        if not self.allowed:
            # Where more of the known pixels share the highest score than a rate allows, only a
            # threshold above it keeps the promise.
            highest = points.threshold[0].astype(np.float32)
            above = float(np.nextafter(highest, np.float32(np.inf)))
            self.allowed = dict.fromkeys(FALSE_ALARM_RATES, (above, 0))
        counts = np.searchsorted(fp / self.negatives, FALSE_ALARM_RATES, side="right")
        for rate, count in zip(FALSE_ALARM_RATES, counts, strict=True):
            if count:
                last = int(count) - 1
                self.allowed[rate] = float(points.threshold[last]), int(points.tp[last])
        self.last_tp, self.last_fp = int(points.tp[-1]), int(points.fp[-1])

    def summary(self) -> CurveSummary:
        return CurveSummary(
            ap=self.ap_sum / self.positives,
            auroc=self.area / self.positives / self.negatives,
            fpr95=self.fpr95,
            fpr95_at_threshold=self.fpr95_at_threshold,
            best_f1=self.best_f1,
            best_f1_threshold=self.best_f1_threshold,
            tpr95_threshold=self.tpr95_threshold,
            fpr05_threshold=self.allowed[FPR05][0],
            false_alarms=[
                FalseAlarms(rate, threshold, tp / self.positives)
                for rate, (threshold, tp) in self.allowed.items()
            ],
        )
