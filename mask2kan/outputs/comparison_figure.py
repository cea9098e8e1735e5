"""One page for a paper, as PNG or as PDF with text: models compared on an image.

Columns from left to right: the image and its ground truth, then each model's classes and anomaly
score; below, the legend and all settings.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from mask2kan.errors import ConfigError, unknown
from mask2kan.media.files import write_bytes
from mask2kan.media.images import RGB
from mask2kan.outputs import drawing
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.tables import threshold_in_words
from mask2kan.outputs.truth import count_false_regions, count_objects, mask_quality
from mask2kan.outputs.writer import class_overlay

_FORMATS = (".png", ".pdf")
_DPI = 200
_INK, _FADED, _LINE = "#181a1f", "#5c616b", "#00e5e5"
# lengths in inches, sizes of letters in points: legible at the width of a paper's page
_PANEL, _MARGIN, _GAP = 3.6, 0.15, 0.15
_HEAD, _CAPTION, _BAR, _ROW = 0.44, 0.22, 0.11, 0.2
_TITLE, _TEXT = 11.5, 8.5
_PATCH = 0.12
_LONGEST_TEXT = 1000  # letters; no page is that wide

_drawing = threading.Lock()


def comparison_page(
    analyses: Sequence[tuple[str, Analysis]],
    *,
    name: str = "",
    truth: NDArray[np.uint8] | None = None,
    colormap: str = "inferno",
) -> Figure:
    """Draw models side by side on one page.

    ``name`` is the image's, ``truth`` (H, W) 0 known, 1 anomaly, 255 void.

    Raises:
        ConfigError: for an unknown colour map, or a truth of another size.
    """
    image = analyses[0][1].prediction.image
    height, width = image.shape[:2]
    columns = [(name or "Image", f"{width} x {height} pixels", _inputs(image, truth))]
    columns += [(title, _cost(each), _maps(each, colormap)) for title, each in analyses]
    with _matplotlib():
        return _draw(columns, analyses, truth, drawing.color_table(colormap))


def write_page(path: str | Path, page: Figure) -> Path:
    """Write a page as PNG or PDF, by the suffix of its path.

    Raises:
        ConfigError: for another suffix.
        WriteError: when it cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigError(unknown("page format", suffix, _FORMATS))
    buffer = io.BytesIO()
    with _matplotlib():
        page.savefig(buffer, format=suffix[1:], dpi=_DPI)
    return write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def _matplotlib() -> Iterator[None]:
    """Draw in one thread at a time, without user styles."""
    # publishers ask for TrueType (42); a $ in a file's name is no formula
    settings = {"pdf.fonttype": 42, "text.parse_math": False}
    with _drawing, style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # that the font lacks
        yield


def _inputs(image: RGB, truth: NDArray[np.uint8] | None) -> list[tuple[str, RGB]]:
    if truth is None:
        return [("input", image)]
    caption = "ground truth: anomalies outlined" if (truth == 1).any() else "ground truth: none"
    return [("input", image), (caption, drawing.outline(image, truth == 1))]


def _cost(analysis: Analysis) -> str:
    prediction = analysis.prediction
    milliseconds = sum(prediction.timings.get(stage, 0.0) for stage in ("model", "postprocess"))
    return f"{prediction.num_parameters / 1e6:.2f} M parameters · {milliseconds:.0f} ms"


def _maps(analysis: Analysis, colormap: str) -> list[tuple[str, RGB]]:
    heat = drawing.heat_map(analysis.values, *analysis.range, colormap)
    caption = f"anomaly score {_label(analysis)}; outlined: at least {analysis.threshold:.3g}"
    maps = [("classes; outlined: anomalous", class_overlay(analysis)), (caption, heat)]
    return [(caption, drawing.outline(image, analysis.outlined)) for caption, image in maps]


def _label(analysis: Analysis) -> str:
    return analysis.score if analysis.calibrated else f"{analysis.score} (uncalibrated)"


def _draw(
    columns: Sequence[tuple[str, str, list[tuple[str, RGB]]]],
    analyses: Sequence[tuple[str, Analysis]],
    truth: NDArray[np.uint8] | None,
    colours: RGB,
) -> Figure:
    rows, columns_of_image = columns[0][2][0][1].shape[:2]
    tall = _PANEL * min(4.0, rows / columns_of_image)
    bars = _MARGIN + _HEAD + 2 * (_CAPTION + tall) + _GAP / 2
    below = bars + _BAR + _CAPTION + _GAP
    wide = len(columns) * (_PANEL + _GAP) - _GAP
    legend = _legend([analysis for _, analysis in analyses], wide)
    notes = [f"{title}: {_findings(analysis, truth)}." for title, analysis in analyses]
    notes.append(_definition([analysis for _, analysis in analyses]))
    lines = [line for note in notes for line in _wrapped(note, wide)]
    text_top = below + _ROW * (legend[-1][1] + 1) + _GAP
    down = text_top + _ROW * len(lines) + _MARGIN
    page = Figure((wide + 2 * _MARGIN, down), dpi=_DPI, facecolor="white")
    for number, (title, subtitle, images) in enumerate(columns):
        x, y = _MARGIN + number * (_PANEL + _GAP), _MARGIN + _HEAD
        _text(page, x, _MARGIN, _fitted(title, _PANEL, _TITLE), fontsize=_TITLE)
        _text(page, x, _MARGIN + 0.22, _fitted(subtitle, _PANEL), color=_FADED)
        for caption, image in images:
            _text(page, x, y + 0.05, _fitted(caption, _PANEL), color=_FADED)
            _image(page, x, y + _CAPTION, tall, image)
            y += _CAPTION + tall
        if number:
            _scale(page, x, bars, analyses[number - 1][1], colours)
    for x, row, name, colour in legend:
        y = below + row * _ROW
        patch = Rectangle((_MARGIN + x, down - y - _PATCH), _PATCH, _PATCH, facecolor=colour)
        patch.set(transform=page.dpi_scale_trans, edgecolor=_FADED, linewidth=0.5)
        page.add_artist(patch)
        _text(page, _MARGIN + x + 1.5 * _PATCH, y, name)
    for number, line in enumerate(lines):
        _text(page, _MARGIN, text_top + number * _ROW, line)
    return page


