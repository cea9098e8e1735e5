"""The example pictures: ``examples/examples.json`` lists them, ``SOURCES.md`` credits them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError
from mask2kan.media.files import read_record

FOLDER = Path(__file__).resolve().parents[2] / "examples"
LIST = "examples.json"

Scene = Literal["road", "indoor"]
# What the bundled pair makes of it: it finds what does not belong, errs where one sees it, or
# rightly stays silent; indoors it marks furniture, too, as it knows roads only.
Verdict = Literal["found", "hard case", "normal", "indoors"]


@dataclasses.dataclass(frozen=True)
class Sample:
    """An example picture; ``truth`` is its anomaly mask."""

    name: str
    title: str
    scene: Scene
    verdict: Verdict
    path: Path
    truth: Path | None


def samples(folder: Path = FOLDER) -> list[Sample]:
    """List the examples of ``folder`` in its list's order; none without a list.

    Raises:
        ConfigError: for an example of the list that lacks a word, or has no picture.
    """
    if not (folder / LIST).is_file():
        return []
    return [_sample(folder, entry) for entry in read_record(folder / LIST)["examples"]]


def _sample(folder: Path, entry: Mapping[str, Any]) -> Sample:
    missing = {"name", "title", "scene", "verdict"} - entry.keys()
    if missing:
        raise ConfigError(f"An example of {LIST} has no {', '.join(sorted(missing))}: {entry}")
    require_choice("scene", entry["scene"], get_args(Scene))
    require_choice("verdict", entry["verdict"], get_args(Verdict))
    path = folder / f"{entry['name']}.webp"
    if not path.is_file():
        raise ConfigError(f"{LIST} lists {entry['name']}, but there is no {path.name} beside it.")
    return Sample(
        entry["name"],
        entry["title"],
        entry["scene"],
        entry["verdict"],
        path,
        truth_of(path),
    )


def sample_pictures(folder: Path = FOLDER) -> list[Path]:
    """List the examples' pictures in the list's order."""
    return [sample.path for sample in samples(folder)]


def example_files() -> set[Path]:
    """List examples and their ground truth: what may be read without having been uploaded."""
    return {path for example in samples() for path in (example.path, example.truth) if path}


def truth_of(picture: Path) -> Path | None:
    """Find the anomaly mask beside an example; None without one."""
    path = picture.with_name(f"{picture.stem}_anomaly.png")
    return path if path.is_file() else None


def sample(name: str) -> Sample | None:
    """Find the example of that name; None when there is none."""
    return next((example for example in samples() if example.name == name), None)
