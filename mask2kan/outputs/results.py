"""What a prediction says, as a JSON-ready summary and as files. Shared by command line and app.

Files of one prediction, after a prefix such as ``left``:

- ``<prefix>_semantic.png``   8-bit gray, label values;
- ``<prefix>_overlay.png``    to look at: class colours over the picture, anomalies outlined;
- ``<prefix>_score16.png``    16-bit gray, the smoothed score, its stated range as 0 to 65535;
- ``<prefix>_score.npz``      ``score`` (H, W) raw float32, and ``smoothed``, what the threshold is
  applied to (equal where the settings smooth nothing), with ``name``, ``range``, ``threshold`` and
  ``sigma``, the smoothing as a share of the longer side.

Every file appears whole or not at all: it is written under another name and then renamed.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from scipy import ndimage

from mask2kan.errors import ConfigError
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.scores import anomalous_regions, check_score
from mask2kan.media.files import atomic_writer
from mask2kan.media.images import RGB
from mask2kan.outputs import drawing

MIN_REGION_PIXELS = 50  # smaller specks are counted in the area, not listed or outlined
MAX_REGIONS = 100
OVERLAY_ALPHA = 0.55


def summarize(
    prediction: Prediction,
    score: str | None = None,
    threshold: float | None = None,
    *,
    min_region_pixels: int | None = None,
) -> dict[str, Any]:
    """What the model found, in plain values ready for JSON.

    Args:
        prediction: from a ``Predictor``.
        score: one of ``anomaly.SCORES``; None for the prediction's settings'.
        threshold: a pixel is anomalous from here on; None for the calibrated one, or the middle of
            the nominal range.
        min_region_pixels: smaller regions are not listed; None for the settings', at least
            ``MIN_REGION_PIXELS``.

    Returns:
        ``model``, ``parameters``, ``size`` and ``computed_size`` as [height, width], ``score``,
        ``range``, ``calibrated``, ``threshold``, ``threshold_from``, ``classes`` (largest first,
        with their share of the area), ``anomalous_share``, ``regions`` (largest first; boxes as
        [left, top, right, bottom), right and bottom excluded), ``regions_found``,
        ``smallest_region`` (in pixels), ``settings``, ``milliseconds`` per stage, ``shared``
        (stages that another model of the comparison had already computed) and ``notes``.

    Raises:
        ConfigError: for an unknown score or a threshold that is not a number.
    """
    score = score or prediction.settings.score
    check_score(score)
    prediction.prepare((score,))
    low, high, calibrated = prediction.score_range(score)
    value, origin = used_threshold(prediction, score, threshold)
    anomalous = prediction.anomaly_map(score) >= value
    least = smallest_region(prediction, min_region_pixels)
    regions, found = _regions(prediction.anomaly_map(score), anomalous, least)
    notes = list(prediction.notes)
    if not calibrated:
        notes.append(f"The {score} score is uncalibrated for this model: nominal range.")
    return {
        "model": prediction.source,
        "parameters": prediction.num_parameters,
        "size": list(prediction.size),
        "computed_size": list(prediction.compute_size),
        "score": score,
        "refined": prediction.refine,
        "range": [low, high],
        "calibrated": calibrated,
        "threshold": value,
        "threshold_from": origin,
        "classes": _classes(prediction),
        "anomalous_share": float(anomalous.mean()),
        "regions": regions,
        "regions_found": found,
        "smallest_region": least,
        "settings": prediction.settings.to_dict(),
        "shared": list(prediction.shared),
        "milliseconds": {stage: round(ms, 2) for stage, ms in prediction.timings.items()},
        "notes": notes,
    }


def smallest_region(prediction: Prediction, pixels: int | None) -> int:
    """Pixels of the smallest region: the given ones, or what the prediction's settings say."""
    return prediction.smallest_region(MIN_REGION_PIXELS) if pixels is None else pixels


def used_threshold(
    prediction: Prediction, score: str, threshold: float | None
) -> tuple[float, str]:
    """The threshold and where it comes from: ``given``, ``fpr05`` or ``middle of the range``.

    Raises:
        ConfigError: when the given one is not a finite number.
    """
    if threshold is None:
        return prediction.default_threshold(score)
    if not math.isfinite(threshold):
        raise ConfigError(f"The threshold is {threshold}; it must be a finite number.")
    return float(threshold), "given"


def _classes(prediction: Prediction) -> list[dict[str, Any]]:
    names = prediction.class_names
    counts = np.bincount(prediction.semantic.ravel(), minlength=len(names))
    return [
        {
            "index": int(index),
            "name": names[index],
            "color": [int(value) for value in prediction.palette[index]],
            "pixels": int(counts[index]),
            "share": float(counts[index] / prediction.semantic.size),
        }
        for index in np.argsort(-counts, kind="stable")
        if counts[index]
    ]


