"""Measure ranges and thresholds of every anomaly score and write them into a checkpoint.

    python -m training.calibrate weights/mask2kan_road.safetensors --data fishyscapes_static

From an anomaly data set that was not trained on, per score: ``range``, the 0.5th and 99.5th
percentile over all valid pixels, which images of the score map to [0, 1]; and thresholds,
"anomalous if score >= t": ``fpr05`` flags at most 5 % of the known pixels, ``tpr95`` at least 95 %
of the anomalous ones, ``best_f1`` balances the two. All are exact: every pixel of every image is
ranked, of the map that thresholds are applied to: at the checkpoint's sizes, and smoothed as its
settings say (see ``mask2kan.modeling.settings``).

Elsewhere the same threshold flags another share of the pixels; a threshold is a starting point, not
a promise.
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
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file of this project")
    parser.add_argument("--out", type=Path, help="write there instead of into the checkpoint")
    parser.add_argument("--data", default=DATA, help="anomaly data set (default: %(default)s)")
    parser.add_argument("--root", type=Path, help="its folder (default: the usual places)")
    parser.add_argument("--settings", type=Path, help="JSON file of InferenceSettings to write too")
    parser.add_argument("--limit", type=int, metavar="N", help="only N images, evenly spread")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def _settings(path: Path | None) -> InferenceSettings | None:
    return None if path is None else InferenceSettings.from_dict(read_record(path))


def _run(options: argparse.Namespace) -> None:
    if options.limit is not None:
        require("--limit", options.limit, 1)
    found = calibrate(
        options.checkpoint,
        options.out,
        data=options.data,
        root=options.root,
        settings=_settings(options.settings),
        limit=options.limit,
        device=options.device,
    )
    print(calibration_table(found).text())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_parser(), _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
