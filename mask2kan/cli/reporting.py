"""Print results, failures and descriptions of checkpoints."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mask2kan.errors import printable
from mask2kan.modeling.settings import InferenceSettings
from mask2kan.outputs.tables import Table, calibration_table
from mask2kan.outputs.tables import threshold_in_words as in_words

_CALIBRATION_IN_WORDS = (
    "  range: the 0.5th to 99.5th percentile, drawn from dark to bright",
    "  fpr05: 5 % of the normal pixels score as high; tpr95: 95 % of the anomalous ones do",
    "  best F1: the largest F1 of the pixels found",
)


def print_results(
    path: str, summaries: list[tuple[str, dict[str, Any]]], notes: Sequence[str], written: Path
) -> None:
    """Print an image's ``Report`` above the progress bar."""
    tqdm.write(printable(f"{path}: {written}"))
    for label, summary in summaries:
        classes = ", ".join(f"{c['name']} {c['share']:.0%}" for c in summary["classes"][:4])
        tqdm.write(
            f"  {label}{classes}; anomalous {summary['regions_share']:.1%} in "
            f"{_counted(summary['regions_found'])} ({summary['score']} >= "
            f"{summary['threshold']:.3g}, {in_words(summary['threshold_from'])})"
        )
    for note in notes:
        tqdm.write(f"  {note}")


def _counted(regions: int) -> str:
    return "1 region" if regions == 1 else f"{regions} regions"


def complain(error: Exception, path: str | None = None, *, prefix: str = "mask2kan") -> None:
    """Print a failure, and the image it concerns, as one line on standard error."""
    message = " ".join(str(error).split()) or type(error).__name__
    where = "" if path is None else f"{path}: "
    tqdm.write(printable(f"{prefix}: {where}{message}"), file=sys.stderr)


def say_stage(words: str) -> None:
    """Print what takes long and begins now, on standard error."""
    print(words, file=sys.stderr, flush=True)


def describe_model(facts: dict[str, Any]) -> str:
    """Format the facts of the info command as text."""
    blank = ("", "")
    parameters = [(name, f"{count:,}") for name, count in facts["parameters"].items()]
    architecture = [(name, str(value)) for name, value in facts["architecture"].items()]
    lines = [
        f"{facts['model']} ({facts['format']})",
        Table(blank, architecture, "architecture:", text_columns=2).text(),
        Table(blank, parameters, "parameters:").text(),
        f"classes ({len(facts['class_names'])}): {', '.join(facts['class_names'])}",
        *(f"{key}: {value}" for key, value in facts["card"].items()),
        *(f"note: {note}" for note in facts["notes"]),
        f"run with: {InferenceSettings.from_dict(facts['settings'] or {}).in_words()}",
    ]
    calibration = facts["calibration"]
    if not calibration:
        lines.append("calibration: none; anomaly images use nominal ranges")
    else:
        data = dict.fromkeys(str(values.get("data") or "") for values in calibration.values())
        table = dataclasses.replace(
            calibration_table(calibration),
            title="calibration (anomalous if score >= threshold):",
            notes=[*(f"  on {name}" for name in data if name), *_CALIBRATION_IN_WORDS],
        )
        lines.append(table.text())
    return "\n".join(lines)
