"""Measure all anomaly scores of checkpoints on all anomaly data sets: table, curves, images.

    python -m training.benchmark mask2kan_road mask2former_road
    python -m training.benchmark runs/*/best.safetensors --root data --protocol smiyc
    python -m training.benchmark mask2kan_road --root my_folder   # images/ and masks/ in it
    python -m training.benchmark mask2kan_road --ray --workers 4

A stopped command continues. Ray Data spreads the scoring over machines that share the folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2kan.checks import require
from mask2kan.cli.reporting import complain
from mask2kan.cli.run import run_command
from mask2kan.errors import ImageError
from mask2kan.inference.scores import SCORES, check_score
from mask2kan.runtime.precision import DTYPES

from .evaluation.anomaly_benchmark import Benchmark, checkpoint_names, sets_to_measure
from .evaluation.saved_scores import ScoringPlan
from .metrics.pixel import PROTOCOLS


def _parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m training.benchmark",
        description="All anomaly scores on all anomaly data sets.",
        epilog="example: python -m training.benchmark mask2kan_road mask2former_road",
    )
    out.add_argument("weights", nargs="+", help="checkpoint files, bundled names or Hub ids")
    out.add_argument("--root", type=Path, help="folder that holds the data sets, or is your own")
    out.add_argument(
        "--sets",
        "--data",
        nargs="+",
        metavar="SET",
        help="names (python -m training.data list), folders or name=folder (default: all there)",
    )
    out.add_argument(
        "--scores", nargs="+", default=list(SCORES), help=f"default: {' '.join(SCORES)}"
    )
    out.add_argument("--protocol", choices=PROTOCOLS, default="exact", help="default: %(default)s")
    out.add_argument("--limit", type=int, metavar="N", help="only N images of each set")
    out.add_argument("--flip", action="store_true", help="average with the flipped image")
    out.add_argument("--refine", action="store_true", help="Mask2Anomaly's refinement")
    out.add_argument("--max-side", type=int, default=2048, help="default: %(default)s")
    out.add_argument("--device", default="auto", help="auto, cpu, cuda")
    out.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    out.add_argument("--ray", action="store_true", help="spread the scoring with Ray Data")
    out.add_argument("--ray-address", help="of a running cluster (default: start one here)")
    out.add_argument("--workers", type=int, help="Ray actors (default: as many as fit)")
    out.add_argument("--keep-scores", action="store_true", help="leave the score files")
    out.add_argument("--out", type=Path, default="runs/benchmark", help="default: %(default)s")
    return out


def run(options: argparse.Namespace) -> str:
    """Score, measure and write; return the table.

    Raises:
        Mask2KANError: for anything that cannot be loaded or does not fit.
    """
    if options.limit is not None:
        require("limit", options.limit, 1)
    for score in options.scores:
        check_score(score)
    scores_folder = options.out / "scores"
    sets = sets_to_measure(options.sets, options.root)
    plan = ScoringPlan(
        checkpoints=checkpoint_names(options.weights),
        sets=tuple(name for name, _ in sets),
        sources=sets,
        root=None if options.root is None else str(options.root),
        scores=tuple(options.scores),
        out=str(scores_folder.resolve()),
        device=options.device,
        dtype=options.dtype,
        max_side=options.max_side,
        flip=options.flip,
        refine=options.refine,
    )
    benchmark = Benchmark(plan, options.out, protocol=options.protocol, limit=options.limit)
    use_ray = options.ray or options.ray_address is not None or options.workers is not None
    text = benchmark.run(ray=use_ray, workers=options.workers, address=options.ray_address)
    if not options.keep_scores:
        shutil.rmtree(scores_folder)
    return text


def _run(options: argparse.Namespace) -> int:
    try:
        print(run(options))
    except ImageError as error:
        complain(error, prefix="error")
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_parser(), _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
