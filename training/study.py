"""``python -m training.study``: compare the KAN head with MLP heads.

KAN, Mask2Former's MLP and an MLP with the KAN's number of parameters share recipe, seed, data
order, crops and points. ``head_only``: heads on frozen trunks, **crossed**: a trunk favours the
kind of head it grew up with, so there is one of each. ``full``: the whole model with each head.
Learning rates are chosen per head and trunk on the validation split, with a seed of their own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch

from mask2kan.checks import require
from mask2kan.cli.run import run_command
from mask2kan.errors import ConfigError

from .data import open_split
from .experiments.study import Plan, Study

EXAMPLE = """examples:
  python -m training.study --data camvid --seeds 5
  python -m training.study --mode full --data camvid --seeds 3 --steps 2000
"""


def _parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m training.study",
        description="KAN head against MLP heads: the same data order, several seeds, intervals.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--mode", choices=("head_only", "full"), default="head_only")
    out.add_argument("--data", default="camvid", help="default: %(default)s")
    out.add_argument(
        "--trunks",
        nargs="+",
        metavar="NAME=CHECKPOINT",
        default=["road=mask2former_road"],
        help="of head_only (default: the bundled pair's)",
    )
    out.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    out.add_argument("--steps", type=int, help="of every run (default: the recipe's)")
    out.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    out.add_argument("--rates", type=float, nargs="*", default=[3e-4, 1e-3, 3e-3])
    out.add_argument("--tuning-steps", type=int, default=200, help="default: %(default)s")
    out.add_argument("--anomalies", nargs="*", default=["camvid_anomaly", "road_anomaly"])
    out.add_argument("--split", default="", help="measured (default: camvid's test, others' val)")
    out.add_argument("--limit", type=int, help="images per set (default: all)")
    out.add_argument("--out", type=Path, default=Path("runs/study"), help="default: %(default)s")
    out.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    return out


def plan_of(options: argparse.Namespace) -> Plan:
    """Build the plan from the command line.

    Raises:
        ConfigError: for a trunk that is not NAME=CHECKPOINT, or numbers out of range.
    """
    trunks = {"": ""}
    if options.mode == "head_only":
        for text in options.trunks:
            if not text.partition("=")[2]:
                raise ConfigError(f"--trunks {text!r} is not NAME=CHECKPOINT.")
        trunks = dict(text.split("=", 1) for text in options.trunks)
    steps = [] if options.steps is None else [f"steps={options.steps}"]
    return Plan(
        mode=options.mode,
        data=options.data,
        trunks=trunks,
        seeds=options.seeds,
        settings=(*options.settings, *steps),
        rates=tuple(options.rates),
        tuning_steps=options.tuning_steps,
        anomalies=tuple(options.anomalies),
        limit=options.limit,
        split=options.split,
    )


def _run(options: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    if options.threads is not None:
        require("--threads", options.threads, 1)
        torch.set_num_threads(options.threads)
    plan = plan_of(options)
    open_split(plan.data, "train")
    Study(plan, options.out).run()
    print((options.out / "study.md").read_text())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_parser(), _run, argv, stopped="stopped; the same command continues.")


if __name__ == "__main__":
    sys.exit(main())
