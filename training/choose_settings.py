"""``python -m training.choose_settings``: which sizes and score a checkpoint should be run with.

    python -m training.choose_settings mask2kan_road mask2former_road --data fishyscapes_static

Class scores of every picture are computed once per size, on every fourth pixel of every fourth
row, and then averaged over combinations of sizes that cost at most ``--cost`` times one look at
1280×720. The table has AP and FPR95 of every score made of class scores, best AP first: to choose
by, on sets that nothing else is measured on. What is chosen is written into ``InferenceSettings``
by hand: how much smoothing and how small a region a page should show is a matter of taste as well.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mask2kan.checkpoints import load_model
from mask2kan.checks import require
from mask2kan.errors import Mask2KANError
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import FROM_CLASS_SCORES, SCORES
from mask2kan.modeling.settings import InferenceSettings

from .data import open_anomaly
from .evaluation.measure import evenly_spread
from .metrics import AnomalyEvaluator
from .reporting.tables import Cell, Table, markdown

SIDES = (320, 480, 640, 800, 960, 1280)
EVERY = 4  # pixels and rows
MOST_TOGETHER = 4  # sizes
ONE_LOOK = 1280.0**2


class Row(NamedTuple):
    """Figures of one combination."""

    sides: tuple[int, ...]
    score: str
    cost: float
    ap: float
    fpr95: float


def combinations(sides: Sequence[int], cost: float) -> list[tuple[int, ...]]:
    """Up to four sizes whose areas add up to at most ``cost`` times that of 1280×720."""
    found = [
        chosen
        for count in range(1, MOST_TOGETHER + 1)
        for chosen in itertools.combinations(sides, count)
    ]
    return [chosen for chosen in found if _cost(chosen) <= cost]


def _cost(sides: Sequence[int]) -> float:
    return sum(side * side for side in sides) / ONE_LOOK


def measure(
    checkpoint: str, data: str, root: Path | None, sides: Sequence[int], limit: int | None
) -> Iterator[tuple[dict[int, NDArray[np.float32]], NDArray[np.uint8]]]:
    """Class scores (K, h, w) by size, and the label (h, w), of every picture.

    Of a picture smaller than one of the sizes, also those at its own, which has the key 0.
    """
    model = load_model(checkpoint)
    predictors = {
        side: Predictor(model, dtype="float32", settings=InferenceSettings(sides=(side,)))
        for side in sides
    }
    own = Predictor(model, dtype="float32", settings=InferenceSettings())
    pictures = open_anomaly(data, root)
    for index in tqdm(evenly_spread(pictures, limit), unit="picture", desc=checkpoint):
        picture, label = pictures.arrays(index)
        scores = {
            side: predictor(picture).class_scores[:, ::EVERY, ::EVERY].copy()
            for side, predictor in predictors.items()
            if side <= max(label.shape)
        }
        if len(scores) < len(sides):  # as settings have it where none of a combination's fits
            scores[0] = own(picture).class_scores[:, ::EVERY, ::EVERY].copy()
        yield scores, label[::EVERY, ::EVERY]


def rank(
    measured: Sequence[tuple[dict[int, NDArray[np.float32]], NDArray[np.uint8]]],
    combined: Sequence[tuple[int, ...]],
) -> list[Row]:
    """All combinations and scores, best AP first."""
    rows = []
    for sides in combined:
        evaluators = {score: AnomalyEvaluator() for score in FROM_CLASS_SCORES}
        for scores, label in measured:
            used = [scores[side] for side in sides if side in scores] or [scores[0]]
            mean = torch.from_numpy(np.mean(used, axis=0))
            for score, evaluator in evaluators.items():
                evaluator.update(SCORES[score].compute(mean).numpy(), label)
        for score, evaluator in evaluators.items():
            found = evaluator.compute()
            rows.append(Row(sides, score, _cost(sides), found["ap"], found["fpr95"]))
    return sorted(rows, key=lambda row: -row.ap)


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
    parser.add_argument("--limit", type=int, help="pictures (default: all)")
    parser.add_argument("--shown", type=int, default=15, help="rows (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        require("--cost", options.cost, 0.0, above=True)
        if options.limit is not None:
            require("--limit", options.limit, 1)
        combined = combinations(sorted(options.sides), options.cost)
        for checkpoint in options.checkpoints:
            found = measure(checkpoint, options.data, options.root, options.sides, options.limit)
            rows = [
                [
                    Cell(" + ".join(map(str, row.sides))),
                    Cell(row.score),
                    *(Cell(f"{value:.3f}") for value in row[2:]),
                ]
                for row in rank(list(found), combined)[: options.shown]
            ]
            columns = ("sides", "score", "cost", "AP ↑", "FPR95 ↓")
            title = f"{checkpoint} on {options.data}"
            print(markdown(Table(title, "", "", columns, rows, text_columns=2)))
    except (Mask2KANError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
