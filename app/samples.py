"""The pictures offered as examples (``examples/``; ``SOURCES.md`` there says more)."""

from __future__ import annotations

import io
from pathlib import Path

import gradio as gr
from PIL import Image

from app.component import component, served
from app.strings import PAGE

FOLDER = Path(__file__).resolve().parent.parent / "examples"
_SUFFIXES = (".webp", ".jpg", ".jpeg", ".png")
_TRUTH = ("_class", "_anomaly")
_INDOOR = ("room",)
_THUMBNAIL = 240


def sample_pictures(folder: Path = FOLDER) -> list[Path]:
    """Pictures of ``folder`` without their ground truth: streets first, then by name.

    An absent folder has none: the app works without examples.
    """
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    pictures = [path for path in found if not path.stem.endswith(_TRUTH)]
    return sorted(pictures, key=lambda path: (is_indoor(path), path.name))


def example_files() -> set[Path]:
    """The examples and their ground truth: what may be read without having been uploaded."""
    pictures = sample_pictures()
    return {*pictures, *filter(None, map(truth_of, pictures))}


def gallery() -> gr.HTML:
    """The component: small pictures in two tabs; it triggers ``example_chosen`` with a name."""
    return component(
        Path(__file__).resolve().parent / "gallery",
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
    """What does not belong in the picture, from its name: ``street_7_tyres`` has tyres."""
    what = path.stem.rsplit("_", 1)[-1]
    return PAGE["nothing_odd"] if what == "none" else what


def _thumbnail(path: Path) -> bytes:
    with Image.open(path) as opened:
        small = opened.convert("RGB")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def is_indoor(picture: Path) -> bool:
    """Whether an example shows a room."""
    return picture.name.startswith(_INDOOR)


def truth_of(picture: Path) -> Path | None:
    """The mask of what does not belong there, beside an example; None without one."""
    path = picture.with_name(f"{picture.stem}_anomaly.png")
    return path if path.is_file() else None


def sample(name: str) -> Path | None:
    """The example of that name (without suffix); None when there is none."""
    return next((path for path in sample_pictures() if path.stem == name), None)
