"""Ablate the parts of the KAN: the thesis's Table 3.6, its nine networks on digits.

    python -m training.ablation --data mnist --root data/mnist --seeds 5

Departures from the thesis, which names MNIST, the experiments and one accuracy each: scikit-learn's
digits by default, several seeds, intervals of the differences. λ, the factor of the regularisation,
is 0.1: the thesis gives none, and less has no effect to ablate here (``Protocol``); the recipes
take 1e-5. The grid follows the data after 5, 10 and 20 percent of the steps, else stays on [-1, 1].
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2kan.checks import require
from mask2kan.cli.run import run_command

from .experiments.kan_ablation.classifier import Protocol
from .experiments.kan_ablation.digits import DATA_SETS
from .experiments.kan_ablation.experiments import EXPERIMENTS
from .experiments.kan_ablation.runner import ablate

EPOCHS = {"digits": 25, "mnist": 5}
EXAMPLE = """examples:
  python -m training.ablation
  python -m training.ablation --experiments order_2 relu --seeds 10 --out runs/two
  python -m training.ablation --data mnist --root data/mnist
"""


def _parser() -> argparse.ArgumentParser:
    defaults = Protocol(epochs=1)
    out = argparse.ArgumentParser(
        prog="python -m training.ablation",
        description="The KAN ablation of the thesis's Table 3.6, over several seeds.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--data", default="digits", help=f"{', '.join(DATA_SETS)} (default: digits)")
    out.add_argument("--root", type=Path, help="folder of MNIST's four idx files, .gz or not")
    out.add_argument("--seeds", type=int, default=5, help="how many (default: %(default)s)")
    out.add_argument(
        "--experiments",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"beside the default, which always runs: {', '.join(EXPERIMENTS)} (default: all)",
    )
    epochs = ", ".join(f"{name} {count}" for name, count in EPOCHS.items())
    out.add_argument("--epochs", type=int, help=f"of every run (default: {epochs})")
    shown = "default: %(default)s"
    out.add_argument("--batch-size", type=int, default=defaults.batch_size, help=shown)
    out.add_argument("--lr", type=float, default=defaults.learning_rate, help=shown)
    out.add_argument("--regularization", type=float, default=defaults.regularization, help=shown)
    out.add_argument("--out", type=Path, default="runs/ablation", help=shown)
    cores = os.cpu_count() or 1
    out.add_argument("--workers", type=int, default=cores, help="runs at a time, a thread each")
    return out


def protocol_of(options: argparse.Namespace) -> Protocol:
    """Build the protocol from the command line.

    Raises:
        ConfigError: for numbers out of range.
    """
    if options.epochs is None:
        options.epochs = EPOCHS.get(options.data, 1)
    for name in ("seeds", "epochs", "batch_size", "workers"):
        require(f"--{name.replace('_', '-')}", getattr(options, name), 1)
    require("--lr", options.lr, 0.0, above=True)
    require("--regularization", options.regularization, 0.0)
    return Protocol(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.lr,
        regularization=options.regularization,
    )


def _run(options: argparse.Namespace) -> None:
    ablate(
        options.data,
        protocol_of(options),
        options.out,
        root=options.root,
        seeds=options.seeds,
        experiments=options.experiments,
        workers=options.workers,
    )
    print((options.out / "ablation.md").read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_parser(), _run, arguments, stopped="stopped; the same command continues.")


if __name__ == "__main__":
    sys.exit(main())
