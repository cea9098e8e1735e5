"""What the command line says: of a picture's results, of a failure, of a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mask2kan.modeling.settings import InferenceSettings


def tell_results(
    path: Path, summaries: list[tuple[str, dict[str, Any]]], notes: Sequence[str], written: Path
) -> None:
    """Print what came of a picture, without disturbing a progress bar.

    Args:
        path: of the picture.
        summaries: a label and ``results.summarize`` of each model.
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
    """Print a failure, and the picture it concerns, as one line on standard error."""
    message = " ".join(str(error).split()) or type(error).__name__
    where = "" if path is None else f"{path}: "
    tqdm.write(f"{prefix}: {where}{message}", file=sys.stderr)


def describe_model(facts: dict[str, Any]) -> str:
    """What the info command found out, as lines of text."""
    lines = [f"{facts['model']} ({facts['format']})", "architecture:"]
    lines += [f"  {key:26} {value}" for key, value in facts["architecture"].items()]
    lines.append("parameters:")
    lines += [f"  {key:26} {value:>12,}" for key, value in facts["parameters"].items()]
    lines.append(f"classes ({len(facts['class_names'])}): {', '.join(facts['class_names'])}")
    lines += [f"{key}: {value}" for key, value in facts["card"].items()]
    settings = InferenceSettings.from_dict(facts["settings"] or {})
    lines.append(f"run with: {settings.in_words()}")
    if not facts["calibration"]:
        lines.append("calibration: none; anomaly pictures use nominal ranges")
        return "\n".join(lines)
    lines.append("calibration (anomalous if score >= threshold):")
    for score, values in facts["calibration"].items():
        low, high = values["range"]
        thresholds = "  ".join(
            f"{name} {values[name]:.4g}"
            for name in ("fpr05", "tpr95", "best_f1")
            if values.get(name) is not None
        )
        lines.append(f"  {score:8} range {low:.4g} to {high:.4g}  {thresholds}")
        if values.get("data"):
            lines.append(f"           on {values['data']}")
    return "\n".join(lines)
