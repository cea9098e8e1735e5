"""``python -m training.train <recipe>``: train a model.

A run continued with ``--resume`` gives the same result as one that never stopped. PyTorch and all
that needs it are imported once the recipe is known to exist.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mask2kan.checks import require, require_choice
from mask2kan.cli.run import run_command
from mask2kan.errors import BackendError, ConfigError

from .config.choices import RECIPE_NAMES, TRACKERS

if TYPE_CHECKING:
    from .config.train_config import TrainConfig

FAULTS_SHOWN = 20
EXAMPLE = """example:
  python -m training.train camvid_kan --data data/camvid --out runs/camvid_kan
  python -m training.train camvid_mlp --data synthetic --steps 200 --set batch_size=4
  python -m training.train finetune --init mask2kan_road --data own_photos --out runs/own
  python -m training.train --config own.yaml --set fresh=mask_embed,class_embed
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
    out.add_argument("recipe", nargs="?", help=f"one of: {', '.join(RECIPE_NAMES)}")
    out.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML of fields to change, over the recipe (which it may name), or a run's folder",
    )
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
        help="change a field: lr=3e-4, model.num_queries=20, fresh=mask_embed,class_embed; "
        "key=none restores its default",
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
    """Apply the command line to recipe and file; an option of its own wins over ``--set``.

    Raises:
        ConfigError: for an unknown name or key, or a value that does not fit.
    """
    if arguments.recipe is not None:
        require_choice("recipe", arguments.recipe, RECIPE_NAMES)
    elif arguments.config is None:
        raise ConfigError("Name a recipe, or a file with --config; --help lists the recipes.")
    from .config.config_file import read_config
    from .config.recipes import recipe
    from .config.train_config import override
    from .data.registry import is_synthetic

    if arguments.config is None:
        preset = recipe(arguments.recipe)
    else:
        preset = read_config(arguments.config, arguments.recipe)
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
    unchanged = config.pretrained_backbone == preset.pretrained_backbone
    if config.pretrained and unchanged and is_synthetic(config.data):
        # Drawn images need no download, so neither does training on them.
        if not config.init and _is_main_process():
            print(
                f"{config.data} is drawn: the backbone starts from random weights "
                "(--set pretrained_backbone=timm downloads ImageNet's).",
                file=sys.stderr,
            )
        config = dataclasses.replace(config, pretrained_backbone="")
    return config


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def check(config: TrainConfig) -> None:
    """Look at every image and label before the first step; a clean result is remembered.

    Notes and faults go to the error stream.

    Raises:
        ConfigError: when something is wrong.
    """
    from .data.check import inspect_data
    from .data.faults import note_lines
    from .data.mixture import parts_of
    from .data.registry import usable_splits
    from .data.unlabelled import PREFIX

    unlabelled = config.data.startswith(PREFIX)
    parts = [config.data] if unlabelled else [part.data for part in parts_of(config.data)]
    reports = [
        inspect_data(part, usable_splits(part), progress=True, remembered=True) for part in parts
    ]
    for report in reports:
        print(*note_lines(report.notes), sep="\n", end="\n" * bool(report.notes), file=sys.stderr)
    faults = [fault for report in reports for fault in report.faults]
    for fault in faults[:FAULTS_SHOWN]:
        print(fault, file=sys.stderr)
    if faults:
        counted = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
        raise ConfigError(
            f"{counted} in {config.data}; mend them (python -m training.data check {config.data} "
            "lists all), or train regardless with --skip-check."
        )


def _require_packages() -> None:
    """Refuse to start without what the extra ``[training]`` brings.

    Raises:
        BackendError: naming what is missing.
    """
    missing = [name for name in ("accelerate", "tensorboard") if find_spec(name) is None]
    if missing:
        raise BackendError(
            f"Training needs {' and '.join(missing)}, of the extra [training]: "
            'pip install -e ".[training]" in the repository, or "<wheel>[training]".'
        )


def _say_if_too_short(config: TrainConfig) -> None:
    if config.steps <= config.warmup_steps:
        print(
            f"{config.steps} steps end inside the warm-up of {config.warmup_steps} steps; "
            f"--set warmup_steps={config.steps // 10}",
            file=sys.stderr,
        )


def _run(options: argparse.Namespace) -> None:
    config = resolve(options)
    _require_packages()
    import cv2
    import torch

    from .engine.run_folder import RunFolder
    from .engine.trainer import Trainer
    from .reporting.run_card import shown_miou

    main_process = _is_main_process()
    level = logging.INFO if main_process else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s")
    for client in ("httpx", "httpx2"):  # each request of the Hub's client, which is one of these
        logging.getLogger(client).setLevel(logging.WARNING)
    cv2.setNumThreads(1)
    if options.threads is not None:
        require("--threads", options.threads, 1)
        torch.set_num_threads(options.threads)
    folder = options.out or Path("runs") / config.name
    if not options.resume:
        RunFolder(folder, options.tracker).require_unused()
    if main_process and not options.skip_check:
        check(config)
    if main_process:
        _say_if_too_short(config)
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
        print(
            f"done: {trainer.step} steps, best val mIoU {shown_miou(best)}, in {trainer.run.folder}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(parser(), _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
