"""Scores and regions for other programs: 16-bit codes, COCO regions, counts at a threshold.

A score map is exported over the picture's own minimum and maximum in 65,535 equal steps. A
threshold then is a code as well, "anomalous from this code on", so whoever counts on the codes
counts exactly what the app shows.

Source: the run-length encoding of COCO (Lin et al., 2014; ``pycocotools``): runs in column-major
order, their lengths as differences in a base-32 text.

Legend: H W picture size.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mask2kan.errors import ConfigError, NumericsError
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.scores import anomalous_regions, check_score
from mask2kan.outputs import drawing
from mask2kan.outputs.results import (
    outlined_classes,
    png_bytes,
    raw_scores,
    used_threshold,
    write_whole,
)

CODES = 65536


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """A score map in 16-bit steps over its own range.

    Attributes:
        codes: (H, W) uint16.
        low: the score of code 0, the map's minimum.
        high: the score of code 65535, its maximum.
    """

    codes: NDArray[np.uint16]
    low: float
    high: float

    def value(self, code: int) -> float:
        """The score a code stands for; of the largest code, the maximum without a rounding."""
        if code == CODES - 1:
            return self.high
        return self.low + code * (self.high - self.low) / (CODES - 1)

    def threshold_code(self, threshold: float) -> int:
        """The smallest code whose score reaches the threshold; ``CODES`` when none does.

        Raises:
            ConfigError: when the threshold is NaN, which no score reaches or misses.
        """
        if math.isnan(threshold):
            raise ConfigError(f"The threshold is {threshold}; it must be a number.")
        # first what lies outside: far away, the division below overflows
        if threshold <= self.low:
            return 0
        if threshold > self.value(CODES - 1):
            return CODES
        code = math.ceil((threshold - self.low) / (self.high - self.low) * (CODES - 1))
        # the division may be off by a rounding
        while code > 0 and self.value(code - 1) >= threshold:
            code -= 1
        while code < CODES and self.value(code) < threshold:
            code += 1
        return code

    def snapped(self, threshold: float) -> float:
        """The score of the threshold's code; outside the map's range the threshold itself.

        Raises:
            ConfigError: when the threshold is NaN.
        """
        code = self.threshold_code(threshold)
        return threshold if threshold < self.low or code == CODES else self.value(code)


def quantize(values: NDArray[np.float32]) -> Quantized:
    """Codes of a score map: (H, W) to (H, W); a constant map is all 0.

    Raises:
        NumericsError: for values that are not finite.
    """
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise NumericsError(f"{bad} of {values.size} scores are not finite; they have no code.")
    low, high = float(values.min()), float(values.max())
    span = high - low if high > low else 1.0
    scaled = (values.astype(np.float64) - low) / span * (CODES - 1)
    return Quantized(np.rint(scaled).astype(np.uint16), low, high)


def at_threshold(
    quantized: Quantized, threshold: float, truth: NDArray[np.uint8]
) -> dict[str, float]:
    """How well "score >= threshold" finds the true anomalies.

    Args:
        quantized: the scores.
        threshold: in score units.
        truth: (H, W) 0 known, 1 anomaly, 255 void, which counts for nothing.

    Returns:
        ``tp``, ``fp``, ``fn`` in pixels, ``precision``, ``recall``, ``f1`` and ``iou``; a ratio
        whose denominator is 0 is 0.

    Raises:
        ConfigError: when the sizes differ.
    """
    if truth.shape != quantized.codes.shape:
        raise ConfigError(f"The truth is {truth.shape}, the scores are {quantized.codes.shape}.")
    found = quantized.codes >= quantized.threshold_code(threshold)
    tp = int((found & (truth == 1)).sum())
    fp = int((found & (truth == 0)).sum())
    fn = int((~found & (truth == 1)).sum())

    def ratio(part: int, whole: int) -> float:
        return part / whole if whole else 0.0

    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "iou": ratio(tp, tp + fp + fn),
    }


def write_export(
    prediction: Prediction,
    folder: str | Path,
    prefix: str,
    score: str | None = None,
    threshold: float | None = None,
    *,
    min_region_pixels: int = 0,
    file_name: str = "",
    colormap: str = "inferno",
) -> list[Path]:
    """Write one model's files.

    ``<prefix>_`` and then ``overlay.png`` (classes over the picture, anomalies outlined),
    ``heat.png`` (the score over the calibrated range), ``semantic.png`` (label values),
    ``score16.png`` (the codes; their range in the PNG's text), ``score.npz`` (float32, plain and
    smoothed) and ``regions.json`` (COCO).

    Args:
        prediction: from a ``Predictor``.
        folder: made when it does not exist.
        prefix: what the names begin with.
        score: one of ``anomaly.SCORES``; None for the prediction's settings'.
        threshold: in score units; None for the model's default.
        min_region_pixels: smaller regions are neither outlined nor listed.
        file_name: of the picture, for ``regions.json``.
        colormap: of the heat map.

    Returns:
        The paths.

    Raises:
        ConfigError: for an unknown score or colour map, or a threshold that is not finite.
        CheckpointError: when the folder cannot be written; files already complete stay.
    """
    score = score or prediction.settings.score
    check_score(score)
    prediction.prepare((score,))
    value, origin = used_threshold(prediction, score, threshold)
    low, high, calibrated = prediction.score_range(score)
    values = prediction.anomaly_map(score)
    codes = quantize(values)
    mask = codes.codes >= codes.threshold_code(value)
    facts = {
        "score": score,
        "range": [codes.low, codes.high],
        "threshold": value,
        "anomalous_from": codes.threshold_code(value),
        "calibrated_range": [low, high] if calibrated else None,
    }
    heat = drawing.heat_map(values, low, high, colormap)
    regions = coco_regions(
        mask,
        values,
        min_pixels=min_region_pixels,
        file_name=file_name,
        info={
            **facts,
            "threshold_from": origin,
            "min_pixels": min_region_pixels,
            "model": prediction.source,
        },
    )
    # all pictures outline the codes' mask: half a step around the threshold, raw scores differ
    overlay = outlined_classes(prediction, mask, min_region_pixels=min_region_pixels)
    contents = {
        "overlay.png": png_bytes(overlay),
        "heat.png": png_bytes(drawing.outline(heat, mask, min_pixels=min_region_pixels)),
        "semantic.png": png_bytes(prediction.semantic),
        "score16.png": png_bytes(codes.codes, facts),
        "score.npz": raw_scores(prediction, score, value),
        "regions.json": json.dumps(regions, allow_nan=False).encode(),
    }
    folder = Path(folder)
    return [write_whole(folder / f"{prefix}_{name}", content) for name, content in contents.items()]


def coco_regions(
    mask: NDArray[np.bool_],
    scores: NDArray[np.float32],
    *,
    min_pixels: int = 0,
    file_name: str = "",
    info: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The anomalous regions of a picture as a COCO annotation file.

    Args:
        mask: (H, W), True where anomalous.
        scores: (H, W).
        min_pixels: smaller regions are left out.
        file_name: of the picture.
        info: what else a reader should know.

    Returns:
        ``info``, ``images``, ``categories`` and ``annotations``: 8-connected regions, the largest
        first, with ``segmentation`` (run-length encoded), ``area``, ``bbox`` [x, y, width, height],
        and the region's mean and largest score.
    """
    height, width = mask.shape
    labels, found = anomalous_regions(mask, min_pixels)
    boxes = ndimage.find_objects(labels)
    sizes = np.bincount(labels.ravel(), minlength=found + 1)[1:]
    annotations = []
    for number, index in enumerate(np.argsort(-sizes, kind="stable"), start=1):
        rows, columns = boxes[index]
        inside = labels[rows, columns] == index + 1
        values = scores[rows, columns][inside]
        runs = _runs(inside, (rows.start, columns.start), height)
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "area": int(sizes[index]),
                "bbox": [
                    columns.start,
                    rows.start,
                    columns.stop - columns.start,
                    rows.stop - rows.start,
                ],
                "segmentation": {
                    "size": [height, width],
                    "counts": _as_text(_counts(runs, height * width)),
                },
                "score": float(values.mean(dtype=np.float64)),
                "max_score": float(values.max()),
            }
        )
    return {
        "info": info or {},
        "images": [{"id": 1, "width": width, "height": height, "file_name": file_name}],
        "categories": [{"id": 1, "name": "anomaly", "supercategory": "anomaly"}],
        "annotations": annotations,
    }


