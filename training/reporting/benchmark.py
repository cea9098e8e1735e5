"""Show a benchmark's results as a table, precision-recall and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mask2kan.outputs.tables import Table, cell

from .evaluation import AT_THRESHOLD, ties_in_words
from .plots import figure, save, styled

PIXEL_FIGURES = ("ap", "auroc", "fpr95", "best_f1")
COMPONENT_FIGURES = ("siou", "ppv", "f1_star")
HEADINGS = {
    "ap": "AP ↑",
    "auroc": "AUROC ↑",
    "fpr95": "FPR95 ↓",
    "best_f1": "best F1 ↑",
    "siou": "sIoU ↑",
    "ppv": "PPV ↑",
    "f1_star": "F1* ↑",
}
LINES = ("-", "--", ":", "-.")

Curves = Mapping[str, Mapping[str, Mapping[str, NDArray[np.float64]]]]


def as_markdown(results: Mapping[str, Any], scores: Sequence[str]) -> str:
    """Make one table per data set, a row per checkpoint (of ``results``) and score."""
    first = next(iter(results.values()))
    parts = [f"Protocol: {first['protocol']}.\n"]
    for data, about in first["sets"].items():
        keys = [*PIXEL_FIGURES, *(COMPONENT_FIGURES if about["track"] else ())]
        title = (
            f"{about['title']}: {about['pictures']} images, "
            f"{about['prevalence']:.4f} of the area anomalous"
        )
        rows = [
            [name, score] + [cell(result["sets"][data]["scores"][score].get(key)) for key in keys]
            for name, result in results.items()
            for score in scores
        ]
        header = ["checkpoint", "score", *(HEADINGS[key] for key in keys)]
        figures = {
            f"{name} {score}": result["sets"][data]["scores"][score]
            for name, result in results.items()
            for score in scores
        }
        both = {name: (own["fpr95"], own[AT_THRESHOLD]) for name, own in figures.items()}
        notes = [*about["notes"], *ties_in_words(both)]
        parts.append(Table(header, rows, title, text_columns=2, notes=notes).markdown())
    return "\n".join(parts)


@styled
def draw(curves: Curves, data: str, title: str, out: Path) -> None:
    """Write ``pr_<set>.png`` and ``roc_<set>.png``: a colour per score, a dash per checkpoint.

    Args:
        curves: by checkpoint and score, from ``AnomalyEvaluator.points``.
        data: name of the set.
        title: of the set.
        out: folder.
    """
    for kind, x, y, labels in (
        ("pr", "tpr", "precision", ("recall", "precision")),
        ("roc", "fpr", "tpr", ("false-positive rate", "true-positive rate")),
    ):
        chart, axes = figure(1, 1, (6.4, 4.4))
        panel = axes[0, 0]
        for line, (name, by_score) in zip(LINES * len(curves), curves.items(), strict=False):
            for number, (score, points) in enumerate(by_score.items()):
                style = {"color": f"C{number}", "linewidth": 1.3, "label": f"{name}, {score}"}
                panel.plot(points[x], points[y], line, **style)
        panel.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=labels[0], ylabel=labels[1])
        panel.set_title(title)
        chart.legend(loc="outside right upper", fontsize=8)
        save(chart, out / f"{kind}_{data}.png")
