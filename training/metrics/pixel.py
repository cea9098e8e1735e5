"""Quality of an anomaly score: AP, AUROC, FPR95, best F1, and the metrics of whole components.

Two protocols. "exact" ranks every pixel of every image together, without bins (``curves``).
"smiyc" is the SegmentMeIfYouCan benchmark's own: float16 scores, thresholds binned per image
(``smiyc``); use it to compare with figures of that benchmark, and "exact" for all else. With a
track, the pixels above the best-F1 threshold of the protocol at hand are compared as segments
(``component``).

The thesis prints AuPRC as the integral of precision times recall; it is the integral of precision
over recall, which is what AP estimates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError, NumericsError

from .component import TRACKS, ComponentEvaluator
from .curves import ExactCurve
from .smiyc import BinnedCurve, half_precision
from .sorted_scores import Floats

KNOWN, ANOMALY, VOID = 0, 1, 255
PROTOCOLS = ("exact", "smiyc")


class AnomalyEvaluator:
    """Collects scores and labels of any number of images and ranks all pixels together.

    Memory stays bounded (below 200 MB, for hundreds of megapixels too); what does not fit lies in
    temporary files. Disk per pixel: "exact" four bytes, and as much again with a track; "smiyc"
    nothing, and two bytes with a track. "smiyc" also holds some 20 kB of counts per image.

    Args:
        protocol: ``exact``, or ``smiyc``, which rounds scores to float16 as the benchmark stores
            them.
        track: whose sizes the component metrics take, ``anomaly`` or ``obstacle``; none when None.
        folder: where the temporary files lie; the system's temporary folder when None.

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
        self._components = None
        if track is not None:
            kept = np.float32 if protocol == "exact" else np.float16
            self._components = ComponentEvaluator(TRACKS[track], kept, folder)

    def update(self, score: npt.ArrayLike, label: npt.ArrayLike) -> None:
        """Add one image. One without anomalies counts; one that is all void changes nothing.

        Args:
            score: (H, W) floating point, higher = more anomalous; ranked as float32 or, in
                ``smiyc``, as float16.
            label: (H, W) integers: 0 known, 1 anomaly, 255 void (left out).

        Raises:
            ConfigError: for shapes that differ, are not (H, W), or for other label values.
            NumericsError: for NaN or infinite scores, or ones beyond float16 in ``smiyc``.
            Mask2KANError: when the disk has no room.
        """
        scores, labels = checked_image(score, label)
        if isinstance(self._curve, BinnedCurve):
            halves = half_precision(scores)
            self._curve.add(halves[labels == KNOWN], halves[labels == ANOMALY])
        else:
            self._curve.add(scores[labels == KNOWN], scores[labels == ANOMALY])
        if self._components is not None:
            self._components.add(scores, labels == ANOMALY, labels == VOID)

    def compute(self) -> dict[str, Any]:
        """Metrics over all images so far; more may be added afterwards.

        Returns:
            ``ap``, ``auroc``, ``fpr95``, ``best_f1`` in [0, 1] and ``best_f1_threshold`` in the
            score's own units (the best F1 counts score >= threshold as anomalous). With a track
            also ``siou``, ``ppv``, ``f1_star`` in [0, 1] (NaN where there is no component or
            segment to average over) and the counts ``tp``, ``fp``, ``fn``, each a dict with the
            keys 25, 30, ... 75 (tau in per cent), of the segments with score > threshold.

        Raises:
            ConfigError: when there is no anomalous or no known pixel.
        """
        summary = self._curve.summary()
        results: dict[str, Any] = {
            "ap": summary.ap,
            "auroc": summary.auroc,
            "fpr95": summary.fpr95,
            "best_f1": summary.best_f1,
            "best_f1_threshold": summary.best_f1_threshold,
        }
        if self._components is not None:
            results |= self._components.compute(summary.best_f1_threshold)
        return results

    def points(self, count: int = 1000) -> dict[str, npt.NDArray[np.float64]]:
        """The ROC and precision-recall curves, for an image of them.

        Args:
            count: about how many points at most.

        Returns:
            ``tpr`` (which is the recall), ``fpr`` and ``precision``, by falling threshold.

        Raises:
            ConfigError: when there is no anomalous or no known pixel.
        """
        self._curve.summary()
        tp, fp = self._curve.rates(count)
        return {
            "tpr": tp / tp[-1],
            "fpr": fp / fp[-1],
            "precision": tp / np.maximum(tp + fp, 1),
        }

    def operating_points(self) -> dict[str, Any]:
        """Thresholds and range a checkpoint carries for this score.

        Returns:
            ``range`` [0.5th, 99.5th percentile of all valid pixels], and thresholds
            (anomalous if score >= t): ``fpr05``, the lowest with a false-positive rate of at
            most 5 %; ``tpr95``, the highest with a true-positive rate of at least 95 %;
            ``best_f1``.

        Raises:
            ConfigError: when there is no anomalous or no known pixel, or in ``smiyc``, whose bins
                are too coarse for it.
        """
        if isinstance(self._curve, BinnedCurve):
            raise ConfigError('Operating points need every score; use AnomalyEvaluator("exact").')
        summary = self._curve.summary()
        return {
            "range": self._curve.percentiles((0.5, 99.5)),
            "fpr05": summary.fpr05_threshold,
            "tpr95": summary.tpr95_threshold,
            "best_f1": summary.best_f1_threshold,
        }


def checked_image(
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
    labels = labels.astype(np.int64) if labels.dtype.kind == "b" else labels
    others = set(np.unique(labels).tolist()) - {KNOWN, ANOMALY, VOID}
    if others:
        raise ConfigError(
            f"Label values {sorted(others)[:5]} found; expected 0 (known), 1 (anomaly) and "
            "255 (void). Map the data set's own values first."
        )
    return scores, labels