def run_lengths(mask: NDArray[np.bool_]) -> str:
    """COCO's compressed run-length encoding of a mask, as ``pycocotools`` writes it."""
    return _as_text(_counts(_runs(mask, (0, 0), mask.shape[0]), mask.size))


def _runs(inside: NDArray[np.bool_], corner: tuple[int, int], height: int) -> NDArray[np.int64]:
    """Where runs of ones begin and end, down the columns of the whole picture: (n, 2).

    Args:
        inside: a cut-out of the mask.
        corner: its (row, column) in the picture.
        height: of the picture.
    """
    columns, rows = np.nonzero(inside.T)
    places = (columns + corner[1]) * height + rows + corner[0]
    if not len(places):
        return np.empty((0, 2), dtype=np.int64)
    breaks = np.flatnonzero(np.diff(places) != 1)
    starts = places[np.concatenate([[0], breaks + 1])]
    ends = places[np.concatenate([breaks, [len(places) - 1]])] + 1
    return np.stack([starts, ends], axis=1)


def _counts(runs: NDArray[np.int64], total: int) -> list[int]:
    """Lengths of zeros and ones by turns, zeros first."""
    edges = np.concatenate([[0], runs.ravel(), [total]])
    counts: list[int] = np.diff(edges).tolist()
    return counts if counts[-1] or len(counts) == 1 else counts[:-1]


def _as_text(counts: Sequence[int]) -> str:
    """Five bits a letter, low ones first; from the fourth on, the change since two before."""
    letters = []
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = rest & 0x1F
            rest >>= 5
            more = rest != (-1 if bits & 0x10 else 0)
            letters.append(chr(48 + (bits | (0x20 if more else 0))))
    return "".join(letters)
