"""Make the viewer's value of two models' answers.

A result travels once: picture, labels (uint8, above 255 classes uint16) and smoothed scores (uint16
over the picture's own minimum and maximum), packed; the page redraws by itself. Maps of pictures
above 2048 pixels are shown by every n-th value, not by averages: what is read under the cursor is a
value of the map.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2kan.inference.prediction import Prediction
from mask2kan.inference.scores import SCORES
from mask2kan.inference.unlike import unlike_training
from mask2kan.outputs.quantize import quantize
from mask2kan.outputs.summary import MIN_REGION_PIXELS, Analysis

from ..files.kept import served
from ..services.catalog import title
from ..services.models import SIDES, Answer
from ..strings import STAGES, VIEWER
from .packing import packed, packed_codes
from .payload import Answers, ClassShare, File, ScoreMap, Side

LONGEST = 2048

_BACKBONES = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "mobilenetv2": "MobileNetV2",
    "r50": "ResNet-50",
    "swin_t": "Swin-T",
    "swin_s": "Swin-S",
    "swin_b": "Swin-B",
    "swin_l": "Swin-L",
}


def show(
    picture: NDArray[np.uint8],
    answers: Sequence[Answer],
    score: str,
    *,
    truth: NDArray[np.uint8] | None = None,
) -> Answers:
    """Make the viewer's value for one picture, but for what the request adds to it.

    Args:
        picture: (H, W, 3) RGB.
        answers: the left model's and the right model's.
        score: a name from ``mask2kan.inference.scores.SCORES``.
        truth: (H, W) 0 known, 1 anomaly, 255 void; None without one.
    """
    height, width = shown_size(picture)
    buffer = io.BytesIO()
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    Image.fromarray(small).save(buffer, "JPEG", quality=90)
    return {
        "size": [height, width],
        "source_size": list(picture.shape[:2]),
        "picture": served(buffer.getvalue(), "picture.jpg"),
        "truth": None if truth is None else packed(sampled(truth), "truth.gz"),
        "smallest": max(  # in pixels shown
            answer.prediction.settings.smallest_pixels(height, width, MIN_REGION_PIXELS)
            for answer in answers
        ),
        "unlike": any(unlike_training(answer.prediction) for answer in answers),
        "sides": [_side(side, answer, score) for side, answer in zip(SIDES, answers, strict=True)],
    }


def score_map(answer: Answer, score: str, side: str, smoothing: float | None = None) -> ScoreMap:
    """Pack a score's map as the viewer shows it; ``smoothing`` None for the settings'."""
    analysis = Analysis(answer.prediction, score, sigma=smoothing)
    quantized = quantize(sampled(analysis.values))
    return {
        "codes": packed_codes(quantized.codes, f"{side}_scores.gz"),
        "extent": [quantized.low, quantized.high],
        "smoothing": analysis.sigma,
    }


def files_of(value: Answers) -> list[File]:
    """List the files that a value speaks of."""
    sides = value["sides"]
    files = [value["picture"], *([value["truth"]] if value["truth"] else [])]
    return files + [f for side in sides for f in (side["labels"], side["scores"]["codes"])]


def still_there(value: Answers) -> bool:
    """Whether the files of a value have not been cleaned up yet."""
    return all(Path(file["path"]).is_file() for file in files_of(value))


def sampled(values: NDArray[Any]) -> NDArray[Any]:
    """Take the pixels of a map that the viewer shows: all, or every n-th of a large one."""
    height, width = values.shape
    shown_height, shown_width = shown_size(values)
    if (shown_height, shown_width) == (height, width):
        return values
    rows = ((np.arange(shown_height) + 0.5) * height / shown_height).astype(np.intp)
    columns = ((np.arange(shown_width) + 0.5) * width / shown_width).astype(np.intp)
    return np.asarray(values[rows[:, None], columns])


def _side(side: str, answer: Answer, score: str) -> Side:
    prediction = answer.prediction
    analysis = Analysis(prediction, score)
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
        "threshold": analysis.threshold,
        "curve": [list(point) for point in calibration.get("curve", ())],
        "classes": _classes(prediction),
        "labels": packed(sampled(prediction.semantic), f"{side}_labels.gz"),
        "scores": score_map(answer, score, side),
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


def _classes(prediction: Prediction) -> list[ClassShare]:
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
