"""Measure a checkpoint on labelled images.

    python -m training.evaluate runs/thesis_swin_t_kan/best.safetensors --data cityscapes
    python -m training.evaluate weights/mask2kan_road.safetensors --data road_anomaly

Classes: IoU, mIoU over those that occur, pixel accuracy; on Cityscapes also its IoU and iIoU over
classes and categories (the thesis's Table 3.1). Anomalies: every score by the exact protocol.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2kan.cli.run import run_command
from mask2kan.inference.predictor import SETTINGS
from mask2kan.inference.scores import SCORES
from mask2kan.media.files import write_record
from mask2kan.runtime.precision import DTYPES

from .evaluation.checkpoint_evaluation import evaluate
from .reporting.evaluation import result_table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measure a checkpoint on labelled images.",
        epilog="example: python -m training.evaluate mask2kan_road --data camvid --split test",
    )
    parser.add_argument("weights", help="checkpoint file, bundled name or Hub repository")
    parser.add_argument(
        "--data",
        required=True,
        help="a name (python -m training.data list), a folder or name=folder",
    )
    parser.add_argument("--root", type=Path, help="its folder (default: the usual places)")
    parser.add_argument("--split", help="train, val, test (default: camvid's test, others' val)")
    parser.add_argument("--limit", type=int, metavar="N", help="only N images, evenly spread")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument(
        "--settings",
        choices=SETTINGS,
        default="checkpoint",
        help="native: one pass at the image's own size (default: the checkpoint's)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="for evaluation.json, plots and images (default: beside the weights of a run)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="also write a side-by-side image per input, worst first",
    )
    parser.add_argument("--score", default="msp", help=f"shown there: {', '.join(SCORES)}")
    return parser


def _run(options: argparse.Namespace) -> None:
    result = evaluate(
        options.weights,
        options.data,
        root=options.root,
        split=options.split,
        limit=options.limit,
        device=options.device,
        dtype=options.dtype,
        settings=options.settings,
        images_to=options.pictures,
        score=options.score,
        out=options.out,
    )
    if options.json is not None:
        write_record(options.json, result)
    print(result_table(result).text())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_parser(), _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
