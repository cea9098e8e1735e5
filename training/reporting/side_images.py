"""Write one image per evaluated input: photo, class map, anomaly score and truth, two by two.

File names begin with the image's own figure: sorted by name, the worst come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mask2kan.inference.prediction import Prediction
from mask2kan.inference.scores import check_score
from mask2kan.media.files import write_bytes
from mask2kan.outputs.drawing import colorize, heat_map, overlay
from mask2kan.outputs.writer import png_bytes

from ..metrics.pixel import ANOMALY, VOID

ANOMALY_COLOR = (255, 40, 40)
VOID_COLOR = (0, 0, 0)


class SideImages:
    """Write a PNG per image.

    Args:
        folder: made when absent.
        score: shown over the checkpoint's calibrated (else nominal) range.
        anomalies: labels are 0 known, 1 anomaly, 255 void; otherwise class indices.
        palette: (C, 3) colours of the labels' classes; None for the model's.

    Raises:
        ConfigError: for an unknown score.
    """

    def __init__(
        self,
        folder: Path,
        score: str,
        *,
        anomalies: bool,
        palette: Sequence[tuple[int, int, int]] | None = None,
    ) -> None:
        check_score(score)
        self.folder = folder
        self.score = score
        self.anomalies = anomalies
        self.palette = None if palette is None else np.asarray(palette, dtype=np.uint8)

    def __call__(
        self, name: str, prediction: Prediction, label: NDArray[np.uint8], quality: float
    ) -> None:
        """Draw and write one; ``quality`` is its own AP or mIoU, NaN where it has none."""
        photo = prediction.image
        low, high, _ = prediction.score_range(self.score)
        classes = overlay(photo, colorize(prediction.semantic, prediction.palette), 0.6)
        heat = heat_map(prediction.anomaly(self.score), low, high)
        palette = prediction.palette if self.palette is None else self.palette
        truth = self._truth(photo, label, palette)
        rows = [np.hstack([photo, classes]), np.hstack([heat, truth])]
        shown = "none" if np.isnan(quality) else f"{quality:.3f}"
        write_bytes(self.folder / f"{shown}_{name}.png", png_bytes(np.vstack(rows)))

    def _truth(
        self, photo: NDArray[np.uint8], label: NDArray[np.uint8], palette: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        if not self.anomalies:
            return colorize(label, palette)  # void is black there too
        color = photo // 2
        color[label == ANOMALY] = ANOMALY_COLOR
        color[label == VOID] = VOID_COLOR
        return color
