"""Overlap of a class map with the ground truth, from a confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mask2kan.checks import require
from mask2kan.errors import ConfigError

VOID = 255


class SegmentationEvaluator:
    """Counts pixels by true and predicted class over any number of images.

    Attributes:
        confusion: (K, K) counts, row = truth, column = prediction; void is left out.
    """

    def __init__(self, num_classes: int) -> None:
        require("num_classes", num_classes, 1, VOID)
        self.num_classes = num_classes
        self.confusion = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: npt.ArrayLike, label: npt.ArrayLike) -> None:
        """Add integers (..., H, W) in [0, K) of one or more images; labels may be 255 (void).

        Raises:
            ConfigError: for other shapes or values.
        """
        predictions, labels = np.asarray(prediction), np.asarray(label)
        if predictions.shape != labels.shape:
            raise ConfigError(
                f"Prediction of shape {predictions.shape} and label of shape {labels.shape}; "
                "they must be the same."
            )
        valid = labels != VOID
        predicted, truth = self._indices(predictions[valid]), self._indices(labels[valid])
        counts = np.bincount(truth * self.num_classes + predicted, minlength=self.num_classes**2)
        self.confusion += counts.reshape(self.num_classes, self.num_classes)

    def compute(self) -> dict[str, Any]:
        """Return the metrics so far, in [0, 1].

        Returns:
            ``miou`` over the classes in the ground truth; ``iou``: K values, else NaN;
            ``pixel_accuracy``.

        Raises:
            ConfigError: when no pixel was valid.
        """
        if not self.confusion.sum():
            raise ConfigError("No labelled pixels: every label was 255 (void), or none was given.")
        hit = np.diag(self.confusion).astype(np.float64)
        truth, predicted = self.confusion.sum(1), self.confusion.sum(0)
        iou = np.full(self.num_classes, np.nan)
        np.divide(hit, truth + predicted - hit, out=iou, where=truth > 0)
        return {
            "miou": float(np.nanmean(iou)),
            "iou": [float(value) for value in iou],
            "pixel_accuracy": float(hit.sum() / self.confusion.sum()),
        }

    def _indices(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if values.dtype.kind not in "ui":
            raise ConfigError(f"Class indices of type {values.dtype}; expected integers.")
        indices = values.astype(np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.num_classes:
            raise ConfigError(
                f"Class indices from {indices.min()} to {indices.max()} for "
                f"{self.num_classes} classes; expected 0 to {self.num_classes - 1}, or 255 for "
                "void in labels."
            )
        return indices
