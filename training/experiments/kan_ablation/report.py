"""Compare an ablation's runs with the default, in a table and an image.

Paired by seed, which fixes split and order of the images: mean difference, 95 % interval, the
t-test's p, also adjusted for the number of experiments (Holm). The seeds divide the same images, so
intervals are somewhat too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mask2kan.media.files import write_bytes
from mask2kan.outputs.tables import MISSING, Table, cell, interval

from ...reporting.plots import BLUE, GREY, ORANGE, figure, save, styled
from ...reporting.statistics import holm, mean_of, paired_difference
from ..published import ABLATION, NOTES
from .experiments import DEFAULT, EXPERIMENTS

COLUMNS = (
    *("Experiment", "Grid size", "Spline order", "Accuracy"),
    *("Difference", "95 % interval", "p", "p (Holm)", "Thesis", "Thesis, difference"),
)


def summarize(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Summarise the runs, one entry per experiment, in the table's order.

    Args:
        runs: with ``experiment``, ``seed`` and ``test_accuracy``; all have the default's seeds.

    Returns:
        ``experiment``, ``n`` (seeds), ``mean``, ``std`` (of a sample), ``low`` and ``high`` (95 %
        interval); of the difference to the default: ``difference``, ``difference_low``,
        ``difference_high``, ``p``, ``p_holm``; and ``published``, the thesis's accuracy. None where
        a figure does not exist.
    """
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        values.setdefault(run["experiment"], {})[run["seed"]] = run["test_accuracy"]
    seeds = sorted(values[DEFAULT])
    paired = {
        name: [values[name][seed] for seed in seeds] for name in EXPERIMENTS if name in values
    }
    others = [name for name in paired if name != DEFAULT]
    compared = {name: paired_difference(paired[name], paired[DEFAULT]) for name in others}
    adjusted = dict(zip(others, holm([compared[name].p for name in others]), strict=True))
    summary = []
    for name, accuracies in paired.items():
        average, difference = mean_of(accuracies), compared.get(name)
        figures = {
            "mean": average.mean,
            "std": float(np.std(accuracies, ddof=1)) if average.n > 1 else math.nan,
            "low": average.low,
            "high": average.high,
            "difference": difference.mean if difference else math.nan,
            "difference_low": difference.low if difference else math.nan,
            "difference_high": difference.high if difference else math.nan,
            "p": difference.p if difference else math.nan,
            "p_holm": adjusted.get(name, math.nan),
        }
        shown = {key: None if math.isnan(value) else value for key, value in figures.items()}
        summary.append({"experiment": name, "n": average.n, **shown, "published": ABLATION[name]})
    return summary


def as_table(summary: Sequence[Mapping[str, Any]], title: str, number: str, label: str) -> Table:
    """Set the summary beside the thesis's Table 3.6; absent experiments have no figures of ours.

    Args:
        summary: of ``summarize``.
        title: of the table.
        number: of the thesis's table; empty outside a set of tables.
        label: for LaTeX.
    """
    measured = {entry["experiment"]: entry for entry in summary}
    rows = []
    for experiment in EXPERIMENTS.values():
        ours = measured.get(experiment.name, {})
        published = ABLATION[experiment.name]
        spread = "" if ours.get("std") is None else f" ± {ours['std']:.4f}"
        texts = [
            experiment.title,
            str(experiment.grid_size),
            str(experiment.spline_order),
            cell(ours.get("mean")) + spread,
            cell(ours.get("difference"), "+.4f"),
            interval(ours.get("difference_low"), ours.get("difference_high"), "+.4f"),
            cell(ours.get("p"), ".3f"),
            cell(ours.get("p_holm"), ".3f"),
            f"{published:.4f}",
            MISSING if experiment.name == DEFAULT else f"{published - ABLATION[DEFAULT]:+.4f}",
        ]
        rows.append([text.replace("-", "−") for text in texts])
    return Table(COLUMNS, rows, title, number=number, label=label, notes=NOTES["3.6"])


def title_of(content: Mapping[str, Any]) -> str:
    """Describe an ablation in a line."""
    data, protocol = content["settings"]["data"], content["settings"]["protocol"]
    count, epochs = content["summary"][0]["n"], protocol["epochs"]
    return (
        f"KAN ablation on {data['name']} ({data['pictures']:,} images), "
        f"{count} seed{'s' * (count != 1)}, {epochs} epoch{'s' * (epochs != 1)}, "
        f"λ = {protocol['regularization']:g}"
    )


def report(content: Mapping[str, Any], out: Path) -> None:
    """Write ``ablation.md`` and ``ablation.png`` from the content of ``ablation.json``."""
    text = as_table(content["summary"], title_of(content), "", "tab:ablation").markdown()
    write_bytes(out / "ablation.md", text.encode())
    draw(content, out / "ablation.png")


@styled
def draw(content: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy by experiment, and its difference to the default seed by seed, as PNG."""
    summary = content["summary"]
    runs: dict[str, dict[int, float]] = {}
    for run in content["runs"]:
        runs.setdefault(run["experiment"], {})[run["seed"]] = run["test_accuracy"]
    chart, axes = figure(1, 2, (10, 1.3 + 0.38 * len(summary)))
    left, right = axes[0]
    for row, entry in enumerate(summary):
        name = entry["experiment"]
        _dots(left, row, list(runs[name].values()))
        _bar(left, row, entry["mean"], entry["low"], entry["high"])
        if entry["difference"] is None:
            continue
        _dots(right, row, [value - runs[DEFAULT][seed] for seed, value in runs[name].items()])
        _bar(right, row, *(entry[f"difference{end}"] for end in ("", "_low", "_high")))
        printed = entry["published"] - ABLATION[DEFAULT]
        right.plot(printed, row, "D", color=ORANGE, markersize=5, fillstyle="none")
    left.set_yticks(
        range(len(summary)), [EXPERIMENTS[entry["experiment"]].title for entry in summary]
    )
    right.set_yticks(range(len(summary)), [""] * len(summary))
    for panel in (left, right):
        panel.locator_params(axis="x", nbins=6)
        panel.set_ylim(len(summary) - 0.5, -0.5)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
    right.axvline(0, color=GREY, linewidth=1, zorder=0)
    left.set_xlabel("test accuracy")
    right.set_xlabel("difference to the default, same seed")
    chart.suptitle(title_of(content), fontsize=10, x=0.01, ha="left")
    styles = {"one seed": ".", "mean, 95 % interval": "o", "thesis (MNIST)": "D"}
    colours = (GREY, BLUE, ORANGE)
    handles = [
        right.plot(
            [], [], mark, color=colour, label=label, fillstyle="none" if mark == "D" else "full"
        )[0]
        for (label, mark), colour in zip(styles.items(), colours, strict=True)
    ]
    chart.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save(chart, path)


def _dots(panel: Any, row: int, values: Sequence[float]) -> None:
    """Draw a dot per seed, spread a little so that equal values stay apart."""
    rows = row + 0.22 * np.linspace(-1, 1, len(values)) if len(values) > 1 else [row]
    panel.plot(values, rows, ".", color=GREY, markersize=5, alpha=0.7)


def _bar(panel: Any, row: int, mean: float, low: float | None, high: float | None) -> None:
    if low is not None and high is not None:
        panel.plot([low, high], [row, row], color=BLUE, linewidth=1.8)
    panel.plot(mean, row, "o", color=BLUE, markersize=6)
