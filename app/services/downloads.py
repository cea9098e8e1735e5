"""The files of a result, as the page's download menu offers them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mask2kan.errors import ConfigError, unknown
from mask2kan.media.images import RGB
from mask2kan.outputs.comparison_figure import comparison_page, write_page
from mask2kan.outputs.exports import write_export
from mask2kan.outputs.results import summarize, write_json

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
    """What somebody set on the page.

    Attributes:
        kind: one of ``KINDS``.
        score: the anomaly score.
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
    if kind not in KINDS:
        raise ConfigError(unknown("download", kind, KINDS))
    colormap = str(question.get("colours", COLORMAPS[0]))
    if colormap not in COLORMAPS:
        raise ConfigError(unknown("colour map", colormap, COLORMAPS))
    given = question.get("thresholds") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"The thresholds are {given!r:.40}; they must be a number for each side.")
    thresholds = tuple(_number(given.get(side), f"the {side} threshold") for side in SIDES)
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
    """Write what was asked for.

    Args:
        folder: existing and empty.
        answers: the left model's and the right model's.
        settings: from ``settings_of``.
        name: of the picture's file.
        truth: (H, W) 0 known, 1 anomaly, 255 void.
    """
    if settings.kind == "everything":
        return [write_everything(folder, answers, settings, name=name, truth=truth)[0]]
    if settings.kind == "page":
        page = _page(answers, settings, name, truth)
        return [write_page(folder / "comparison.pdf", page)]
    kept = tuple(f"_{suffix}" for suffix in _FILES[settings.kind])
    written = _exports(folder, answers, settings, name)
    return [path for path in written if path.name.endswith(kept)]


def write_everything(
    folder: Path,
    answers: Sequence[Answer],
    settings: Settings,
    *,
    name: str,
    truth: NDArray[np.uint8] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Write all files and a ZIP of them; arguments as of ``write``.

    Returns:
        The ZIP, and what its ``summary.json`` says.
    """
    written = _exports(folder, answers, settings, name)
    page = _page(answers, settings, name, truth)
    written += [write_page(folder / f"comparison{suffix}", page) for suffix in (".pdf", ".png")]
    told = summary(answers, settings)
    written.append(write_json(folder / "summary.json", told))
    archive = folder / f"mask2kan_{Path(name).stem or 'picture'}.zip"
    # PNG, NPZ and PDF are compressed already.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in written:
            file.write(path, path.name)
    return archive, told


def summary(answers: Sequence[Answer], settings: Settings) -> dict[str, Any]:
    """Summarise both answers at the settings' thresholds, see ``outputs.results.summarize``."""
    return {
        side: {
            **summarize(
                answer.prediction,
                settings.score,
                threshold,
                min_region_pixels=settings.least,
            ),
            "model": answer.source,
        }
        for side, answer, threshold in zip(SIDES, answers, settings.thresholds, strict=True)
    }


def _exports(folder: Path, answers: Sequence[Answer], settings: Settings, name: str) -> list[Path]:
    return [
        path
        for side, answer, threshold in zip(SIDES, answers, settings.thresholds, strict=True)
        for path in write_export(
            answer.prediction,
            folder,
            side,
            settings.score,
            threshold,
            min_region_pixels=settings.least,
            file_name=name,
            colormap=settings.colormap,
        )
    ]


def _page(
    answers: Sequence[Answer], settings: Settings, name: str, truth: NDArray[np.uint8] | None
) -> RGB:
    return comparison_page(
        [(title(answer.source), answer.prediction) for answer in answers],
        settings.score,
        list(settings.thresholds),
        min_region_pixels=settings.least,
        name=name,
        truth=truth,
        colormap=settings.colormap,
    )
