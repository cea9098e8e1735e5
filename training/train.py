"""``python -m training.train <recipe>``: train a model.

Run folders continue with ``--resume``: the result is the same as if the run had never stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

import cv2
import torch

from mask2kan.errors import Mask2KANError
from training.config import TrainConfig, override
from training.loop import Trainer
from training.recipes import RECIPES, recipe

EXAMPLE = """example:
  python -m training.train camvid_kan --data data/camvid --out runs/camvid_kan
  python -m training.train camvid_mlp --data synthetic --steps 200 --set batch_size=4
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Train a model by a recipe; progress, metrics and weights go to a run folder.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("recipe", help=f"one of: {', '.join(sorted(RECIPES))}")
    out.add_argument("--data", help="folder of the data set, a known name, or 'synthetic'")
    out.add_argument("--out", type=Path, help="run folder (default: runs/<recipe>)")
    out.add_argument("--steps", type=int, help="optimizer updates of the whole run")
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
        "--mixed-precision", choices=("no", "bf16", "fp16"), default="no", help="default: no"
    )
    out.add_argument("--threads", type=int, help="processor threads (default: all cores)")
    out.add_argument("--quiet", action="store_true", help="no progress bar")
    return out


def resolve(arguments: argparse.Namespace) -> TrainConfig:
    """The recipe with what the command line changes; an option of its own wins over ``--set``."""
    preset = recipe(arguments.recipe)
    config = override(preset, arguments.settings)
    if arguments.data is not None:
        config = dataclasses.replace(config, data=arguments.data)
    if arguments.steps is not None:
        config = dataclasses.replace(config, steps=arguments.steps)
    if config.data == "synthetic" and config.pretrained_backbone == preset.pretrained_backbone:
        # The synthetic twin needs no download, so neither does its training.
        config = dataclasses.replace(config, pretrained_backbone="")
    return config


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    try:
        config = resolve(arguments)
        trainer = Trainer(
            config,
            arguments.out or Path("runs") / config.name,
            resume=arguments.resume,
            mixed_precision=arguments.mixed_precision,
            progress=not arguments.quiet,
        )
        if arguments.resume:
            print(f"starting at step {trainer.step} of {config.steps}", flush=True)
        best = trainer.fit()
    except Mask2KANError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if trainer.interrupted and trainer.step < config.steps:
        print(f"stopped at step {trainer.step}; saved. Continue with --resume.")
    else:
        print(f"done: {trainer.step} steps, best val mIoU {best:.4f}, in {trainer.run.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
