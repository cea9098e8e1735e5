"""The browser viewer: what it is sent, and the component that shows it.

A result travels once: the picture, each model's labels (uint8) and its scores (uint16 over the
picture's own minimum and maximum, a step of 1/65535 of that), gzipped. The page keeps them in typed
arrays and redraws canvases by itself, so that moving a threshold asks nothing of the server.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from gradio.data_classes import FileData
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from numpy.typing import NDArray
from PIL import Image

from app.service import Answer
from mask2kan.drawing import heat_map

_FOLDER = Path(__file__).resolve().parent / "viewer"
_LONGEST = 2048

SCORE_TITLES = {
    "msp": "Max softmax (MSP)",
    "entropy": "Entropy",
    "energy": "Energy",
    "rba": "Rejected by all (RbA)",
    "eam": "Mask score (EAM)",
}

_BACKBONES = {
    "mobilenetv2": "MobileNetV2",
    "r50": "ResNet-50",
    "swin_t": "Swin-T",
    "swin_s": "Swin-S",
    "swin_b": "Swin-B",
    "swin_l": "Swin-L",
}


_STAGES = ("model", "backbone", "pixel_decoder", "transformer_decoder", "postprocess")


@dataclasses.dataclass(frozen=True)
class View:
    """A model's side of the viewer.

    Attributes:
        data: what the page is sent.
        position: the threshold it starts at, 0 at the low end of the colour range and 1 at its
            high end.
        reach: the picture's highest score on the same scale.
    """

    data: dict[str, Any]
    position: float
    reach: float


def viewer(value: dict[str, Any] | None = None) -> gr.HTML:
    """The component; its value is what ``show()`` returns, or ``{"message": …}`` for a greeting."""
    ramp = np.linspace(0.0, 1.0, 256, dtype=np.float32)[None, :]
    return gr.HTML(
        value=value,
        html_template=(_FOLDER / "viewer.html").read_text(encoding="utf-8"),
        css_template=(_FOLDER / "viewer.css").read_text(encoding="utf-8"),
        js_on_load=(_FOLDER / "viewer.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="viewer",
        colormap=heat_map(ramp, 0.0, 1.0)[0].tolist(),
    )


def show(picture: NDArray[np.uint8], views: list[View]) -> dict[str, Any]:
    """The viewer's value for one picture.

    Args:
        picture: (H, W, 3) RGB.
        views: one per model, left first.
    """
    height, width = _view_size(picture)
    buffer = io.BytesIO()
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    Image.fromarray(small).save(buffer, "JPEG", quality=92)
    return {
        # Equal results would not wake the page: it compares values.
        "run": uuid.uuid4().hex,
        "size": [height, width],
        "picture": _file(buffer.getvalue(), "picture.jpg"),
        "sides": [view.data for view in views],
    }


def view(side: str, answer: Answer, score: str) -> View:
    """Pack one model's answer.

    Args:
        side: ``"left"`` or ``"right"``.
        answer: from the service.
        score: a name from ``mask2kan.anomaly.SCORES``.
    """
    prediction = answer.prediction
    values = prediction.anomaly(score)
    low, high, calibrated = prediction.score_range(score)
    threshold, _ = prediction.default_threshold(score)
    height, width = _view_size(values)
    resized = np.asarray(
        cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32
    )
    labels = cv2.resize(prediction.semantic, (width, height), interpolation=cv2.INTER_NEAREST)
    extent = (float(resized.min()), float(resized.max()))
    position = float(np.clip((threshold - low) / (high - low), 0.0, 1.0))
    data = {
        "side": side,
        "title": title(answer.source),
        "facts": _facts(answer),
        "stages": _stages(prediction.timings, prediction.shared),
        "notes": list(prediction.notes),
        "score": score,
        "score_title": f"Anomaly score: {SCORE_TITLES[score]}",
        "calibrated": calibrated,
        "range": [low, high],
        "range_note": _range_note(answer, score, calibrated),
        "extent": list(extent),
        "position": position,
        "palette": prediction.palette.tolist(),
        "legend": _legend(prediction.semantic, prediction.class_names, prediction.palette),
        "labels": _packed(labels, f"{side}_labels.gz"),
        "scores": _packed(_quantised(resized, extent), f"{side}_scores.gz"),
    }
    return View(data, position, (extent[1] - low) / (high - low))


def title(source: str) -> str:
    """What a model is called on the page: its bundled name or repository id, or its file's name."""
    return Path(source).name if Path(source).exists() else source


def _facts(answer: Answer) -> str:
    config = answer.config
    head = "KAN head" if config.mask_embed == "kan" else "MLP head"
    backbone = _BACKBONES.get(config.backbone, config.backbone)
    millions = answer.prediction.num_parameters / 1e6
    return f"{head} · {backbone} · {millions:.2f} M parameters · {_spent(answer.milliseconds)}"


def _stages(timings: Mapping[str, float], shared: Sequence[str]) -> str:
    """The stages and their times; ``model`` is left out where its parts are known."""
    spent = {stage: _spent(timings[stage]) for stage in _STAGES if stage in timings}
    spent |= dict.fromkeys(shared, "shared")
    if "transformer_decoder" in spent:
        spent.pop("model", None)
    return " · ".join(
        f"{stage.replace('_', ' ')} {spent[stage]}" for stage in _STAGES if stage in spent
    )


def _spent(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _range_note(answer: Answer, score: str, calibrated: bool) -> str:
    if not calibrated:
        return ": colours span the score's nominal range."
    data = answer.prediction.calibration[score].get("data", "its calibration data")
    return f": nearly all pixels (0.5–99.5 %) of {data}."


def _legend(
    semantic: NDArray[np.uint8], names: tuple[str, ...], palette: NDArray[np.uint8]
) -> list[dict[str, Any]]:
    """Classes present, the largest first, with their share of the picture."""
    counts = np.bincount(semantic.ravel(), minlength=len(names))
    order = sorted(np.flatnonzero(counts), key=lambda index: -int(counts[index]))
    return [
        {
            "name": names[index],
            "colour": palette[index].tolist(),
            "share": float(counts[index] / semantic.size),
        }
        for index in order
    ]


def _view_size(array: NDArray[Any]) -> tuple[int, int]:
    height, width = array.shape[:2]
    factor = min(1.0, _LONGEST / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _quantised(values: NDArray[np.float32], extent: tuple[float, float]) -> NDArray[np.uint16]:
    low, high = extent
    span = high - low if high > low else 1.0
    return np.rint((values.astype(np.float64) - low) / span * 65535).astype("<u2")


def _packed(array: NDArray[Any], name: str) -> dict[str, Any]:
    return _file(gzip.compress(np.ascontiguousarray(array).tobytes(), 3, mtime=0), name)


def _file(content: bytes, name: str) -> dict[str, Any]:
    path = save_bytes_to_cache(content, name, get_upload_folder())
    return FileData(path=path, orig_name=name).model_dump()