def _regions(
    score: NDArray[np.float32], anomalous: NDArray[np.bool_], min_pixels: int
) -> tuple[list[dict[str, Any]], int]:
    """The largest regions (8-connected) and how many there are."""
    labels, found = anomalous_regions(anomalous, min_pixels)
    if not found:
        return [], 0
    sizes = np.bincount(labels.ravel(), minlength=found + 1)
    boxes = ndimage.find_objects(labels)
    largest = 1 + np.argsort(-sizes[1:], kind="stable")[:MAX_REGIONS]
    regions = []
    for label in largest:
        rows, columns = boxes[label - 1]
        values = score[rows, columns][labels[rows, columns] == label]
        regions.append(
            {
                "box": [columns.start, rows.start, columns.stop, rows.stop],
                "pixels": int(sizes[label]),
                "share": float(sizes[label] / labels.size),
                "mean": float(values.mean(dtype=np.float64)),
                "max": float(values.max()),
            }
        )
    return regions, found


def semantic_overlay(
    prediction: Prediction,
    score: str,
    threshold: float,
    *,
    alpha: float = OVERLAY_ALPHA,
    min_region_pixels: int | None = None,
) -> RGB:
    """Class colours over the picture, anomalies outlined: (H, W, 3)."""
    mask = prediction.anomaly_map(score) >= threshold
    return outlined_classes(prediction, mask, alpha=alpha, min_region_pixels=min_region_pixels)


def outlined_classes(
    prediction: Prediction,
    mask: NDArray[np.bool_],
    *,
    alpha: float = OVERLAY_ALPHA,
    min_region_pixels: int | None = None,
) -> RGB:
    """Class colours over the picture, the regions of a (H, W) mask outlined: (H, W, 3)."""
    colours = drawing.colorize(prediction.semantic, prediction.palette)
    blended = drawing.overlay(prediction.image, colours, alpha)
    least = smallest_region(prediction, min_region_pixels)
    return drawing.outline(blended, mask, min_pixels=least)


def score_picture16(score: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint16]:
    """(H, W) uint16: low and below is 0, high and above 65535."""
    return np.rint(drawing.unit_range(score, low, high).astype(np.float64) * 65535).astype(
        np.uint16
    )


def write_results(
    prediction: Prediction,
    folder: str | Path,
    prefix: str,
    score: str | None = None,
    threshold: float | None = None,
    *,
    min_region_pixels: int | None = None,
) -> list[Path]:
    """Write the four files of one prediction (see the module's docstring).

    Args:
        prediction: from a ``Predictor``.
        folder: made when it does not exist.
        prefix: what the names begin with.
        score: one of ``anomaly.SCORES``; None for the prediction's settings'.
        threshold: as in ``summarize``.
        min_region_pixels: smaller regions are not outlined; None as in ``summarize``.

    Returns:
        The paths, in the order of the docstring.

    Raises:
        CheckpointError: when the folder cannot be written; files already complete stay.
    """
    score = score or prediction.settings.score
    check_score(score)
    prediction.prepare((score,))
    folder = Path(folder)
    low, high, calibrated = prediction.score_range(score)
    value, _ = used_threshold(prediction, score, threshold)
    values = prediction.anomaly_map(score)
    shown = semantic_overlay(prediction, score, value, min_region_pixels=min_region_pixels)
    facts = {"score": score, "range": [low, high], "calibrated": calibrated, "threshold": value}
    contents = {
        "semantic.png": png_bytes(prediction.semantic),
        "overlay.png": png_bytes(shown),
        "score16.png": png_bytes(score_picture16(values, low, high), facts),
        "score.npz": raw_scores(prediction, score, value),
    }
    return [write_whole(folder / f"{prefix}_{name}", content) for name, content in contents.items()]


def raw_scores(prediction: Prediction, score: str, threshold: float) -> bytes:
    """An NPZ of the score, plain and smoothed, and what belongs to it; see the module."""
    low, high, _ = prediction.score_range(score)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        score=prediction.anomaly(score),
        smoothed=prediction.anomaly_map(score),
        sigma=np.array(prediction.settings.sigma, dtype=np.float64),
        name=np.array(score),
        range=np.array([low, high], dtype=np.float64),
        threshold=np.array(threshold, dtype=np.float64),
    )
    return buffer.getvalue()


def png_bytes(array: NDArray[Any], facts: dict[str, Any] | None = None) -> bytes:
    """An 8-bit gray, 16-bit gray or RGB PNG; ``facts`` go into its text as JSON."""
    text = PngImagePlugin.PngInfo()
    if facts:
        text.add_text("mask2kan", json.dumps(facts))
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=3, pnginfo=text)
    return buffer.getvalue()


def write_json(path: Path, value: Any) -> Path:
    """Write JSON, whole or not at all."""
    return write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file under another name in the same folder, then rename it into place.

    Raises:
        CheckpointError: when it cannot be written; nothing half-written stays behind.
    """
    with atomic_writer(path) as file:
        file.write(content)
    return path


def unique_stems(pictures: Sequence[Path]) -> list[str]:
    """File names without suffix; a repeated one gets the next free number: road, road_2."""
    taken: set[str] = set()
    stems = []
    for path in pictures:
        stem, number = path.stem, 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{path.stem}_{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems
