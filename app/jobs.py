"""What the models' process computes for the tabs: each takes the models first, then plain values.

What comes back are plain values and kept files, never predictions: see ``services.service``.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from mask2kan.inference.explain import explain_pixel
from mask2kan.inference.kan_view import edge_view, layer_views, query_norms
from mask2kan.media.images import RGB
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import write_results

from .files.kept import keep_file
from .services import downloads
from .services.models import SIDES, Models
from .web import payload_kan, viewer_values
from .web.payload import Answers, ScoreMap

Truth = NDArray[np.uint8] | None
Sources = Sequence[str | None]

# The viewer's files of answers, made once for those who look at the same: examples, mostly.
_values: LRUCache[Any, Answers] = LRUCache(16)


def show(models: Models, sources: Sources, pixels: RGB, score: str, truth: Truth) -> Answers:
    """Compute what the viewer shows of a picture."""
    answers = models.answers(sources, pixels, score)
    # Of the answers themselves only the models decide how many stay in memory.
    digest = b"" if truth is None else hashlib.sha256(truth.tobytes()).digest()
    key = (score, digest, *map(weakref.ref, answers))
    value = _values.get(key)
    if value is None or not viewer_values.still_there(value):
        value = _values[key] = viewer_values.show(pixels, answers, score, truth=truth)
    return value


def smooth(
    models: Models, sources: Sources, pixels: RGB, score: str, smoothing: float | None
) -> dict[str, ScoreMap]:
    """Smooth both sides' scores otherwise."""
    answers = models.answers(sources, pixels, score)
    return {
        side: viewer_values.score_map(answer, score, side, smoothing)
        for side, answer in zip(SIDES, answers, strict=True)
    }


def explain(
    models: Models, sources: Sources, pixels: RGB, score: str, x: int, y: int
) -> dict[str, Any]:
    """Explain a pixel's score, per side."""
    answers = models.answers(sources, pixels, score)
    return {
        side: explain_pixel(answer.prediction, x, y, score).to_json()
        for side, answer in zip(SIDES, answers, strict=True)
    }


def export(
    models: Models,
    sources: Sources,
    pixels: RGB,
    settings: downloads.Settings,
    name: str,
    truth: Truth,
) -> list[dict[str, str]]:
    """Write the files of a download; return where they are kept, and their names."""
    answers = models.answers(sources, pixels, settings.score)
    with tempfile.TemporaryDirectory() as folder:
        written = downloads.write(Path(folder), answers, settings, name=name, truth=truth)
        return [{"path": str(keep_file(path)), "name": path.name} for path in written]


def everything(
    models: Models,
    sources: Sources,
    pixels: RGB,
    settings: downloads.Settings,
    name: str,
    truth: Truth,
) -> tuple[dict[str, Any], str]:
    """Write all files as a ZIP; return its summary, and where it is kept."""
    answers = models.answers(sources, pixels, settings.score)
    with tempfile.TemporaryDirectory() as folder:
        path, summary = downloads.write_everything(
            Path(folder), answers, settings, name=name, truth=truth
        )
        return summary, str(keep_file(path))


def results(
    models: Models, sides: Sequence[str], sources: Sources, pixels: RGB, score: str
) -> tuple[dict[str, Any], list[str]]:
    """Summarise by side, and keep every side's result files."""
    summary: dict[str, Any] = {}
    files: list[str] = []
    for side, answer in zip(sides, models.answers(sources, pixels, score), strict=True):
        analysis = Analysis(answer.prediction, score)
        summary[side] = {**analysis.summary(), "model": answer.source}
        with tempfile.TemporaryDirectory() as folder:
            written = write_results(analysis, Path(folder), side)
            files += [str(keep_file(path)) for path in written]
    return summary, files


def kan_head(models: Models, source: str, pixels: RGB) -> dict[str, Any]:
    """Compute what the KAN panel shows: all fields of ``payload_kan.Shown`` that need the model."""
    inside = models.inside(source, pixels)
    layers = [payload_kan.layer(view) for view in layer_views(inside.kan, inside.queries)]
    return {
        "photo": payload_kan.photo(pixels),
        "num_queries": len(inside.queries),
        "spline_share": float(np.mean([layer["spline_share"] for layer in layers])),
        "layers": layers,
        "queries": [payload_kan.query(listed) for listed in inside.masks],
    }


def kan_edge(
    models: Models, source: str, pixels: RGB, layer: int, input_: int, output: int
) -> dict[str, Any]:
    """Describe the function on one edge."""
    inside = models.inside(source, pixels)
    return edge_view(inside.kan, layer, input_, output, inside.queries).to_json()


def kan_query(
    models: Models, source: str, pixels: RGB, layer: int, query: int
) -> payload_kan.QuerySizes:
    """Measure the edges of a layer for one query."""
    inside = models.inside(source, pixels)
    norms = query_norms(inside.kan, layer, inside.queries, query)
    return {
        "spline": payload_kan.matrix(norms.spline.float().cpu().numpy(), "spline"),
        "total": payload_kan.matrix(norms.total.float().cpu().numpy(), "total"),
    }


def kan(
    models: Models, source: str, pixels: RGB, layer: int, input_: int, output: int
) -> dict[str, Any]:
    """Describe one edge's function, and all layers."""
    inside = models.inside(source, pixels)
    edge = edge_view(inside.kan, layer, input_, output, inside.queries)
    layers = [view.to_json() for view in layer_views(inside.kan, inside.queries)]
    return {"layers": layers, "edge": edge.to_json()}
