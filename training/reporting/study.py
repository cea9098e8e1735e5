"""Show a study's results as tables (``study.md``) and an image (``study.png``).

Paired differences of the KAN from either MLP. Primary metrics are named in advance: mIoU and the
thesis's score, their p adjusted for their number (Holm); other scores stand apart, unadjusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2kan.media.files import write_bytes
from mask2kan.outputs.tables import Table, cell, interval

from .plots import BLUE, GREEN, ORANGE, figure, save, styled
from .statistics import holm, mean_of, paired_difference

HEAD_NAMES = {"kan": "KAN", "mlp": "MLP", "mlp_equal": "MLP, equal size"}
COLOURS = {"kan": ORANGE, "mlp": BLUE, "mlp_equal": GREEN}
SHOWN_SCORES = ("msp", "entropy", "rba")  # in the image; the table has all
PRIMARY_SCORE = "msp"  # the thesis's
LOWER_IS_BETTER = "fpr95"


def report(content: Mapping[str, Any], out: Path) -> None:
    """Write ``study.md`` and ``study.png`` from the content of ``study.json``."""
    write_bytes(out / "study.md", as_markdown(content).encode())
    draw(content, out / "study.png")


def as_markdown(content: Mapping[str, Any]) -> str:
    """Write the tables."""
    results = content["results"]
    trunks = list(dict.fromkeys(run["trunk"] for run in results))
    metrics = list(results[0]["metrics"])
    sizes = {run["head"]: run["head_parameters"] for run in results}
    heads = "; ".join(f"{HEAD_NAMES[head]}, {size:,} parameters" for head, size in sizes.items())
    rates = "; ".join(
        f"{rate['trunk'] or 'full'} {HEAD_NAMES[rate['head']]} "
        + (f"{rate['lr']:g}" if rate["lr"] is not None else "the recipe's")
        for rate in content["learning_rates"]
    )
    parts = [f"Heads: {heads}.\n", f"Learning rates chosen on the validation split: {rates}.\n"]
    parts += [_means(results, trunk, metrics).markdown() for trunk in trunks]
    primary = [metric for metric in metrics if is_primary(metric)]
    rest = [metric for metric in metrics if metric not in primary]
    title = "KAN − MLP, paired by seed"
    parts.append(_differences(results, trunks, primary, title, adjusted=True).markdown())
    if rest:
        title = "The other scores, p unadjusted"
        parts.append(_differences(results, trunks, rest, title, adjusted=False).markdown())
    return "\n".join(parts)


def is_primary(metric: str) -> bool:
    """Whether a metric was named in advance."""
    return metric == "miou" or metric.split("/")[1] == PRIMARY_SCORE


def values_of(
    results: Sequence[Mapping[str, Any]], trunk: str, head: str, metric: str
) -> list[float]:
    """Collect one value per seed, in the seeds' order."""
    runs = [run for run in results if run["trunk"] == trunk and run["head"] == head]
    return [float(run["metrics"][metric]) for run in sorted(runs, key=lambda run: run["seed"])]


def _means(results: Sequence[Mapping[str, Any]], trunk: str, metrics: Sequence[str]) -> Table:
    heads = [head for head in HEAD_NAMES if any(run["head"] == head for run in results)]
    rows = []
    for metric in metrics:
        means = [mean_of(values_of(results, trunk, head, metric)) for head in heads]
        rows.append([_label(metric), *(f"{m.mean:.4f} {interval(m.low, m.high)}" for m in means)])
    return Table(("metric", *(HEAD_NAMES[head] for head in heads)), rows, trunk or "full training")


def _differences(
    results: Sequence[Mapping[str, Any]],
    trunks: Sequence[str],
    metrics: Sequence[str],
    title: str,
    *,
    adjusted: bool,
) -> Table:
    compared = {
        (trunk, other, metric): paired_difference(
            values_of(results, trunk, "kan", metric), values_of(results, trunk, other, metric)
        )
        for other in ("mlp", "mlp_equal")
        for trunk in trunks
        for metric in metrics
    }
    p_values = [result.p for result in compared.values()]
    if adjusted:
        p_values = holm(p_values)
    rows = []
    for ((trunk, other, metric), result), p in zip(compared.items(), p_values, strict=True):
        better = result.losses if metric.endswith(LOWER_IS_BETTER) else result.wins
        names = [trunk or "full", HEAD_NAMES[other], _label(metric)]
        spread = interval(result.low, result.high, "+.4f")
        figures = [cell(result.mean, "+.4f"), spread, cell(p, ".3f"), f"{better} of {result.n}"]
        rows.append(names + figures)
    columns = (
        *("trunk", "against", "metric", "difference", "95 % interval"),
        *("p (Holm)" if adjusted else "p", "KAN better"),
    )
    return Table(columns, rows, title, text_columns=3)


def _label(metric: str) -> str:
    if metric == "miou":
        return "test mIoU ↑"
    data, score, name = metric.split("/")
    arrow = "↓" if name == LOWER_IS_BETTER else "↑"
    return f"{data} {score} {name.upper()} {arrow}"


@styled
def draw(content: Mapping[str, Any], path: Path) -> None:
    """Draw a dot per run, a bar for the mean, a panel per metric."""
    results = content["results"]
    trunks = list(dict.fromkeys(run["trunk"] for run in results))
    heads = [head for head in HEAD_NAMES if any(run["head"] == head for run in results)]
    metrics = [
        metric
        for metric in results[0]["metrics"]
        if metric == "miou" or metric.split("/")[1] in SHOWN_SCORES
    ]
    columns = 4
    rows = -(-len(metrics) // columns)
    chart, axes = figure(rows, columns, (3.4 * columns, 2.5 * rows))
    for panel, metric in zip(axes.flat, metrics, strict=False):
        for t, trunk in enumerate(trunks):
            for h, head in enumerate(heads):
                values = values_of(results, trunk, head, metric)
                x = t * (len(heads) + 1) + h
                spread = [x + 0.12 * (k - (len(values) - 1) / 2) for k in range(len(values))]
                panel.plot(spread, values, ".", color=COLOURS[head], markersize=6)
                centre = sum(values) / len(values)
                panel.plot([x - 0.36, x + 0.36], [centre, centre], color=COLOURS[head], lw=2)
        middles = [t * (len(heads) + 1) + (len(heads) - 1) / 2 for t in range(len(trunks))]
        panel.set_xticks(middles, [f"{trunk} trunk" if trunk else "full" for trunk in trunks])
        panel.grid(visible=False, axis="x")
        panel.set_title(_label(metric), fontsize=9)
    for panel in axes.flat[len(metrics) :]:
        panel.set_axis_off()
    handles = [
        axes.flat[0].plot([], [], "o", color=COLOURS[head], label=HEAD_NAMES[head])[0]
        for head in heads
    ]
    chart.legend(handles=handles, loc="outside upper center", ncols=len(heads))
    save(chart, path)
