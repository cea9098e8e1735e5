"""Build the thesis's Tables 3.1 to 3.6: its figures as printed and, in the row below, ours.

Ours are means over a recipe's runs; the better head of a backbone is bold where both were
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from mask2kan.outputs.tables import MISSING, Bold, Table, cell

from ..kan_ablation.report import as_table, title_of
from ..published import (
    ANOMALY,
    ANOMALY_IMAGES,
    ANOMALY_METRICS,
    ANOMALY_SETS,
    ANOMALY_TABLES,
    BACKBONES,
    CITYSCAPES,
    CITYSCAPES_IMAGES,
    CITYSCAPES_METRICS,
    HEADS,
    LOWER_IS_BETTER,
    NOTES,
)
from .results import Measurement, Model, Results

Figure = tuple[str, str]  # data set and metric
_READING = (
    "Ours: mean ± standard deviation (number of runs). Bold: the better head of ours; that says "
    "nothing about chance."
)


def build(results: Results) -> list[Table]:
    """Build all tables, in the thesis's order; one Table 3.6 per ablation."""
    tables = [_segmentation(results)]
    tables += [_anomalies(number, results) for number in ANOMALY_TABLES]
    for count, (path, content) in enumerate(results.ablations.items()):
        title = f"{title_of(content)} ({path.parent})"
        label = f"tab:3.6-{count}" if count else "tab:3.6"
        tables.append(as_table(content["summary"], title, "3.6", label))
    if not results.ablations:
        tables.append(as_table([], "KAN ablation", "3.6", "tab:3.6"))
    return tables


def _segmentation(results: Results) -> Table:
    columns = {("cityscapes", metric): name for metric, name in CITYSCAPES_METRICS.items()}
    return _table(
        "3.1",
        "Segmentation of Cityscapes (val), in percent",
        columns,
        {model: dict(zip(columns, row, strict=True)) for model, row in CITYSCAPES.items()},
        [result for result in results.measurements if result.data == "cityscapes"],
        percent=True,
    )


def _anomalies(number: str, results: Results) -> Table:
    sets, backbones = ANOMALY_TABLES[number]
    printed: dict[Model, dict[Figure, float]] = {}
    for data in sets:
        for model, values in ANOMALY[data].items():
            if model[0] in backbones:
                for metric, value in zip(ANOMALY_METRICS, values, strict=True):
                    printed.setdefault(model, {})[data, metric] = value
    names = ", ".join(ANOMALY_SETS[data] for data in sets)
    return _table(
        number,
        f"Anomalies, {'ResNet-50' if backbones == ('r50',) else 'Swin'}: {names}",
        {(data, metric): name for data in sets for metric, name in ANOMALY_METRICS.items()},
        printed,
        [row for row in results.measurements if row.data in sets and row.model[0] in backbones],
        groups=[("", 2), *((ANOMALY_SETS[data], len(ANOMALY_METRICS)) for data in sets)],
    )


def _table(
    number: str,
    title: str,
    columns: Mapping[Figure, str],
    printed: Mapping[Model, Mapping[Figure, float]],
    measured: Sequence[Measurement],
    *,
    groups: Sequence[tuple[str, int]] = (),
    percent: bool = False,
) -> Table:
    """Make two rows per model that was printed or measured: the thesis's and ours."""
    ours: dict[Model, dict[Figure, list[float]]] = {}
    for result in measured:
        for metric, value in result.figures.items():
            if value is not None:
                values = ours.setdefault(result.model, {}).setdefault((result.data, metric), [])
                values.append(100 * value if percent else value)
    rows: list[list[str]] = []
    breaks = []
    for backbone, backbone_name in BACKBONES.items():
        if rows and any(model[0] == backbone for model in (*printed, *ours)):
            breaks.append(len(rows))
        for head, head_name in HEADS.items():
            model, other = (backbone, head), (backbone, next(h for h in HEADS if h != head))
            if model not in printed and model not in ours:
                continue
            name = f"{backbone_name} ({head_name})"
            theirs = printed.get(model, {})
            rows.append([name, "thesis", *(cell(theirs.get(column)) for column in columns)])
            here, there = ours.get(model, {}), ours.get(other, {})
            rows.append(
                [name, "ours"]
                + [_our_cell(c[1], here.get(c), there.get(c), percent) for c in columns]
            )
    return Table(
        ("Model", "From", *columns.values()),
        rows,
        title,
        text_columns=2,
        number=number,
        label=f"tab:{number}",
        groups=groups,
        breaks=breaks,
        notes=(*NOTES[number], *_notes_on(measured)),
    )


def _our_cell(
    metric: str, here: Sequence[float] | None, there: Sequence[float] | None, percent: bool
) -> str:
    if not here:
        return MISSING
    digits = 2 if percent else 4
    text = f"{mean(here):.{digits}f}"
    if len(here) > 1:
        text += f" ± {stdev(here):.{digits}f} ({len(here)})"
    if not there or mean(here) == mean(there):
        return text
    better = (mean(here) < mean(there)) == (metric in LOWER_IS_BETTER)
    return Bold(text) if better else text


def _notes_on(measured: Sequence[Measurement]) -> list[str]:
    """Explain our figures, and what makes them differ from the thesis's conditions."""
    notes = [_READING] if measured else []
    expected = {"cityscapes": CITYSCAPES_IMAGES, **ANOMALY_IMAGES}
    for result in measured:
        name = f"{BACKBONES[result.model[0]]} ({HEADS[result.model[1]]})"
        data, count = ANOMALY_SETS.get(result.data, "Cityscapes"), expected[result.data]
        if result.images != count:
            notes.append(
                f"Ours: {name} was measured on {result.images} of the {count} images of {data}; "
                "do not compare."
            )
        if result.protocol != "exact":
            notes.append(f"Ours: {name} on {data} by the protocol {result.protocol}.")
    return list(dict.fromkeys(notes))
