"""Compare KAN configurations with controls in short runs: do the splines work, at what cost?

Trains ``mask_embed`` (new) and ``class_embed`` on one checkpoint's frozen trunk, with the same
crops and points for all. ``trials.md``: spline share and curvature on validation queries
(``mask2kan.inference.kan_activity``), mIoU and AP, both also with splines set to zero.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mask2kan.checks import require
from mask2kan.cli.run import run_command
from mask2kan.inference.scores import check_score
from mask2kan.media.files import write_bytes
from mask2kan.outputs.tables import MISSING, Table

from .experiments.spline_trials import run_trials

FIGURES = ("share 0", "share 1", "curvature", "miou", "ap", "zeroed miou", "zeroed ap")


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Mean and spread over the seeds, as Markdown."""
    rows = []
    for trial, runs in results.items():
        cells = [trial, str(len(runs))]
        for figure in FIGURES:
            values = [run[figure] for run in runs if figure in run]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}" if values else MISSING)
        rows.append(cells)
    columns = ("configuration", "seeds", *FIGURES)
    return Table(columns, rows, "Spline trials, mean ± spread over the seeds").markdown()


def _run(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    check_score(options.score)
    require("--seeds", options.seeds, 1)
    require("--steps", options.steps, 1)
    results = run_trials(
        options.out,
        seeds=options.seeds,
        init=options.init,
        data=options.data,
        anomalies=options.anomalies,
        score=options.score,
        steps=options.steps,
    )
    page = table(results)
    write_bytes(options.out / "trials.md", page.encode())
    print(page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.spline_trials",
        description="Short runs of KAN configurations beside an MLP.",
    )
    parser.add_argument("--init", required=True, help="checkpoint whose trunk all runs stand on")
    parser.add_argument("--data", default="camvid", help="to train and validate on")
    parser.add_argument("--anomalies", default="rendered_anomaly", help="data set of the AP")
    parser.add_argument("--score", default="entropy", help="of the AP (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--out", type=Path, default="runs/spline_trials")
    stopped = "Stopped; the same command goes on here."
    return run_command(parser, _run, arguments, stopped=stopped)


if __name__ == "__main__":
    sys.exit(main())
