"""Count what the page shows at one threshold: objects found and false regions.

An object, an 8-connected region of anomalous pixels, is found when at least half of it lies in
reported regions. A false region touches no anomalous and some known pixel.
"""

from __future__ import annotations

import statistics

import numpy as np
from numpy.typing import NDArray

from mask2kan.inference.scores import anomalous_regions
from mask2kan.outputs.truth import count_false_regions, count_objects

SMALLEST_OBJECT = 50  # pixels


class RegionCounter:
    """Counts over images."""

    def __init__(self) -> None:
        self.objects = self.found = 0
        self.false: list[int] = []

    def update(self, anomalous: NDArray[np.bool_], label: NDArray[np.uint8], smallest: int) -> None:
        """Add an image.

        Args:
            anomalous: (H, W), score at or above the threshold.
            label: (H, W) 0 known, 1 anomaly, 255 void.
            smallest: pixels of the smallest region reported.
        """
        reported = anomalous_regions(anomalous, smallest)[0] > 0
        objects, found = count_objects(reported, label, SMALLEST_OBJECT)
        self.objects += objects
        self.found += found
        self.false.append(count_false_regions(reported, label))

    def compute(self) -> dict[str, float]:
        """Return ``objects``, ``found``, and per image ``false_median`` and ``false_mean``."""
        return {
            "objects": self.objects,
            "found": self.found,
            "false_median": float(statistics.median(self.false)) if self.false else 0.0,
            "false_mean": float(statistics.fmean(self.false)) if self.false else 0.0,
        }
