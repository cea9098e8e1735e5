"""Anomaly scores at many combinations of sizes, to choose a checkpoint's settings."""

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
REFERENCE_AREA = 1280.0**2


class Row(NamedTuple):
    """Figures of one combination."""

    sides: tuple[int, ...]
    score: str
    cost: float
    ap: float
    fpr95: float


def combinations(sides: Sequence[int], cost: float) -> list[tuple[int, ...]]:
    """Combine up to four sizes whose areas sum to at most ``cost`` 1280-pixel views."""
    counts = range(1, MOST_TOGETHER + 1)
    every = itertools.chain(*(itertools.combinations(sides, count) for count in counts))
    return [combination for combination in every if _cost(combination) <= cost]


def _cost(sides: Sequence[int]) -> float:
    return sum(side * side for side in sides) / REFERENCE_AREA


BySize = dict[int, NDArray[np.float32]]


def class_scores_by_size(
    checkpoint: str, data: str, root: Path | None, sides: Sequence[int], limit: int | None
) -> list[tuple[BySize, Array]]:
    """Compute every image's class scores (K, h, w) by size, and read its label (h, w).

    Where an image is smaller than a size, also at its own, under 0.
    """
    model = load_model(checkpoint)
    settings = {side: InferenceSettings(sides=(side,)) for side in sides} | {0: InferenceSettings()}
    predictors = {
        side: Predictor(model, dtype="float32", settings=own) for side, own in settings.items()
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

    def record(sample: Sample, scores: BySize) -> None:
        measured.append((scores, sample.label[::EVERY, ::EVERY]))

    images = open_anomaly(data, root)
    measure(predict, images, evenly_spread(images, limit), [[record]], desc=checkpoint)
    return measured


def rank(
    measured: Sequence[tuple[BySize, Array]], combined: Sequence[tuple[int, ...]]
) -> list[Row]:
    """Measure all combinations and scores, best AP first."""
    rows = []
    for sides in combined:
        evaluators = {score: AnomalyEvaluator() for score in FROM_CLASS_SCORES}
        for scores, label in measured:
            used = [scores[side] for side in sides if side in scores] or [scores[0]]
            mean = torch.from_numpy(np.mean(used, axis=0))
            for score, evaluator in evaluators.items():
                evaluator.update(SCORES[score].compute(mean).numpy(), label)
        for score, evaluator in evaluators.items():
            metrics = evaluator.compute()
            rows.append(Row(sides, score, _cost(sides), metrics["ap"], metrics["fpr95"]))
    return sorted(rows, key=lambda row: -row.ap)
