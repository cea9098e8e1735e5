"""What the command line says: of an image's results, of a failure, of a checkpoint."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mask2kan.modeling.settings import InferenceSettings
from mask2kan.outputs.tables import Table, calibration_table


def tell_results(
    path: Path, summaries: list[tuple[str, dict[str, Any]]], notes: Sequence[str], written: Path
) -> None:
    """Print what came of an image, without disturbing a progress bar.

    Args:
        path: of the image.
        summaries: a label and ``Analysis.summary`` of each model.
        notes: of the prediction.
        written: the file to look at.
    """
    tqdm.write(f"{path}: {written}")
    for label, summary in summaries:
        classes = ", ".join(f"{e['name']} {e['share']:.0%}" for e in summary["classes"][:4])
        tqdm.write(
            f"  {label}{classes}; anomalous {summary['anomalous_share']:.1%} in "
            f"{summary['regions_found']} regions ({summary['score']} >= "
            f"{summary['threshold']:.3g}, {summary['threshold_from']})"
        )
    for note in notes:
        tqdm.write(f"  {note}")


def complain(error: Exception, path: Path | None = None, *, prefix: str = "mask2kan") -> None:
    """Print a failure, and the image it concerns, as one line on standard error."""
    message = " ".join(str(error).split()) or type(error).__name__
    where = "" if path is None else f"{path}: "
    tqdm.write(f"{prefix}: {where}{message}", file=sys.stderr)


def describe_model(facts: dict[str, Any]) -> str:
    """What the info command found out, as lines of text."""
    blank = ("", "")
    parameters = [(name, f"{count:,}") for name, count in facts["parameters"].items()]
    architecture = [(name, str(value)) for name, value in facts["architecture"].items()]
    lines = [
        f"{facts['model']} ({facts['format']})",
        Table(blank, architecture, "architecture:", text_columns=2).text(),
        Table(blank, parameters, "parameters:").text(),
        f"classes ({len(facts['class_names'])}): {', '.join(facts['class_names'])}",
        *(f"{key}: {value}" for key, value in facts["card"].items()),
        f"run with: {InferenceSettings.from_dict(facts['settings'] or {}).in_words()}",
    ]
    calibration = facts["calibration"]
    if not calibration:
        lines.append("calibration: none; anomaly images use nominal ranges")
    else:
        data = dict.fromkeys(values.get("data") for values in calibration.values())
        title = "calibration (anomalous if score >= threshold):"
        notes = [f"  on {name}" for name in data if name]
        table = calibration_table(calibration)
        lines.append(dataclasses.replace(table, title=title, notes=notes).text())
    return "\n".join(lines)
