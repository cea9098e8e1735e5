"""The example pictures (``examples/``; see ``SOURCES.md`` there)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mask2kan.media.images import list_images

FOLDER = Path(__file__).resolve().parents[2] / "examples"
_TRUTH = ("_class", "_anomaly")
_INDOOR = ("room",)


def sample_pictures(folder: Path = FOLDER) -> list[Path]:
    """List the pictures of ``folder`` without ground truth: streets first; none if it is absent."""
    if not folder.is_dir():
        return []
    pictures = [path for path in list_images(folder) if not path.stem.endswith(_TRUTH)]
    return sorted(pictures, key=lambda path: (is_indoor(path), path.name))


def example_files() -> set[Path]:
    """List examples and their ground truth: what may be read without having been uploaded."""
    pictures = sample_pictures()
    return {*pictures, *filter(None, map(truth_of, pictures))}


def is_indoor(picture: Path) -> bool:
    """Whether an example shows a room."""
    return picture.name.startswith(_INDOOR)


def truth_of(picture: Path) -> Path | None:
    """Find the anomaly mask beside an example; None without one."""
    path = picture.with_name(f"{picture.stem}_anomaly.png")
    return path if path.is_file() else None


def sample(name: str) -> Sample | None:
    """Find the example of that name (without suffix); None when there is none."""
    return next((s for s in samples() if s.name == name), None)


@dataclasses.dataclass(frozen=True)
class Sample:
    name: str
    title: str
    scene: str
    verdict: str
    path: Path
    truth: Path | None


def samples() -> list[Sample]:
    return [
        Sample(
            p.stem,
            p.stem.rsplit("_", 1)[-1],
            "indoor" if is_indoor(p) else "road",
            "found",
            p,
            truth_of(p),
        )
        for p in sample_pictures()
    ]
