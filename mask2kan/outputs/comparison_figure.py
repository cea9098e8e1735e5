"""One page for a paper: a picture, what each model makes of it, the legend and every setting.

Columns from left to right: the picture, with its ground truth where that is known, then a column
per model with classes above and anomaly score below. Written as PNG or PDF.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2kan.errors import ConfigError, unknown
from mask2kan.inference.prediction import Prediction
from mask2kan.media.images import RGB
from mask2kan.outputs import drawing
from mask2kan.outputs.exports import at_threshold, quantize
from mask2kan.outputs.results import semantic_overlay, smallest_region, summarize, write_whole

_FORMATS = {".png": "PNG", ".pdf": "PDF"}
# Pillow's PDFs hold a JPEG: at its default quality thin outlines and letters get halos
_PDF_SAVING: dict[str, Any] = {"resolution": 200, "quality": 95, "subsampling": 0}
_PNG_SAVING: dict[str, Any] = {"dpi": (200, 200)}


def comparison_page(
    predictions: Sequence[tuple[str, Prediction]],
    score: str | None,
    thresholds: Sequence[float | None],
    *,
    min_region_pixels: int | None = None,
    name: str = "",
    truth: NDArray[np.uint8] | None = None,
    colormap: str = "inferno",
) -> RGB:
    """Models side by side on one page.

    Args:
        predictions: a title and a prediction of the same picture per model.
        score: one of ``anomaly.SCORES``; None for the first prediction's settings'.
        thresholds: one per model; None for its default.
        min_region_pixels: smaller regions are neither outlined nor counted; None for the most that
            the predictions' settings say.
        name: of the picture.
        truth: (H, W) 0 known, 1 anomaly, 255 void.
        colormap: of the heat maps.

    Returns:
        (height, width, 3).

    Raises:
        ConfigError: for an unknown score or colour map, or a threshold that is not finite.
    """
    image = predictions[0][1].image
    score = score or predictions[0][1].settings.score
    if min_region_pixels is None:
        min_region_pixels = max(smallest_region(one, None) for _, one in predictions)
    summaries = [
        summarize(prediction, score, threshold, min_region_pixels=min_region_pixels)
        for (_, prediction), threshold in zip(predictions, thresholds, strict=True)
    ]
    columns = [_picture_column(image, name, truth)] + [
        _model_column(title, prediction, summary, min_region_pixels, colormap)
        for (title, prediction), summary in zip(predictions, summaries, strict=True)
    ]
    drawn = drawing.comparison(columns)
    width = drawn.shape[1] - 2 * drawing.MARGIN
    settings = [
        _setting(title, prediction, summary, truth)
        for (title, prediction), summary in zip(predictions, summaries, strict=True)
    ]
    last = f"Regions of {min_region_pixels} pixels or more, 8-connected, are outlined and counted."
    return drawing.stacked(
        [
            drawn,
            drawing.indented(drawing.legend(*_classes(predictions, summaries), width=width)),
            drawing.indented(drawing.paragraphs([*settings, last], width=width)),
        ]
    )


def write_page(path: str | Path, page: RGB) -> Path:
    """Write a page as PNG or PDF, whole or not at all.

    Args:
        path: its suffix decides.
        page: from ``comparison_page``.

    Raises:
        ConfigError: for another suffix.
        CheckpointError: when it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(unknown("page format", path.suffix, tuple(_FORMATS)))
    buffer = io.BytesIO()
    kind = _FORMATS[path.suffix.lower()]
    Image.fromarray(page).save(buffer, kind, **(_PDF_SAVING if kind == "PDF" else _PNG_SAVING))
    return write_whole(path, buffer.getvalue())


def _picture_column(image: RGB, name: str, truth: NDArray[np.uint8] | None) -> drawing.Column:
    height, width = image.shape[:2]
    pictures = [("input", image)]
    if truth is not None:
        caption = "ground truth: anomalies outlined" if (truth == 1).any() else "ground truth: none"
        pictures.append((caption, drawing.outline(image, truth == 1)))
    return drawing.Column(name or "Picture", f"{width} x {height} pixels", pictures)


def _model_column(
    title: str,
    prediction: Prediction,
    summary: dict[str, Any],
    min_region_pixels: int,
    colormap: str,
) -> drawing.Column:
    score, value = summary["score"], summary["threshold"]
    low, high = summary["range"]
    values = prediction.anomaly_map(score)
    heat = drawing.outline(
        drawing.heat_map(values, low, high, colormap), values >= value, min_pixels=min_region_pixels
    )
    overlay = semantic_overlay(prediction, score, value, min_region_pixels=min_region_pixels)
    total = sum(prediction.timings.get(stage, 0.0) for stage in ("model", "postprocess"))
    label = score if summary["calibrated"] else f"{score} (uncalibrated)"
    return drawing.Column(
        title,
        f"{prediction.num_parameters / 1e6:.2f} M parameters · {total:.0f} ms",
        [
            ("classes; outlined: anomalous", overlay),
            (f"anomaly score {label}; outlined: at least {value:.3g}", heat),
            ("", drawing.color_bar(low, high, label, threshold=value, cmap=colormap)),
        ],
    )


def _setting(
    title: str, prediction: Prediction, summary: dict[str, Any], truth: NDArray[np.uint8] | None
) -> str:
    """What one model found, in a sentence."""
    score, value = summary["score"], summary["threshold"]
    found, share = summary["regions_found"], 100 * summary["anomalous_share"]
    range_from = "calibrated" if summary["calibrated"] else "uncalibrated: nominal range"
    told = (
        f"{title}: score {score} >= {value:.4g} ({summary['threshold_from']}; {range_from}) on "
        f"{share:.2f} % of the picture, {found} region{'' if found == 1 else 's'}"
    )
    if truth is None:
        return f"{told}."
    quality = at_threshold(quantize(prediction.anomaly_map(score)), value, truth)
    names = {"precision": "precision", "recall": "recall", "f1": "F1", "iou": "IoU"}
    return told + "; " + ", ".join(f"{names[key]} {quality[key]:.3f}" for key in names) + "."


def _classes(
    predictions: Sequence[tuple[str, Prediction]], summaries: Sequence[dict[str, Any]]
) -> tuple[list[str], NDArray[np.uint8]]:
    """Names and colours of the classes some model sees, each once."""
    colours: dict[tuple[str, tuple[int, ...]], float] = {}
    for (_, prediction), summary in zip(predictions, summaries, strict=True):
        for entry in summary["classes"]:
            colour = tuple(int(value) for value in prediction.palette[entry["index"]])
            key = (entry["name"], colour)
            colours[key] = max(colours.get(key, 0.0), entry["share"])
    order = sorted(colours, key=lambda key: -colours[key])
    return [name for name, _ in order], np.array([colour for _, colour in order], dtype=np.uint8)
