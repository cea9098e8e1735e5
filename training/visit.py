"""``python -m training.visit``: train the road pair for some minutes on a GPU that is lent.

    python -m training.pack build/gpu/road.tar.xz --data … --extra …     # here
    python -m training.visit build/gpu/road.tar.xz --minutes 8 --out OUT  # there

After a constant rate, two equal branches let it fall to 0, one with natural outliers. Weights
return in float16: ``constant.tar`` to go on from (``--init``, fresh optimizer), ``end.tar`` and
``outliers.tar`` to measure and bundle.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import lzma
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch

from mask2kan.checkpoints import save_pair
from mask2kan.checks import require
from mask2kan.cli.run import run_command
from mask2kan.errors import CheckpointError, ConfigError
from mask2kan.media.files import atomic_writer, write_record

from .config.recipes import recipe
from .config.train_config import TrainConfig, override
from .data.folders import VARIABLE
from .engine.trainer import Trainer
from .models.pair import Trained, members
from .objectives.objective import SegmentationObjective
from .pack import ROOT

LARGEST = 15 * 2**20  # bytes of a file that is brought back
LAYOUTS = {  # name: channels last, full-precision backbone
    "channels last, float32 backbone": (True, True),
    "channels first, float32 backbone": (False, True),
    "channels last, half backbone": (True, False),
    "channels first, half backbone": (False, False),
}
PROBED_STEPS = 6

logger = logging.getLogger(__name__)


def probe(config: TrainConfig, precision: str) -> TrainConfig:
    """Choose the layout whose steps are fastest here."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder), mixed_precision=precision, progress=False)
        batch = next(trainer._batches())
        for name, (channels_last, full_precision) in LAYOUTS.items():
            layout = torch.channels_last if channels_last else torch.contiguous_format
            trainer.model.to(memory_format=layout)
            trainer.optimizer.optimizer.state.clear()
            model = next(iter(members(trainer.model).values()))
            model.full_precision_backbone = full_precision
            objective = trainer.objective
            assert isinstance(objective, SegmentationObjective)
            objective.config = dataclasses.replace(config, channels_last=channels_last)
            times = []
            for _ in range(PROBED_STEPS):
                start = time.perf_counter()
                trainer._update(batch)
                _wait()
                times.append(time.perf_counter() - start)
            seconds[name] = statistics.median(times[PROBED_STEPS // 2 :])
            print(f"{name}: {1000 * seconds[name]:.0f} ms a step", flush=True)
    fastest = min(seconds, key=lambda name: seconds[name])
    channels_last, full_precision = LAYOUTS[fastest]
    return dataclasses.replace(
        config, channels_last=channels_last, full_precision_backbone=full_precision
    )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_part(model: Trained, path: Path, title: str) -> None:
    """Write a pair in float16, as one file to bring back.

    Raises:
        CheckpointError: when it is larger than ``LARGEST``.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pair(members(model), folder, "trunk", torch.float16)
        with atomic_writer(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(folder, title)
    if path.stat().st_size > LARGEST:
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes; expected {LARGEST:,} at most."
        )


def run(config: TrainConfig, folder: Path, precision: str, minutes: float | None = None) -> Trainer:
    """Train one run of the visit; return its trainer."""
    trainer = Trainer(config, folder, mixed_precision=precision, progress=False, minutes=minutes)
    trainer.run.draw = lambda *_: None  # type: ignore[method-assign]  # curves are drawn at home
    start = time.monotonic()
    trainer.fit()
    spent = time.monotonic() - start
    print(f"{config.name}: {trainer.step} steps in {spent:.0f} s", flush=True)
    return trainer


def visit(options: argparse.Namespace) -> None:
    """Unpack the data and train."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cv2.setNumThreads(1)
    if torch.cuda.is_available():  # on a CPU the same word means half types, emulated on most
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    require("--minutes", options.minutes, 0.0, above=True)
    require("--end-minutes", options.end_minutes, 0.0, above=True)
    with tempfile.TemporaryDirectory(prefix="visit-") as work:
        _unpack(options.archive, Path(work))
        _train(options, Path(work))


def _unpack(archive: Path, work: Path) -> None:
    """Unpack the archive and point the data folder at it."""
    start = time.monotonic()
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
    except (tarfile.TarError, EOFError, lzma.LZMAError) as error:
        raise ConfigError(f"{archive} cannot be unpacked: {error}. Pack it again.") from error
    if not (work / ROOT).is_dir():
        raise ConfigError(f"{archive} has no folder {ROOT}; expected what training.pack wrote.")
    os.environ[VARIABLE] = str(work / ROOT)
    print(f"unpacked in {time.monotonic() - start:.0f} s", flush=True)


def _train(options: argparse.Namespace, work: Path) -> None:
    shared = [
        f"batch_size={options.batch_size}",
        f"workers={options.workers}",
        "save_minutes=1000.0",
        *options.settings,
    ]
    config = override(recipe("road_pair"), ["eval_every=1500", *shared])
    if options.init:
        config = dataclasses.replace(config, init=str(options.init), warmup_steps=100)
    config = probe(config, options.precision)
    if options.probe_only:
        return
    layout = [
        f"channels_last={config.channels_last}",
        f"full_precision_backbone={config.full_precision_backbone}",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    constant = run(config, work / "constant", options.precision, options.minutes)
    rate = constant.step / (time.monotonic() - began)
    write_part(constant.model, options.out / "constant.tar", "constant")
    steps = max(20, int(rate * 60 * options.end_minutes))
    for name in ("end", "outliers"):
        ending = override(recipe(f"road_pair_{name}"), [*shared, *layout, "eval_every=100000"])
        ending = dataclasses.replace(ending, steps=steps, branch_of=str(work / "constant"))
        trainer = run(ending, work / name, options.precision)
        write_part(trainer.average.model, options.out / f"{name}.tar", name)
    for name in ("constant", "end", "outliers"):
        logged = work / name / "metrics.jsonl"
        if logged.is_file():  # a run of a few steps logs nothing
            shutil.copy(logged, options.out / f"{name}.jsonl")
    facts = {
        "steps": constant.step,
        "end steps": steps,
        "batch size": options.batch_size,
        "layout": layout,
        "precision": options.precision,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "commit": constant.run.provenance["commit"],
    }
    write_record(options.out / "visit.json", facts)
    print(json.dumps(facts), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.visit", description="Train the road pair on a lent GPU."
    )
    parser.add_argument("archive", type=Path, help="what training.pack wrote")
    parser.add_argument("--out", type=Path, default="visit", help="default: %(default)s")
    parser.add_argument("--init", type=Path, help="folder of an unpacked constant.tar")
    parser.add_argument("--minutes", type=float, default=6.0, help="at the constant rate")
    parser.add_argument("--end-minutes", type=float, default=1.0, help="of each branch, about")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--probe-only", action="store_true", help="time a few steps and stop")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    return run_command(parser, visit, arguments)


if __name__ == "__main__":
    sys.exit(main())
