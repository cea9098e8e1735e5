"""Quality of an anomaly score: AP, AUROC, FPR95, best F1 and component metrics.

"exact" ranks every pixel without bins (``curves``, which names both conventions of FPR95 at ties);
"smiyc" is that benchmark's protocol (``smiyc``), for comparison with it only. With a track, the
pixels above the best-F1 threshold are compared as segments (``component``).

The thesis prints AuPRC as the integral of precision times recall; AP estimates the integral of
precision over recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError, NumericsError

from .component import TRACKS, ComponentEvaluator
from .curves import CurveSummary, ExactCurve, FalseAlarms
from .smiyc import BinnedCurve, BinnedSummary, half_precision
from .sorted_scores import Floats

KNOWN, ANOMALY, VOID = 0, 1, 255
PROTOCOLS = ("exact", "smiyc")


class AnomalyEvaluator:
    """Ranks the pixels of any number of images together.

    Memory stays below 200 MB; the rest lies in temporary files. Disk per pixel: "exact" four bytes,
    twice that with a track; "smiyc" none, two with a track, and 20 kB of memory per image.

    Args:
        protocol: ``exact``, or ``smiyc``, which rounds scores to float16.
        track: whose sizes the component metrics take; None for no such metrics.
        folder: of the temporary files; None for the system's.

    Raises:
        ConfigError: for an unknown protocol or track.
    """

    def __init__(
        self,
        protocol: Literal["exact", "smiyc"] = "exact",
        track: Literal["anomaly", "obstacle"] | None = None,
        *,
        folder: str | Path | None = None,
    ) -> None:
        require_choice("evaluation protocol", protocol, PROTOCOLS)
        if track is not None:
            require_choice("benchmark track", track, TRACKS)
        self.protocol, self.track = protocol, track
        self._curve = ExactCurve(folder) if protocol == "exact" else BinnedCurve()
        self._summary: CurveSummary | BinnedSummary | None = None  # until another image is added
        self._components = None
        if track is not None:
            dtype = np.float32 if protocol == "exact" else np.float16
            self._components = ComponentEvaluator(TRACKS[track], dtype, folder)

    def update(self, score: npt.ArrayLike, label: npt.ArrayLike) -> None:
        """Add one image, with or without anomalies.

        Args:
            score: (H, W) floating point, higher = more anomalous.
            label: (H, W) integers: 0 known, 1 anomaly, 255 void.

        Raises:
            ConfigError: for other shapes or label values.
            NumericsError: for NaN, infinite or (``smiyc``) unstorable scores.
            Mask2KANError: when the disk is full.
        """
        scores, labels = checked_image(score, label)
        self._summary = None
        if isinstance(self._curve, BinnedCurve):
            halves = half_precision(scores)
            self._curve.add(halves[labels == KNOWN], halves[labels == ANOMALY])
        else:
            self._curve.add(scores[labels == KNOWN], scores[labels == ANOMALY])
        if self._components is not None:
            self._components.add(scores, labels == ANOMALY, labels == VOID)

    def compute(self) -> dict[str, Any]:
        """Return the metrics so far; more images may follow.

        Returns:
            ``ap``, ``auroc``, ``fpr95`` ("exact": on the straight line between two points; "smiyc":
            at a threshold), ``best_f1`` in [0, 1]; ``best_f1_threshold`` (>=). With a track also
            ``siou``, ``ppv``, ``f1_star`` in [0, 1] (NaN for an empty mean) and ``tp``, ``fp``,
            ``fn``, dicts keyed 25, 30, ... 75 (tau in per cent), at that threshold (>).

        Raises:
            ConfigError: without both kinds of pixels.
        """
        summary = self._summarised()
        results: dict[str, Any] = {name: getattr(summary, name) for name in BinnedSummary._fields}
        if self._components is not None:
            results |= self._components.compute(summary.best_f1_threshold)
        return results

    def fpr95_at_threshold(self) -> float:
        """Return the false-positive rate at the first threshold with a recall of at least 0.95.

        Raises:
            ConfigError: without both kinds of pixels.
        """
        summary = self._summarised()
        return summary.fpr95 if isinstance(summary, BinnedSummary) else summary.fpr95_at_threshold

    def points(self, count: int = 1000) -> dict[str, npt.NDArray[np.float64]]:
        """Return ROC and precision-recall curves of about ``count`` points, by falling threshold.

        Returns:
            ``tpr`` (the recall), ``fpr`` and ``precision``.

        Raises:
            ConfigError: without both kinds of pixels.
        """
        self._summarised()
        tp, fp = self._curve.rates(count)
        precision = tp / np.maximum(tp + fp, 1)
        return {"tpr": tp / tp[-1], "fpr": fp / fp[-1], "precision": precision}

    def _summarised(self) -> CurveSummary | BinnedSummary:
        if self._summary is None:
            self._summary = self._curve.summary()
        return self._summary

    def operating_points(self) -> dict[str, Any]:
        """Return the calibration that a checkpoint carries for this score.

        Returns:
            ``range`` [0.5th, 99.5th percentile] and thresholds (score >= t): ``fpr05``, the lowest
            with a false-positive rate of at most 5 %; ``tpr95``, the highest with a true-positive
            rate of at least 95 %; ``best_f1``. ``curve`` [[false-positive rate, threshold, recall],
            ...]: as ``fpr05`` at other rates, ascending; of rates with one threshold, the lowest.

        Raises:
            ConfigError: without both kinds of pixels, or in ``smiyc``, whose bins are too
                coarse.
        """
        if isinstance(self._curve, BinnedCurve):
            raise ConfigError('Operating points need every score; use AnomalyEvaluator("exact").')
        summary = self._summarised()
        assert isinstance(summary, CurveSummary)
        return {
            "range": self._curve.percentiles((0.5, 99.5)),
            "fpr05": summary.fpr05_threshold,
            "tpr95": summary.tpr95_threshold,
            "best_f1": summary.best_f1_threshold,
            "curve": _falling(summary.false_alarms),
        }


def _falling(points: Sequence[FalseAlarms]) -> list[list[float]]:
    """Keep the points at which the threshold falls."""
    return [
        list(point)
        for index, point in enumerate(points)
        if not index or point.threshold < points[index - 1].threshold
    ]


def checked_image(
    score: npt.ArrayLike, label: npt.ArrayLike
) -> tuple[Floats, npt.NDArray[np.integer[Any]]]:
    """Check and return (H, W) scores as float32 and labels.

    Raises:
        ConfigError: for other shapes or label values.
        NumericsError: for NaN or infinite scores.
    """
    scores, labels = np.asarray(score), np.asarray(label)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ConfigError(
            f"Score of shape {scores.shape} and label of shape {labels.shape}; both must be the "
            "same (H, W). Resize the score to the label, or take it at the image's own size."
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
            "Check the weights and the image the score was computed from."
        )
    others = set(np.unique(labels).tolist()) - {KNOWN, ANOMALY, VOID}
    if others:
        raise ConfigError(
            f"Label values {sorted(others)[:5]} found; expected 0 (known), 1 (anomaly) and "
            "255 (void). Map the data set's own values first."
        )
    return scores, labels
