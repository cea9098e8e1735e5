"""``python -m training.train <recipe>``: train a model.

A run continued with ``--resume`` gives the same result as one that never stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch

from mask2kan.checks import require
from mask2kan.cli.run import run_command
from mask2kan.errors import ConfigError

from .config.recipes import RECIPES, recipe
from .config.train_config import TrainConfig, override
from .data.check import inspect_data
from .data.mixture import parts_of
from .data.registry import usable_splits
from .data.unlabelled import PREFIX
from .engine.run_folder import TRACKERS, RunFolder
from .engine.trainer import Trainer

FAULTS_SHOWN = 20
EXAMPLE = """example:
  python -m training.train camvid_kan --data data/camvid --out runs/camvid_kan
  python -m training.train camvid_mlp --data synthetic --steps 200 --set batch_size=4
  python -m training.train head_only_kan --init facebook/mask2former-swin-tiny-cityscapes-semantic
  accelerate launch --num_processes 8 --mixed_precision bf16 -m training.train thesis_swin_b_kan
  accelerate launch --use_fsdp --num_machines 2 … -m training.train mask2former_swin_l --resume
"""


def parser() -> argparse.ArgumentParser:
    """Define the command line."""
    out = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Train a model by a recipe; progress, metrics and weights go to a run folder.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("recipe", help=f"one of: {', '.join(RECIPES)}")
    out.add_argument("--data", help="folder of the data set, a known name, or 'synthetic'")
    out.add_argument("--out", type=Path, help="run folder (default: runs/<recipe>)")
    out.add_argument("--init", help="checkpoint to start from: a file, bundled name or Hub id")
    out.add_argument("--steps", type=int, help="optimizer updates of the whole run")
    out.add_argument("--branch-of", metavar="RUN", help="start a new run from that run's state")
    out.add_argument("--minutes", type=float, help="save and stop then; go on with --resume")
    out.add_argument("--seed", type=int, help="of weights, crops and points")
    out.add_argument("--outliers", help="to paste: procedural, cutouts:<folder> or coco:<folder>")
    out.add_argument("--resume", action="store_true", help="continue the run in the folder")
    out.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change a field: lr=3e-4, model.num_queries=20, augmentation.colour=0.0",
    )
    out.add_argument(
        "--mixed-precision",
        choices=("no", "bf16", "fp16"),
        help="default: what accelerate is configured for, else no",
    )
    out.add_argument(
        "--tracker", choices=TRACKERS, default="tensorboard", help="default: %(default)s"
    )
    out.add_argument("--skip-check", action="store_true", help="do not check the data first")
    out.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    out.add_argument("--quiet", action="store_true", help="no progress bar")
    return out


def resolve(arguments: argparse.Namespace) -> TrainConfig:
    """Apply the command line to the recipe; an option of its own wins over ``--set``."""
    preset = recipe(arguments.recipe)
    config = override(preset, arguments.settings)
    if arguments.data is not None:
        config = dataclasses.replace(config, data=arguments.data)
    for field in ("init", "steps", "seed", "branch_of"):
        value = getattr(arguments, field)
        if value is not None:
            config = dataclasses.replace(config, **{field: value})
    if arguments.outliers is not None:
        exposure = dataclasses.replace(config.outliers, source=arguments.outliers)
        config = dataclasses.replace(config, outliers=exposure)
    if config.data == "synthetic" and config.pretrained_backbone == preset.pretrained_backbone:
        # The synthetic twin needs no download, so neither does its training.
        config = dataclasses.replace(config, pretrained_backbone="")
    return config


def check(config: TrainConfig) -> None:
    """Look at every image and label before the first step; a clean result is remembered.

    Raises:
        ConfigError: when something is wrong; the faults go to the error stream.
    """
    if config.data.startswith(PREFIX):
        return
    faults = [
        fault
        for part in parts_of(config.data)
        for fault in inspect_data(
            part.data, usable_splits(part.data), progress=True, remembered=True
        ).faults
    ]
    for fault in faults[:FAULTS_SHOWN]:
        print(fault, file=sys.stderr)
    if faults:
        raise ConfigError(
            f"{len(faults)} faults in {config.data}; mend them (python -m training.data check "
            f"{config.data} lists all), or train regardless with --skip-check."
        )


def _run(options: argparse.Namespace) -> None:
    main_process = int(os.environ.get("RANK", "0")) == 0
    level = logging.INFO if main_process else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s")
    cv2.setNumThreads(1)
    if options.threads is not None:
        require("--threads", options.threads, 1)
        torch.set_num_threads(options.threads)
    config = resolve(options)
    folder = options.out or Path("runs") / config.name
    if not options.resume:
        RunFolder(folder, options.tracker).require_unused()
    if main_process and not options.skip_check:
        check(config)
    trainer = Trainer(
        config,
        folder,
        resume=options.resume,
        mixed_precision=options.mixed_precision,
        progress=not options.quiet,
        tracker=options.tracker,
        minutes=options.minutes,
    )
    if options.resume and main_process:
        print(f"starting at step {trainer.step} of {config.steps}", flush=True)
    best = trainer.fit()
    if not main_process:
        return
    if trainer.interrupted and trainer.step < config.steps:
        print(f"stopped at step {trainer.step}; saved. Continue with --resume.")
    else:
        print(f"done: {trainer.step} steps, best val mIoU {best:.4f}, in {trainer.run.folder}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(parser(), _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
