"""Per-pixel quality of an anomaly score: AP, AUROC, FPR95 and the best F1 over all thresholds.

"exact" ranks every pixel of every picture together, without bins: the definitions of
scikit-learn's ``average_precision_score`` (a sum of steps, no interpolation) and
``roc_auc_score`` (trapezoids, so ties count half). FPR95 is the false-positive rate where that same
ROC curve, straight between its points, first reaches a true-positive rate of 0.95. Without ties
around that place this is the rate at the first threshold that finds 95 % of the anomalies; with
ties (scores stored as float16, say) it is what breaking them at random gives on average.

The thesis prints AuPRC as the integral of precision times recall; it is the integral of precision
over recall, which is what AP estimates.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mask2kan.errors import ConfigError, NumericsError, unknown
from training.metrics.sorted_scores import Floats, SortedScores, merged_blocks

KNOWN, ANOMALY, VOID = 0, 1, 255
PROTOCOLS = ("exact",)


class AnomalyEvaluator:
    """Collects scores and labels of any number of pictures and ranks all pixels together.

    Memory stays bounded (below 200 MB, for hundreds of megapixels too); scores are kept as
    float32 in a temporary file, four bytes per pixel.

    Args:
        protocol: ``exact``.
        track: component metrics of a benchmark track; none is available yet, so None.
        folder: where the temporary files lie; the system's temporary folder when None.

    Raises:
        ConfigError: for a protocol or track that is not available.
    """

    def __init__(
        self,
        protocol: Literal["exact", "smiyc"] = "exact",
        track: Literal["anomaly", "obstacle"] | None = None,
        *,
        folder: str | Path | None = None,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ConfigError(unknown("evaluation protocol", protocol, PROTOCOLS))
        if track is not None:
            raise ConfigError(
                f"Component metrics of track {track!r} are not available; pass track=None for "
                "ap, auroc, fpr95 and best_f1."
            )
        self.protocol = protocol
        self._known = SortedScores(folder)
        self._anomalous = SortedScores(folder)

    def update(self, score: npt.ArrayLike, label: npt.ArrayLike) -> None:
        """Add one picture.

        Args:
            score: (H, W) floating point, higher = more anomalous; ranked as float32.
            label: (H, W) integers: 0 known, 1 anomaly, 255 void (left out).

        Raises:
            ConfigError: for shapes that differ, are not (H, W), or for other label values.
            NumericsError: for NaN or infinite scores.
        """
        scores, labels = checked_picture(score, label)
        self._known.add(scores[labels == KNOWN])
        self._anomalous.add(scores[labels == ANOMALY])

    def compute(self) -> dict[str, Any]:
        """Metrics over all pictures so far; more may be added afterwards.

        Returns:
            ``ap``, ``auroc``, ``fpr95``, ``best_f1`` in [0, 1] and ``best_f1_threshold`` in the
            score's own units (anomalous if score >= threshold).

        Raises:
            ConfigError: when there is no anomalous or no known pixel.
        """
        summary = summarize_curve(self._known, self._anomalous)
        return {
            "ap": summary.ap,
            "auroc": summary.auroc,
            "fpr95": summary.fpr95,
            "best_f1": summary.best_f1,
            "best_f1_threshold": summary.best_f1_threshold,
        }

    def operating_points(self) -> dict[str, Any]:
        """Thresholds and range a checkpoint carries for this score.

        Returns:
            ``range`` [0.5th, 99.5th percentile of all valid pixels], and thresholds
            (anomalous if score >= t): ``fpr05``, the lowest with a false-positive rate of at
            most 5 %; ``tpr95``, the highest with a true-positive rate of at least 95 %;
            ``best_f1``.

        Raises:
            ConfigError: when there is no anomalous or no known pixel.
        """
        summary = summarize_curve(self._known, self._anomalous)
        return {
            "range": percentiles([self._known, self._anomalous], (0.5, 99.5)),
            "fpr05": summary.fpr05_threshold,
            "tpr95": summary.tpr95_threshold,
            "best_f1": summary.best_f1_threshold,
        }


def checked_picture(
    score: npt.ArrayLike, label: npt.ArrayLike
) -> tuple[Floats, npt.NDArray[np.integer[Any]]]:
    """Scores as float32 and labels, both (H, W), or a clear error.

    Raises:
        ConfigError: for shapes that differ, are not (H, W), or for label values other than
            0, 1 and 255.
        NumericsError: for NaN or infinite scores.
    """
    scores, labels = np.asarray(score), np.asarray(label)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ConfigError(
            f"Score of shape {scores.shape} and label of shape {labels.shape}; both must be the "
            "same (H, W). Resize the score to the label, or take it at the picture's own size."
        )
    if scores.dtype.kind != "f" or labels.dtype.kind not in "uib":
        raise ConfigError(
            f"Score of type {scores.dtype} and label of type {labels.dtype}; expected floating "
            "point scores and integer labels, in this order."
        )
    with np.errstate(over="ignore"):
        scores = scores.astype(np.float32, copy=False)
    bad = scores.size - int(np.isfinite(scores).sum())
    if bad:
        raise NumericsError(
            f"{bad} of {scores.size} scores are NaN or infinite; a ranking of them means nothing. "
            "Check the weights and the picture the score was computed from."
        )
    labels = labels.astype(np.int64) if labels.dtype.kind == "b" else labels
    others = set(np.unique(labels).tolist()) - {KNOWN, ANOMALY, VOID}
    if others:
        raise ConfigError(
            f"Label values {sorted(others)[:5]} found; expected 0 (known), 1 (anomaly) and "
            "255 (void). Map the data set's own values first."
        )
    return scores, labels


class CurveSummary(NamedTuple):
    """What is read off the precision-recall and ROC curves. Thresholds: score >= t."""

    ap: float
    auroc: float
    fpr95: float
    best_f1: float
    best_f1_threshold: float
    tpr95_threshold: float
    fpr05_threshold: float


class _Points(NamedTuple):
    """Some points of the curve, thresholds descending and distinct; counts of score >= t."""

    threshold: npt.NDArray[np.float64]
    tp: npt.NDArray[np.int64]
    fp: npt.NDArray[np.int64]

    def part(self, which: slice) -> _Points:
        return _Points(self.threshold[which], self.tp[which], self.fp[which])

    def after(self, first: _Points) -> _Points:
        return _Points(
            np.concatenate([first.threshold, self.threshold]),
            np.concatenate([first.tp, self.tp]),
            np.concatenate([first.fp, self.fp]),
        )


def _curve(known: SortedScores, anomalous: SortedScores) -> Iterator[_Points]:
    """Every distinct score as a threshold, from the highest down, in pieces.

    The last point of a piece is held back until the next score is known to be smaller, since
    equal scores must move both counts at once.
    """
    tp = fp = 0
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
            points = points.after(held)
        held = points.part(slice(-1, None))
        if len(points.threshold) > 1:
            yield points.part(slice(-1))
    if len(held.threshold):
        yield held


def summarize_curve(known: SortedScores, anomalous: SortedScores) -> CurveSummary:
    """Integrate the curves in one pass over the sorted scores.

    Raises:
        ConfigError: when one of the collections is empty.
    """
    negatives, positives = len(known), len(anomalous)
    if not positives or not negatives:
        missing = "anomalous (label 1)" if not positives else "known (label 0)"
        raise ConfigError(
            f"No {missing} pixels among the {positives + negatives} valid ones; both kinds are "
            "needed to rank them. Check the labels, or add pictures."
        )
    integral = _Integral(negatives, positives)
    for points in _curve(known, anomalous):
        integral.add(points)
    return integral.summary()


class _Integral:
    """Sums over the curve, piece by piece; see ``CurveSummary``."""

    def __init__(self, negatives: int, positives: int) -> None:
        self.negatives, self.positives = negatives, positives
        self.last_tp = self.last_fp = 0
        self.ap_sum = self.area = 0.0
        self.fpr95 = self.best_f1 = -1.0
        self.best_f1_threshold = self.tpr95_threshold = self.fpr05_threshold = np.nan

    def add(self, points: _Points) -> None:
        """Take the next points of the curve."""
        tp, fp = points.tp.astype(np.float64), points.fp.astype(np.float64)
        tp_before = np.concatenate([[self.last_tp], tp[:-1]])
        fp_before = np.concatenate([[self.last_fp], fp[:-1]])
        self.ap_sum += float(np.sum((tp - tp_before) * (tp / (tp + fp))))
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
            self.tpr95_threshold = float(points.threshold[at])
        allowed = np.flatnonzero(fp / self.negatives <= 0.05)
        if len(allowed):
            self.fpr05_threshold = float(points.threshold[allowed[-1]])
        elif self.last_tp == self.last_fp == 0:
            # More than 5 % of the known pixels share the highest score: only a threshold above
            # it keeps the promise.
            highest = points.threshold[0].astype(np.float32)
            self.fpr05_threshold = float(np.nextafter(highest, np.float32(np.inf)))
        self.last_tp, self.last_fp = int(points.tp[-1]), int(points.fp[-1])

    def summary(self) -> CurveSummary:
        """The figures, once every point was added."""
        return CurveSummary(
            ap=self.ap_sum / self.positives,
            auroc=self.area / self.positives / self.negatives,
            fpr95=self.fpr95,
            best_f1=self.best_f1,
            best_f1_threshold=self.best_f1_threshold,
            tpr95_threshold=self.tpr95_threshold,
            fpr05_threshold=self.fpr05_threshold,
        )


def percentiles(stores: list[SortedScores], percents: tuple[float, ...]) -> list[float]:
    """Percentiles of all values together, linear between neighbours as in ``numpy.percentile``.

    Args:
        stores: collections taken as one.
        percents: in [0, 100].
    """
    count = sum(len(store) for store in stores)
    # Ranks from the top, because values arrive in descending order.
    ranks = [(count - 1) * (1 - percent / 100) for percent in percents]
    wanted = sorted({int(side) for rank in ranks for side in (np.floor(rank), np.ceil(rank))})
    found: dict[int, float] = {}
    seen = 0
    for parts in merged_blocks(stores):
        block = np.sort(np.concatenate(parts))[::-1]
        found.update({r: float(block[r - seen]) for r in wanted if seen <= r < seen + len(block)})
        seen += len(block)
    results = []
    for rank in ranks:
        above, below = found[int(np.floor(rank))], found[int(np.ceil(rank))]
        results.append(float(above + (below - above) * (rank - np.floor(rank))))
    return results
