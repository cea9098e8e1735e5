"""Draw loss curves and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from mask2kan.media.files import atomic_writer

BLUE, ORANGE, GREEN, GREY = "#2563a8", "#d9772b", "#3a8f5c", "#888888"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
LARGEST_MATRIX = 30  # classes whose names are readable on the axes

styled = mpl.rc_context(STYLE)
"""Decorator: draw in the style all images of numbers share."""


def figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, NDArray[Any]]:
    """Make an empty figure without any window system, and its (rows, columns) axes."""
    chart = Figure(figsize=size, layout="constrained", dpi=120)
    return chart, chart.subplots(rows, columns, squeeze=False)


def save(chart: Figure, path: Path) -> None:
    """Write a figure as PNG, in one step."""
    with atomic_writer(path) as file:
        chart.savefig(file, format="png")


@styled
def draw_curves(lines: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw loss, its terms and the validation over the steps of a run (``metrics.jsonl``)."""
    trained = [line for line in lines if "train/loss" in line]
    validated = [line for line in lines if "val/miou" in line]
    chart, axes = figure(1, 3, (12, 3.4))
    loss, terms, quality = axes[0]
    _line(loss, trained, "train/loss", BLUE, "loss")
    loss.set_title(f"{title}: loss")
    shown = [key for key in (trained[0] if trained else {}) if _is_term(key)]
    for key, colour in zip(shown, (BLUE, ORANGE, GREEN, GREY), strict=False):
        _line(terms, trained, key, colour, key.removeprefix("train/loss_"))
    terms.set_title("terms of the last layer, unweighted")
    if shown:
        terms.legend()
    _line(quality, validated, "val/miou", BLUE, "mIoU", marker="o")
    _line(quality, validated, "val/pixel_accuracy", GREY, "pixel accuracy", marker="o")
    quality.set_title("validation")
    if validated:
        quality.set_ylim(0, 1)
        quality.legend(loc="lower right")
    for panel in axes[0]:
        panel.set_xlabel("step")
    for panel in (loss, terms):
        if any(min(line.get_ydata(), default=0) > 0 for line in panel.get_lines()):
            panel.set_yscale("log")
            for set_formatter in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
                set_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    save(chart, path)


def _is_term(key: str) -> bool:
    """Whether a logged value is a term of the last layer (``_0`` … are the layers before)."""
    return key.startswith("train/loss_") and not key.rsplit("_", 1)[-1].isdigit()


def _line(
    axes: Axes, lines: Sequence[Mapping[str, Any]], key: str, colour: str, label: str, **style: Any
) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, label=label, linewidth=1.4, markersize=3, **style)


@styled
def draw_confusion(
    confusion: NDArray[np.int64], names: Sequence[str], title: str, path: Path
) -> None:
    """Draw where the pixels of each class went, as shares of the class.

    Args:
        confusion: (K, K) counts, row = truth, column = prediction.
        names: K.
        title: of the figure.
        path: the PNG to write.
    """
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    count = len(names)
    side = min(12.0, 2.5 + 0.42 * count)
    chart, axes = figure(1, 1, (side + 0.8, side))
    panel = axes[0, 0]
    panel.grid(visible=False)
    matrix = panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
    chart.colorbar(matrix, ax=panel, shrink=0.7, label="share of the true class")
    panel.set(title=title, xlabel="predicted", ylabel="true")
    if count <= LARGEST_MATRIX:
        panel.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(count), names)
        for row, column in np.argwhere(share >= 0.005):
            value = share[row, column]
            style = {"ha": "center", "va": "center", "fontsize": 7}
            colour = "white" if value > 0.5 else "black"
            panel.text(column, row, f"{value:.2f}".lstrip("0"), color=colour, **style)
    save(chart, path)
