"""Write the files of a result, after a prefix such as ``left_``.

- ``semantic.png``  8-bit, pixel values are labels, shown in the model's class colours (an indexed
  PNG: ``np.asarray(Image.open(path))`` are the labels); 16-bit gray above 255 classes;
- ``mask.png``      8-bit gray, 255 in the anomalous regions (``Analysis.outlined``), else 0;
- ``overlay.png``   class colours over the image, anomalies outlined;
- ``heat.png``      the score over its stated range as colours, anomalies outlined;
- ``score16.png``   16-bit gray, the smoothed score as codes (``outputs.quantize``); JSON in the
  PNG's text ``mask2kan``: ``low``, ``high``, ``step``, ``range`` (low and high), ``score``,
  ``threshold`` and its code (``anomalous_from``), ``calibrated``, ``calibrated_range`` or null;
- ``score.npz``     ``score`` (H, W) raw float32, ``smoothed`` (the threshold applies to it),
  ``name``, ``range``, ``threshold`` and ``sigma``, the smoothing as a share of the longer side;
- ``regions.json``  the anomalous regions as a COCO annotation file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from mask2kan.errors import ConfigError, unknown
from mask2kan.media.files import json_bytes, write_bytes
from mask2kan.media.images import RGB
from mask2kan.outputs import drawing
from mask2kan.outputs.names import unique_stems
from mask2kan.outputs.regions import coco_file
from mask2kan.outputs.summary import Analysis

RESULTS = ("semantic.png", "mask.png", "overlay.png", "score16.png", "score.npz")
FILES = (*RESULTS, "heat.png", "regions.json")
OVERLAY_ALPHA = 0.55


def write_results(
    analysis: Analysis,
    folder: str | Path,
    prefix: str,
    names: Sequence[str] = RESULTS,
    *,
    image_name: str = "",
    colormap: str = "inferno",
) -> list[Path]:
    """Write files of a result, each whole or not at all; returns their paths.

    An underscore follows the prefix; ``names`` are of ``FILES``, the options those of ``encode``.

    Raises:
        ConfigError: as ``encode``; nothing is written then.
        WriteError: when the folder cannot be written; complete files stay.
    """
    contents = [encode(analysis, name, image_name=image_name, colormap=colormap) for name in names]
    paths = [Path(folder) / f"{prefix}_{name}" for name in names]
    return list(map(write_bytes, paths, contents))


def save_prediction(
    analysis: Analysis,
    folder: Path,
    name: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write ``RESULTS`` and, last, ``<name>.json``: the image's path, summary, files and ``facts``.

    Without a name, the image's is taken, numbered where another image's results have it.

    Raises:
        WriteError: when the folder cannot be written; complete files stay.
    """
    path = analysis.prediction.path
    if name is None:
        [name] = unique_stems([path], lambda stem: folder / f"{stem}.json")
    files = write_results(analysis, folder, name)
    names = [file.name for file in files]
    summary = {"picture": path, **analysis.summary(), "files": names, **(facts or {})}
    return [*files, write_bytes(folder / f"{name}.json", json_bytes(summary))]


def encode(
    analysis: Analysis, name: str, *, image_name: str = "", colormap: str = "inferno"
) -> bytes:
    """Encode one of ``FILES``; ``image_name`` is for ``regions.json``, ``colormap`` for the heat.

    Raises:
        ConfigError: for an unknown file or colour map.
    """
    prediction = analysis.prediction
    if name == "semantic.png":
        return png_bytes(prediction.semantic, palette=prediction.palette)
    if name == "mask.png":
        return png_bytes(255 * analysis.outlined.astype(np.uint8))
    if name == "overlay.png":
        return png_bytes(drawing.outline(class_overlay(analysis), analysis.outlined))
    if name == "heat.png":
        heat = drawing.heat_map(analysis.values, *analysis.range, colormap)
        return png_bytes(drawing.outline(heat, analysis.outlined))
    if name == "score16.png":
        return png_bytes(analysis.quantized.codes, _facts(analysis))
    if name == "score.npz":
        return _raw_scores(analysis)
    if name == "regions.json":
        info = {
            **_facts(analysis),
            "threshold_from": analysis.threshold_from,
            "min_pixels": analysis.min_pixels,
            "model": prediction.source,
        }
        regions = coco_file(analysis.regions, prediction.size, image_name, info)
        return json.dumps(regions, allow_nan=False).encode()
    raise ConfigError(unknown("result file", name, FILES))


def class_overlay(analysis: Analysis) -> RGB:
    """Blend class colours over the image."""
    prediction = analysis.prediction
    colours = drawing.colorize(prediction.semantic, prediction.palette)
    return drawing.overlay(prediction.image, colours, OVERLAY_ALPHA)


def png_bytes(
    array: NDArray[Any],
    facts: dict[str, Any] | None = None,
    *,
    palette: NDArray[np.uint8] | None = None,
) -> bytes:
    """Encode an 8-bit gray, 16-bit gray or RGB PNG, with ``facts`` as JSON in its text.

    With a ``palette`` (K, 3), 8-bit values are its indices; 16-bit ones stay gray, since a PNG has
    no larger palettes.
    """
    image = Image.fromarray(array)
    if palette is not None and array.dtype == np.uint8:
        image.putpalette(palette[:256].tobytes())
    text = PngImagePlugin.PngInfo()
    if facts:
        text.add_text("mask2kan", json.dumps(facts))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3, pnginfo=text)
    return buffer.getvalue()


def _facts(analysis: Analysis) -> dict[str, Any]:
    codes = analysis.quantized
    return {
        "score": analysis.score,
        **codes.encoding,
        "range": [codes.low, codes.high],
        "threshold": analysis.threshold,
        "anomalous_from": codes.threshold_code(analysis.threshold),
        "calibrated": analysis.calibrated,
        "calibrated_range": list(analysis.range) if analysis.calibrated else None,
    }


def _raw_scores(analysis: Analysis) -> bytes:
    prediction = analysis.prediction
    buffer = io.BytesIO()
    np.savez(
        buffer,
        score=prediction.anomaly(analysis.score),
        smoothed=analysis.values,
        sigma=np.array(analysis.sigma, dtype=np.float64),
        name=np.array(analysis.score),
        range=np.array(analysis.range, dtype=np.float64),
        threshold=np.array(analysis.threshold, dtype=np.float64),
    )
    return buffer.getvalue()
