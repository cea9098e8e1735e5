"""``python -m training.choose_settings``: compare sizes and scores to run a checkpoint with.

    python -m training.choose_settings mask2kan_road mask2former_road --data fishyscapes_static

Class scores of every fourth pixel of every fourth row are averaged over the combinations of sizes
that cost at most ``--cost`` passes at 1280×720. Choose on sets that nothing else is measured on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2kan.checks import require
from mask2kan.cli.run import run_command
from mask2kan.outputs.tables import Table, cell

from .evaluation.settings_search import class_scores_by_size, combinations, rank

SIDES = (320, 480, 640, 800, 960, 1280)


def _run(options: argparse.Namespace) -> None:
    require("--cost", options.cost, 0.0, above=True)
    if options.limit is not None:
        require("--limit", options.limit, 1)
    combined = combinations(sorted(options.sides), options.cost)
    for checkpoint in options.checkpoints:
        class_scores = class_scores_by_size(
            checkpoint, options.data, options.root, options.sides, options.limit
        )
        rows = [
            [" + ".join(map(str, row.sides)), row.score, *(cell(v, ".3f") for v in row[2:])]
            for row in rank(class_scores, combined)[: options.shown]
        ]
        columns = ("sides", "score", "cost", "AP ↑", "FPR95 ↓")
        title = f"{checkpoint} on {options.data}"
        print(Table(columns, rows, title, text_columns=2).markdown())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.choose_settings",
        description="Which sizes and score a checkpoint should be run with.",
    )
    parser.add_argument("checkpoints", nargs="+", help="files, bundled names or repositories")
    parser.add_argument("--data", required=True, help="anomaly data set to choose by")
    parser.add_argument("--root", type=Path, help="its folder (default: the usual places)")
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES))
    parser.add_argument("--cost", type=float, default=1.2, help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="images (default: all)")
    parser.add_argument("--shown", type=int, default=15, help="rows (default: %(default)s)")
    return run_command(parser, _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
