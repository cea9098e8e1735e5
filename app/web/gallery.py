"""The gallery of example images."""

from __future__ import annotations

import io
from pathlib import Path

import gradio as gr
from PIL import Image

from ..files.samples import is_indoor, sample_pictures
from ..strings import PAGE
from .component import component, served

_THUMBNAIL = 240  # pixels, the longer side


def gallery() -> gr.HTML:
    """Make small pictures in two tabs; triggers ``example_chosen`` with a name."""
    return component(
        "gallery",
        [
            {
                "name": path.stem,
                "title": _title(path),
                "scene": "indoor" if is_indoor(path) else "road",
                "thumbnail": served(_thumbnail(path), f"{path.stem}.webp"),
            }
            for path in sample_pictures()
        ],
        elem_id="examples",
        strings=PAGE,
        events=["example_chosen"],
    )


def _title(path: Path) -> str:
    """Name what does not belong in the picture: ``street_7_tyres`` has tyres."""
    what = path.stem.rsplit("_", 1)[-1]
    return PAGE["nothing_odd"] if what == "none" else what


def _thumbnail(path: Path) -> bytes:
    with Image.open(path) as opened:
        small = opened.convert("RGB")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
