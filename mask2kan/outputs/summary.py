"""Read one anomaly score of a prediction at one threshold: mask, regions, JSON summary.

Files, figures and summaries are all made from an ``Analysis``, so they show the same pixels.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mask2kan.errors import ConfigError
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.scores import check_score
from mask2kan.outputs.quantize import Quantized, quantize
from mask2kan.outputs.regions import Region, find_regions

MIN_REGION_PIXELS = 50  # smaller specks are counted in the area, not listed or outlined
MAX_REGIONS = 100  # listed in a summary


class Analysis:
    """One score of a prediction, read at a threshold.

    Attributes:
        range: of the heat map, low and high; ``calibrated`` if measured.
        threshold_from: ``given``, ``fpr05`` or ``middle of the range``.
        min_pixels: of a region to be listed or outlined.
        sigma: of the smoothing, as a share of the longer side.
    """

    def __init__(
        self,
        prediction: Prediction,
        score: str | None = None,
        threshold: float | None = None,
        *,
        min_region_pixels: int | None = None,
        sigma: float | None = None,
    ) -> None:
        """Choose score and threshold.

        Args:
            prediction: to read.
            score: one of ``scores.SCORES``; None for the settings'.
            threshold: None for the calibrated one, or the middle of the nominal range.
            min_region_pixels: None for the settings', at least ``MIN_REGION_PIXELS``.
            sigma: None for the settings'.

        Raises:
            ConfigError: for an unknown score or a threshold that is not finite.
        """
        self.prediction = prediction
        self.score = score or prediction.settings.score
        check_score(self.score)
        if threshold is not None and not math.isfinite(threshold):
            raise ConfigError(f"The threshold is {threshold}; it must be a finite number.")
        self.sigma = prediction.settings.sigma if sigma is None else sigma
        prediction.prepare((self.score,))
        low, high, self.calibrated = prediction.score_range(self.score)
        self.range = (low, high)
        self.threshold, self.threshold_from = (
            prediction.default_threshold(self.score)
            if threshold is None
            else (float(threshold), "given")
        )
        self.min_pixels = (
            prediction.smallest_region(MIN_REGION_PIXELS)
            if min_region_pixels is None
            else min_region_pixels
        )

    @property
    def values(self) -> NDArray[np.float32]:
        """The score (H, W), smoothed by ``sigma``."""
        return self.prediction.anomaly_map(self.score, self.sigma)

    @functools.cached_property
    def quantized(self) -> Quantized:
        """The score as 16-bit codes."""
        return quantize(self.values)

    @functools.cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The anomalous pixels (H, W).

        Decided on the codes, as by the page and readers of ``score16.png``; raw scores within half
        a step of the threshold (1/65535 of the map's range) may differ.
        """
        return self.quantized.codes >= self.quantized.threshold_code(self.threshold)

    @functools.cached_property
    def regions(self) -> list[Region]:
        """The regions of at least ``min_pixels``, the largest first."""
        return find_regions(self.mask, self.values, self.min_pixels)

    @functools.cached_property
    def outlined(self) -> NDArray[np.bool_]:
        """The pixels (H, W) of ``regions``: what is outlined, measured and judged."""
        outlined = np.zeros_like(self.mask)
        for region in self.regions:
            left, top, right, bottom = region.box
            outlined[top:bottom, left:right] |= region.inside
        return outlined

    @functools.cached_property
    def classes(self) -> list[dict[str, Any]]:
        """The classes, largest first: ``index``, ``name``, ``color``, ``pixels``, ``share``."""
        prediction = self.prediction
        counts = np.bincount(prediction.semantic.ravel(), minlength=len(prediction.class_names))
        return [
            {
                "index": int(index),
                "name": prediction.class_names[index],
                "color": prediction.palette[index].tolist(),
                "pixels": int(counts[index]),
                "share": float(counts[index] / prediction.semantic.size),
            }
            for index in np.argsort(-counts, kind="stable")
            if counts[index]
        ]

    def summary(self) -> dict[str, Any]:
        """Summarise the analysis in plain values ready for JSON.

        Sizes are [height, width], boxes [left, top, right, bottom), shares of the image's area:
        ``anomalous_share`` of every pixel at the threshold, ``regions_share`` of those in
        ``regions``, without the specks below ``smallest_region`` (in pixels). ``score16`` is that
        file's encoding; another model computed the ``shared`` stages.
        """
        prediction, regions = self.prediction, self.regions
        notes = list(prediction.notes)
        if not self.calibrated:
            notes.append(f"The {self.score} score is uncalibrated for this model: nominal range.")
        return {
            "model": prediction.source,
            "parameters": prediction.num_parameters,
            "size": list(prediction.size),
            "computed_size": list(prediction.compute_size),
            "score": self.score,
            "refined": prediction.refine,
            "range": list(self.range),
            "calibrated": self.calibrated,
            "threshold": self.threshold,
            "threshold_from": self.threshold_from,
            "classes": self.classes,
            "anomalous_share": float(self.mask.mean()),
            "regions_share": float(self.outlined.mean()),
            "regions": [
                {
                    "box": list(region.box),
                    "pixels": region.pixels,
                    "share": region.pixels / self.mask.size,
                    "mean": region.mean,
                    "max": region.max,
                }
                for region in regions[:MAX_REGIONS]
            ],
            "regions_found": len(regions),
            "smallest_region": self.min_pixels,
            "smoothed_by": self.sigma,
            "score16": self.quantized.encoding,
            "settings": prediction.settings.to_dict(),
            "shared": list(prediction.shared),
            "milliseconds": {stage: round(ms, 2) for stage, ms in prediction.timings.items()},
            "notes": notes,
        }
