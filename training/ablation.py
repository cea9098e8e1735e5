"""Which parts of the KAN matter: the ablation of the thesis's Table 3.6.

    python -m training.ablation
    python -m training.ablation --data mnist --root data/mnist --seeds 5

Trains the nine networks of the table on digits, under the same seeds
(``training.experiments.kan_ablation``). Into the run folder go ``ablation.json`` (settings,
versions, all runs, summary), ``ablation.md`` and ``ablation.png``; finished runs are kept there, so
the command may be stopped and repeated.

Departures from the thesis, which names MNIST, the experiments and one accuracy each: the default
data are the digits that come with scikit-learn (no download, minutes on two cores), every
experiment has several seeds, and differences have an interval. λ, the factor of the regularisation,
is 0.1: the thesis gives none, and less has no effect here that could be ablated (``Protocol``). The
model's recipes take 1e-5. The grid follows the training data after 5, 10 and 20 percent of the
steps; without updates it stays uniform on [-1, 1].
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
    known = Protocol(epochs=1)
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
    out.add_argument(
        "--batch-size", type=int, default=known.batch_size, help="default: %(default)s"
    )
    out.add_argument("--lr", type=float, default=known.learning_rate, help="default: %(default)s")
    out.add_argument(
        "--regularization",
        type=float,
        default=known.regularization,
        metavar="LAMBDA",
        help="factor of the regularisation (default: %(default)s)",
    )
    out.add_argument(
        "--out", type=Path, default=Path("runs/ablation"), help="run folder (default: %(default)s)"
    )
    out.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="runs at a time, one thread each (default: all cores)",
    )
    return out


def protocol_of(options: argparse.Namespace) -> Protocol:
    """The protocol a command line asks for.

    Raises:
        ConfigError: for numbers no run can be made of.
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
    stopped = "stopped; the same command continues."
    return run_command(_parser(), _run, arguments, stopped=stopped)


if __name__ == "__main__":
    sys.exit(main())
