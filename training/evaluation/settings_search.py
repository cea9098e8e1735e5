"""Anomaly scores at many combinations of sizes, to choose a checkpoint's settings by."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mask2kan.checkpoints import load_model
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import FROM_CLASS_SCORES, SCORES
from mask2kan.modeling.settings import InferenceSettings

from ..data import open_anomaly
from ..metrics import AnomalyEvaluator
from .measure import Array, Sample, evenly_spread, measure

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


BySize = dict[int, NDArray[np.float32]]


def class_scores_by_size(
    checkpoint: str, data: str, root: Path | None, sides: Sequence[int], limit: int | None
) -> list[tuple[BySize, Array]]:
    """Class scores (K, h, w) by size, and the label (h, w), of every image.

    Of an image smaller than one of the sizes, also those at its own, which has the key 0.
    """
    model = load_model(checkpoint)
    settings = {side: InferenceSettings(sides=(side,)) for side in sides} | {0: InferenceSettings()}
    predictors = {
        side: Predictor(model, dtype="float32", settings=chosen)
        for side, chosen in settings.items()
    }
    measured: list[tuple[BySize, Array]] = []

    def predict(sample: Sample) -> list[BySize]:
        fitting = [side for side in sides if side <= max(sample.label.shape)]
        if len(fitting) < len(sides):  # as settings have it where none of a combination's fits
            fitting.append(0)
        return [
            {
                side: predictors[side](sample.image).class_scores[:, ::EVERY, ::EVERY].copy()
                for side in fitting
            }
        ]

    def keep(sample: Sample, scores: BySize) -> None:
        measured.append((scores, sample.label[::EVERY, ::EVERY]))

    images = open_anomaly(data, root)
    chosen = evenly_spread(images, limit)
    measure(predict, images, chosen, [[keep]], desc=checkpoint)
    return measured


def rank(
    measured: Sequence[tuple[BySize, Array]], combined: Sequence[tuple[int, ...]]
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
