"""Show one evaluation's result as a table, for the terminal and for cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mask2kan.outputs.tables import Bold, Table, cell

SCORE_FIGURES = ("ap", "auroc", "fpr95", "best_f1", "best_f1_threshold")
AT_THRESHOLD = "fpr95_at_threshold"
VISIBLE = 0.0005  # the least difference of FPR95 that is worth a note
CITYSCAPES_FIGURES = ("iou", "iiou", "category_iou", "category_iiou")


def result_table(result: Mapping[str, Any]) -> Table:
    """Make a row per anomaly score, or per class, of a result of ``training.evaluate``."""
    count = f"{result['pictures']} images"
    if "scores" in result:
        title = f"{result['data']}: {count}, {result['prevalence']:.4f} of the area anomalous"
        rows = [
            [score, *(cell(figures[key]) for key in SCORE_FIGURES)]
            for score, figures in result["scores"].items()
        ]
        columns = ("score", "AP", "AUROC", "FPR95", "best F1", "at")
        notes = [_regions_in_words(result)] if "regions" in result else []
        notes += [*result.get("notes", ()), *_ties_of(result)]
        return Table(columns, rows, title, notes=notes)
    rows = [
        [name, cell(value, missing="absent")] for name, value in result["iou_per_class"].items()
    ]
    rows.append([Bold("mIoU"), Bold(cell(result["miou"]))])
    rows.append(["pixel accuracy", cell(result["pixel_accuracy"])])
    rows += [
        [f"Cityscapes {name}", cell(result[name])]
        for name in CITYSCAPES_FIGURES
        if result.get(name) is not None
    ]
    return Table(("class", "IoU"), rows, f"{result['data']} {result['split']}: {count}")


def _ties_of(result: Mapping[str, Any]) -> list[str]:
    both = result.get(AT_THRESHOLD, {})  # results of earlier versions have one convention
    return ties_in_words({name: (result["scores"][name]["fpr95"], both[name]) for name in both})


def ties_in_words(both: Mapping[str, tuple[float, float]]) -> list[str]:
    """Say in one line where the two conventions of FPR95 (``training.metrics.curves``) differ."""
    other = {name: value for name, (fpr95, value) in both.items() if value - fpr95 >= VISIBLE}
    if not other:
        return []
    listed = ", ".join(f"{name} {value:.4f}" for name, value in other.items())
    return [f"FPR95 at the first threshold that reaches 0.95, where scores tie: {listed}"]


def _regions_in_words(result: Mapping[str, Any]) -> str:
    regions = result["regions"]
    return (
        f"at the calibrated threshold of {result['settings']['score']}: {regions['found']} of "
        f"{regions['objects']} objects at least half covered; false regions per image: median "
        f"{regions['false_median']:g}, mean {regions['false_mean']:.1f}"
    )