def _text(page: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Draw a text; places are in inches from the page's upper left corner."""
    style = {"fontsize": _TEXT, "color": _INK, "va": "top", **style}
    page.text(x, page.get_figheight() - y, text, transform=page.dpi_scale_trans, **style)


def _image(page: Figure, x: float, y: float, height: float, image: RGB) -> Axes:
    across, down = page.get_size_inches()
    axes = page.add_axes((x / across, 1 - (y + height) / down, _PANEL / across, height / down))
    axes.set_axis_off()
    axes.imshow(image, aspect="auto", extent=(0, 1, 0, 1))
    return axes


def _scale(page: Figure, x: float, y: float, analysis: Analysis, colours: RGB) -> None:
    """Draw the colours of a heat map, with the values at their ends and the threshold."""
    low, high = analysis.range
    axes = _image(page, x, y, _BAR, colours[None])
    if high > low:
        share = float(np.clip((analysis.threshold - low) / (high - low), 0, 1))
        axes.axvline(share, color=_LINE, linewidth=2, clip_on=False)
    labels = {"left": f"{low:.3g}", "center": _label(analysis), "right": f"{high:.3g}"}
    for number, (ha, label) in enumerate(labels.items()):
        _text(page, x + number * _PANEL / 2, y + _BAR + 0.05, label, ha=ha)


def _findings(analysis: Analysis, truth: NDArray[np.uint8] | None) -> str:
    """Summarise a model's regions in a sentence, with their quality where there is a truth."""
    count, share = len(analysis.regions), 100 * float(analysis.outlined.mean())
    range_from = "calibrated" if analysis.calibrated else "uncalibrated: nominal range"
    source = f"{analysis.threshold_from}; {range_from}"
    if analysis.threshold_from == "fpr05":
        source = threshold_in_words("fpr05")
    sentence = (
        f"score {analysis.score} >= {analysis.threshold:.4g} ({source}) "
        f"on {share:.2f} % of the image, {count} region{'' if count == 1 else 's'}"
    )
    if truth is None:
        return sentence
    quality = mask_quality(analysis.outlined, truth)
    objects, covered = count_objects(analysis.outlined, truth)
    false = count_false_regions(analysis.outlined, truth)
    figures = [f"{name} {value:.3f}" for name, value in quality.items()]
    figures.append(f"{covered} of {objects} objects at least half covered")
    figures.append(f"{false} false region{'' if false == 1 else 's'}")
    return f"{sentence}; {', '.join(figures)}"


def _definition(analyses: Sequence[Analysis]) -> str:
    """Say which regions are outlined, counted and judged."""
    smallest = " or ".join(map(str, sorted({analysis.min_pixels for analysis in analyses})))
    sigmas = " or ".join(f"{100 * sigma:.2g}" for sigma in sorted({a.sigma for a in analyses}))
    smoothed = f" of scores smoothed by {sigmas} % of the longer side" if sigmas != "0" else ""
    return (
        f"Regions of {smallest} pixels or more, 8-connected,{smoothed} are outlined, counted and "
        "measured."
    )


def _legend(
    analyses: Sequence[Analysis], width: float
) -> list[tuple[float, int, str, tuple[float, ...]]]:
    """Place all models' classes, the largest first: x, row, name and colour."""
    shares: dict[tuple[str, tuple[float, ...]], float] = {}
    for analysis in analyses:
        for entry in analysis.classes:
            key = (entry["name"], tuple(value / 255 for value in entry["color"]))
            shares[key] = max(shares.get(key, 0.0), entry["share"])
    placed, x, row = [], 0.0, 0
    for name, colour in sorted(shares, key=lambda key: -shares[key]):
        name = _fitted(name, width - 1.5 * _PATCH)
        needed = 1.5 * _PATCH + _width(name)
        if x and x + needed > width:
            x, row = 0.0, row + 1
        placed.append((x, row, name, colour))
        x += needed + _GAP
    return placed


def _width(text: str, size: float = _TEXT) -> float:
    """Measure a text, in inches."""
    font = FontProperties(size=size)
    return float(_renderer().get_text_width_height_descent(text, font, ismath=False)[0]) / _DPI


@functools.cache
def _renderer() -> RendererAgg:
    return RendererAgg(1, 1, _DPI)


def _fitted(text: str, width: float, size: float = _TEXT) -> str:
    """Shorten a text in its middle until it fits."""

    def shortened(length: int) -> str:
        if length >= len(text):
            return text
        return f"{text[: length // 2]}…{text[-(length // 2) :]}"

    # Names come from strangers' checkpoints: by halves, since each measurement takes a while
    low, high = 4, min(len(text), _LONGEST_TEXT)
    while low < high:
        middle = (low + high + 1) // 2
        if _width(shortened(middle), size) <= width:
            low = middle
        else:
            high = middle - 1
    return shortened(low)


def _wrapped(text: str, width: float) -> list[str]:
    """Break a text into lines at its spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_fitted(line, width) for line in lines]
