"""Write the files of a result, as the page's download menu offers them.

They are named after the picture, the model's head (or its side, where both have the same head) and
the kind: ``cow_on_road_kan_overlay.png``. The ZIP's ``summary.json`` says whose each is.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mask2kan.checks import require_choice
from mask2kan.media.files import json_bytes, write_bytes
from mask2kan.outputs.comparison_figure import comparison_page, write_page
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.truth import truth_figures
from mask2kan.outputs.writer import FILES, write_results

from ..files.uploads import safe_stem
from .catalog import title
from .models import SIDES, Answer
from .reading import Reading, reading_of

COLORMAPS = ("inferno", "viridis", "cividis", "gray")
_FILES = {
    "masks": ("mask.png", "semantic.png"),
    "overlays": ("overlay.png", "heat.png"),
    "score16": ("score16.png",),
    "npz": ("score.npz",),
    "regions": ("regions.json",),
}
KINDS = (*_FILES, "page", "everything")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the page.

    Attributes:
        kind: one of ``KINDS``.
        colormap: of heat maps.
    """

    kind: str
    score: str
    reading: Reading
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
    return Settings(kind, score, reading_of(question), colormap)


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
    analyses = settings.reading.analyses(answers, settings.score)
    if settings.kind == "page":
        page = _page(answers, analyses, settings, name, truth)
        return [write_page(folder / f"{safe_stem(name)}_comparison.pdf", page)]
    return _write_files(folder, answers, analyses, _FILES[settings.kind], settings, name)


def write_everything(
    folder: Path,
    answers: Sequence[Answer],
    settings: Settings,
    *,
    name: str,
    truth: NDArray[np.uint8] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Write all files and a ZIP of them, as ``write``; return the ZIP and its summary.

    The summary has each side's ``Analysis.summary``, the names of its ``files``, and with a ground
    truth its figures (``truth_figures``) under ``truth``.
    """
    analyses = settings.reading.analyses(answers, settings.score)
    written = _write_files(folder, answers, analyses, FILES, settings, name)
    stem, summary = safe_stem(name), {}
    for side, prefix, answer, analysis in zip(
        SIDES, _prefixes(answers, name), answers, analyses, strict=True
    ):
        summary[side] = {
            **analysis.summary(),
            "model": answer.source,
            "files": [f"{prefix}_{file}" for file in FILES],
        }
        if truth is not None:
            summary[side]["truth"] = truth_figures(analysis, truth)
    page = _page(answers, analyses, settings, name, truth)
    for suffix in (".pdf", ".png"):
        written.append(write_page(folder / f"{stem}_comparison{suffix}", page))
    written.append(write_bytes(folder / "summary.json", json_bytes(summary)))
    archive = folder / f"mask2kan_{stem}.zip"
    # PNG, NPZ and PDF are compressed already.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in written:
            file.write(path, path.name)
    return archive, summary


def _page(
    answers: Sequence[Answer],
    analyses: Sequence[Analysis],
    settings: Settings,
    name: str,
    truth: NDArray[np.uint8] | None,
) -> Figure:
    titles = [title(answer.source) for answer in answers]
    named = list(zip(titles, analyses, strict=True))
    return comparison_page(named, name=name, truth=truth, colormap=settings.colormap)


def _prefixes(answers: Sequence[Answer], name: str) -> list[str]:
    """Name the sides' files: by their heads where those tell them apart."""
    heads = [answer.config.mask_embed for answer in answers]
    parts = heads if len(set(heads)) == len(heads) else SIDES
    return [f"{safe_stem(name)}_{part}" for part in parts]


def _write_files(
    folder: Path,
    answers: Sequence[Answer],
    analyses: Sequence[Analysis],
    files: Sequence[str],
    settings: Settings,
    name: str,
) -> list[Path]:
    return [
        path
        for prefix, analysis in zip(_prefixes(answers, name), analyses, strict=True)
        for path in write_results(
            analysis, folder, prefix, files, image_name=name, colormap=settings.colormap
        )
    ]
