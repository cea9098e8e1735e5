"""The browser viewer: the component, and what every visitor finds in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from mask2kan.checkpoints.manifest import manifest
from mask2kan.inference.scores import SCORES
from mask2kan.media.images import read_image
from mask2kan.outputs.drawing import color_table

from ..files.samples import FOLDER, Sample, samples
from ..services.downloads import COLORMAPS
from ..strings import VIEWER
from .component import component

_THUMBNAIL = (208, 117)


def viewer(
    value: dict[str, Any] | None,
    server_functions: Sequence[Callable[..., Any]],
    *,
    first: Path | None = None,
) -> gr.HTML:
    """Make the component.

    Args:
        value: of ``viewer_values.show``, or ``{"message": …}`` as a greeting.
        server_functions: what it may ask.
        first: file that will hold the result which every visitor sees first.
    """
    gr.set_static_paths([FOLDER])
    return component(
        "viewer",
        value,
        elem_id="viewer",
        strings=VIEWER,
        server_functions=server_functions,
        events=["look", "stopped", "returned"],
        colormaps={name: color_table(name).tolist() for name in COLORMAPS},
        examples=[_example(sample) for sample in samples()],
        scores=list(SCORES),
        first=None if first is None else first.as_posix(),
        studied=_studied(),
    )


def _studied() -> str:
    """Say how the bundled pair compares on average; nothing where it was not measured."""
    named = {entry["name"]: entry["measured"] for entry in manifest() if "measured" in entry}
    kan, mlp = (
        next((figure for name, figure in named.items() if name.startswith(family)), None)
        for family in ("mask2kan", "mask2former")
    )
    # The sentence names the data.
    if kan is None or mlp is None or {kan["data"], mlp["data"]} != {"road_anomaly"}:
        return ""
    figures = {"kan": f"{kan['ap']:.2f}", "mlp": f"{mlp['ap']:.2f}", "pictures": kan["pictures"]}
    return VIEWER["studied"].format(**figures)


def _example(sample: Sample) -> dict[str, str]:
    return {
        "name": sample.name,
        "title": sample.title,
        "verdict": sample.verdict,
        "picture": sample.path.as_posix(),
        "thumbnail": _thumbnail(sample.path),
    }


def _thumbnail(path: Path) -> str:
    """Make a small picture as a data URL: a dozen requests less while the page loads."""
    small = ImageOps.fit(Image.fromarray(read_image(path)), _THUMBNAIL)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
