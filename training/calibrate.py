"""Measure ranges and thresholds of every anomaly score and write them into a checkpoint.

Exact, over all valid pixels of the map at the checkpoint's sizes and smoothing. ``range``: 0.5th
and 99.5th percentile. Thresholds t (anomalous if score >= t): ``fpr05`` flags at most 5 % of the
known pixels, ``tpr95`` at least 95 % of the anomalous ones, ``best_f1`` balances the two.
``curve`` lists [share of the known pixels, t, share of the anomalous ones] from 0.02 % to 50 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2kan.checks import require
from mask2kan.cli.run import run_command
from mask2kan.media.files import read_record
from mask2kan.modeling.settings import InferenceSettings
from mask2kan.outputs.tables import calibration_table

from .evaluation.calibration import DATA, calibrate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate",
        description="Write ranges and thresholds of every anomaly score into a checkpoint.",
        epilog="example: python -m training.calibrate weights/mask2kan_road.safetensors",
    )
    parser.add_argument(
        "checkpoint", type=Path, help="a .safetensors file of this project, or a run folder"
    )
    parser.add_argument("--out", type=Path, help="write there instead of into the checkpoint")
    parser.add_argument("--data", help=f"anomaly set or folder (default: {DATA})")
    parser.add_argument("--root", type=Path, help="its folder (default: the usual places)")
    parser.add_argument("--settings", type=Path, help="JSON file of InferenceSettings to write too")
    parser.add_argument("--limit", type=int, metavar="N", help="only N images, evenly spread")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.limit is not None:
        require("--limit", options.limit, 1)
    settings = None
    if options.settings is not None:
        settings = InferenceSettings.from_dict(read_record(options.settings))
    calibration = calibrate(
        options.checkpoint,
        options.out,
        data=options.data,
        root=options.root,
        settings=settings,
        limit=options.limit,
        device=options.device,
        say=print,
    )
    print(calibration_table(calibration).text())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_parser(), _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
