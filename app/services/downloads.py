"""Write the files of a result, as the page's download menu offers them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError
from mask2kan.media.files import json_bytes, write_bytes
from mask2kan.outputs.comparison_figure import comparison_page, write_page
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import FILES, write_results

from .catalog import title
from .models import SIDES, Answer

COLORMAPS = ("inferno", "viridis", "cividis", "gray")
_FILES = {
    "overlays": ("overlay.png", "heat.png", "semantic.png"),
    "score16": ("score16.png",),
    "npz": ("score.npz",),
    "regions": ("regions.json",),
}
KINDS = (*_FILES, "page", "everything")
_LARGEST_REGION = 1 << 30


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the page.

    Attributes:
        kind: one of ``KINDS``.
        thresholds: left and right; None for a model's own.
        least: pixels of the smallest region.
        colormap: of heat maps.
    """

    kind: str
    score: str
    thresholds: tuple[float | None, float | None]
    least: int
    colormap: str


def settings_of(question: Mapping[str, Any], score: str) -> Settings:
    """Read and check what a page or an API client asked for.

    Raises:
        ConfigError: naming what it cannot be.
    """
    kind = str(question.get("kind", "everything"))
    require_choice("download", kind, KINDS)
    colormap = str(question.get("colours", COLORMAPS[0]))
    require_choice("colour map", colormap, COLORMAPS)
    limits = question.get("thresholds") or {}
    if not isinstance(limits, Mapping):
        raise ConfigError(
            f"The thresholds are {limits!r:.40}; they must be a number for each side."
        )
    thresholds = tuple(_number(limits.get(side), f"the {side} threshold") for side in SIDES)
    least = _number(question.get("least", 0), "the smallest region")
    if least is None or not 0 <= least <= _LARGEST_REGION:
        raise ConfigError(f"The smallest region is {least} pixels; it must be 0 or more.")
    return Settings(kind, score, (thresholds[0], thresholds[1]), int(least), colormap)


def _number(value: Any, what: str) -> float | None:
    if value is None:
        return None
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number of hundreds of digits
            number = float(value)
    if not math.isfinite(number):
        raise ConfigError(f"For {what} {value!r:.40} was given; it must be a finite number.")
    return number


def write(
    folder: Path,
    answers: Sequence[Answer],
    settings: Settings,
    *,
    name: str,
    truth: NDArray[np.uint8] | None = None,
) -> list[Path]:
    """Write the files of ``settings.kind``.

    Args:
        folder: existing and empty.
        answers: the left model's and the right model's.
        settings: from ``settings_of``.
        name: of the picture's file.
        truth: (H, W) 0 known, 1 anomaly, 255 void.
    """
    if settings.kind == "everything":
        return [write_everything(folder, answers, settings, name=name, truth=truth)[0]]
    named = _analyses(answers, settings)
    if settings.kind == "page":
        page = comparison_page(named, name=name, truth=truth, colormap=settings.colormap)
        return [write_page(folder / "comparison.pdf", page)]
    return _write_files(folder, named, _FILES[settings.kind], settings, name)


def write_everything(
    folder: Path,
    answers: Sequence[Answer],
    settings: Settings,
    *,
    name: str,
    truth: NDArray[np.uint8] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Write all files and a ZIP of them, as ``write``; return the ZIP and its summary."""
    named = _analyses(answers, settings)
    written = _write_files(folder, named, FILES, settings, name)
    page = comparison_page(named, name=name, truth=truth, colormap=settings.colormap)
    written += [write_page(folder / f"comparison{suffix}", page) for suffix in (".pdf", ".png")]
    summary = {
        side: {**analysis.summary(), "model": answer.source}
        for side, answer, (_, analysis) in zip(SIDES, answers, named, strict=True)
    }
    written.append(write_bytes(folder / "summary.json", json_bytes(summary)))
    archive = folder / f"mask2kan_{Path(name).stem or 'picture'}.zip"
    # PNG, NPZ and PDF are compressed already.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in written:
            file.write(path, path.name)
    return archive, summary


def _analyses(answers: Sequence[Answer], settings: Settings) -> list[tuple[str, Analysis]]:
    """Analyse each model at the settings' thresholds; with titles."""
    read = functools.partial(Analysis, score=settings.score, min_region_pixels=settings.least)
    return [
        (title(answer.source), read(answer.prediction, threshold=threshold))
        for answer, threshold in zip(answers, settings.thresholds, strict=True)
    ]


def _write_files(
    folder: Path,
    named: Sequence[tuple[str, Analysis]],
    files: Sequence[str],
    settings: Settings,
    image_name: str,
) -> list[Path]:
    return [
        path
        for side, (_, analysis) in zip(SIDES, named, strict=True)
        for path in write_results(
            analysis, folder, side, files, image_name=image_name, colormap=settings.colormap
        )
    ]
