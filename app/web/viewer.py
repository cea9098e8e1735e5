"""The browser viewer: the values it gets, and the component.

A result travels once: picture, labels (uint8) and scores (uint16 over the picture's own minimum and
maximum), gzipped; the page redraws by itself. Maps of pictures above 2048 pixels are shown by
every n-th value, not by averages: what is read under the cursor is a value the model gave.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2kan.inference.prediction import Prediction
from mask2kan.inference.scores import SCORES
from mask2kan.outputs.drawing import color_table
from mask2kan.outputs.quantize import quantize
from mask2kan.outputs.summary import MIN_REGION_PIXELS, Analysis

from ..services.catalog import title
from ..services.downloads import COLORMAPS
from ..services.models import SIDES, Answer
from ..strings import STAGES, VIEWER
from .component import component, packed, served

LONGEST = 2048
_DIVERGING = "BrBG"

_BACKBONES = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "mobilenetv2": "MobileNetV2",
    "r50": "ResNet-50",
    "swin_t": "Swin-T",
    "swin_s": "Swin-S",
    "swin_b": "Swin-B",
    "swin_l": "Swin-L",
}


def viewer(
    value: dict[str, Any] | None = None, server_functions: Sequence[Callable[..., Any]] = ()
) -> gr.HTML:
    """Make the component; its value is from ``show()``, or ``{"message": …}`` as a greeting."""
    tables = {name: color_table(name).tolist() for name in COLORMAPS}
    return component(
        "viewer",
        value,
        elem_id="viewer",
        strings=VIEWER,
        server_functions=server_functions,
        events=["picture_given"],
        colormaps={**tables, "diverging": color_table(_DIVERGING).tolist()},
    )


def show(
    picture: NDArray[np.uint8],
    answers: Sequence[Answer],
    score: str,
    *,
    truth: NDArray[np.uint8] | None = None,
) -> dict[str, Any]:
    """Make the viewer's value for one picture, but for the number of its run.

    Args:
        picture: (H, W, 3) RGB.
        answers: the left model's and the right model's.
        score: a name from ``mask2kan.inference.scores.SCORES``.
        truth: (H, W) 0 known, 1 anomaly, 255 void; None without one.
    """
    height, width = shown_size(picture)
    buffer = io.BytesIO()
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    Image.fromarray(small).save(buffer, "JPEG", quality=92)
    return {
        "size": [height, width],
        "source_size": list(picture.shape[:2]),
        "picture": served(buffer.getvalue(), "picture.jpg"),
        "truth": None if truth is None else packed(sampled(truth), "truth.gz"),
        "least": max(  # in pixels shown
            answer.prediction.settings.smallest_pixels(height, width, MIN_REGION_PIXELS)
            for answer in answers
        ),
        "sides": [_side(side, answer, score) for side, answer in zip(SIDES, answers, strict=True)],
    }


def still_there(value: dict[str, Any]) -> bool:
    """Whether the files of a value have not been cleaned up yet."""
    files = [value["picture"], value["truth"]]
    files += [side[name] for side in value["sides"] for name in ("labels", "scores")]
    return all(Path(file["path"]).is_file() for file in files if file)


def sampled(values: NDArray[Any]) -> NDArray[Any]:
    """Take the pixels of a map that the viewer shows: all, or every n-th of a large one."""
    height, width = values.shape
    shown_height, shown_width = shown_size(values)
    if (shown_height, shown_width) == (height, width):
        return values
    rows = ((np.arange(shown_height) + 0.5) * height / shown_height).astype(np.intp)
    columns = ((np.arange(shown_width) + 0.5) * width / shown_width).astype(np.intp)
    return np.asarray(values[rows[:, None], columns])


def _side(side: str, answer: Answer, score: str) -> dict[str, Any]:
    prediction = answer.prediction
    analysis = Analysis(prediction, score)
    scores = quantize(sampled(analysis.values))
    calibration = prediction.calibration.get(score, {})
    return {
        "side": side,
        "source": answer.source,
        "title": title(answer.source),
        "head": _head(answer),
        "facts": _facts(answer),
        "stages": _stages(prediction.timings, prediction.shared),
        "notes": [*prediction.notes, *_sampling(prediction)],
        "score": score,
        "score_title": SCORES[score].title,
        "calibrated": analysis.calibrated,
        "calibrated_on": calibration.get("data", ""),
        "range": list(analysis.range),
        "extent": [scores.low, scores.high],
        "threshold": analysis.threshold,
        "threshold_from": analysis.threshold_from,
        "thresholds": {
            name: float(calibration[name])
            for name in ("fpr05", "tpr95", "best_f1")
            if name in calibration
        },
        "classes": _classes(prediction),
        "labels": packed(sampled(prediction.semantic), f"{side}_labels.gz"),
        "scores": packed(scores.codes, f"{side}_scores.gz"),
    }


def _head(answer: Answer) -> str:
    return "KAN" if answer.config.mask_embed == "kan" else "MLP"


def _facts(answer: Answer) -> str:
    backbone = _BACKBONES.get(answer.config.backbone, answer.config.backbone)
    millions = answer.prediction.num_parameters / 1e6
    facts = [f"{_head(answer)} head", backbone, f"{millions:.2f} M parameters"]
    return " · ".join([*facts, f"{answer.device}, {answer.dtype}", _spent(answer.milliseconds)])


def _stages(timings: Mapping[str, float], shared: Sequence[str]) -> str:
    """Name the stages and their times; ``model`` is left out where its parts are known."""
    spent = {stage: _spent(timings[stage]) for stage in STAGES if stage in timings}
    spent |= dict.fromkeys(shared, "shared")
    if "transformer_decoder" in spent:
        spent.pop("model", None)
    return " · ".join(f"{STAGES[stage]} {spent[stage]}" for stage in STAGES if stage in spent)


def _sampling(prediction: Prediction) -> list[str]:
    (height, width), (full_height, full_width) = shown_size(prediction.semantic), prediction.size
    if (height, width) == (full_height, full_width):
        return []
    sizes = {"width": width, "height": height, "full_width": full_width, "full_height": full_height}
    return [VIEWER["sampled"].format(**sizes)]


def _spent(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _classes(prediction: Prediction) -> list[dict[str, Any]]:
    """List all classes by index, with their share of the picture."""
    names = prediction.class_names
    counts = np.bincount(prediction.semantic.ravel(), minlength=len(names))
    return [
        {
            "name": name,
            "colour": prediction.palette[index].tolist(),
            "share": float(counts[index] / prediction.semantic.size),
        }
        for index, name in enumerate(names)
    ]


def shown_size(array: NDArray[Any]) -> tuple[int, int]:
    """Compute (H, W) of what the viewer shows of a picture or map."""
    height, width = array.shape[:2]
    factor = min(1.0, LONGEST / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))
