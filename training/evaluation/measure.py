"""Figures of one model over the pictures of a data set, and which pictures were its best and worst.

``training.evaluate`` and ``training.calibrate`` are commands around these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import SCORES
from mask2kan.outputs.results import MIN_REGION_PIXELS

from ..data import LabelledPictures
from ..data.label_space import coarse_classes, plain_labels
from ..data.sets.cityscapes import Cityscapes
from ..metrics import AnomalyEvaluator, SegmentationEvaluator
from ..metrics.cityscapes import CityscapesEvaluator
from ..metrics.pixel import ANOMALY, VOID
from ..metrics.regions import RegionCounter

BENCHMARK_FIGURES = ("iou", "iiou", "category_iou", "category_iiou")

Watcher = Callable[[str, Prediction, NDArray[np.uint8], float], None]


class Pictures(Protocol):
    """What is asked of a data set: names, and picture and label by index."""

    names: list[str]

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) RGB and its label (H, W)."""
        ...


def evaluate_segmentation(
    predictor: Predictor,
    pictures: LabelledPictures,
    *,
    limit: int | None = None,
    watch: Watcher | None = None,
) -> tuple[dict[str, Any], SegmentationEvaluator]:
    """Overlap of the predicted class map with the truth.

    Where the data set's classes are coarser than the model's (see ``classes.meanings_of``), a
    pixel's class is that whose members' class scores add up to the most.

    Args:
        predictor: of a model with the data set's classes, or finer ones.
        pictures: with labels as in ``training.data.label_space``; what is no single class counts
            as void.
        limit: use only that many pictures, evenly spread.
        watch: called per picture with its name, prediction, label and own mIoU.

    Returns:
        ``pictures`` (how many), ``miou``, ``pixel_accuracy``, ``iou_per_class`` (None where the
        class does not occur), on Cityscapes also ``iou``, ``iiou``, ``category_iou``,
        ``category_iiou``; and what counted the pixels.
    """
    names = tuple(pictures.class_names)
    coarser = coarse_classes(tuple(cast(Any, predictor.model).class_names), names)
    evaluator = SegmentationEvaluator(len(names))
    benchmark = CityscapesEvaluator() if isinstance(pictures, Cityscapes) else None
    chosen = evenly_spread(pictures, limit)
    for index in tqdm(chosen, unit="picture"):
        picture, label = pictures.arrays(index)
        label = plain_labels(label, len(names))
        prediction = predictor(picture)
        semantic = prediction.semantic if coarser is None else coarser(prediction.class_scores)
        evaluator.update(semantic, label)
        if benchmark is not None and isinstance(pictures, Cityscapes):
            ids = pictures.label_ids(index), pictures.instance_ids(index)
            benchmark.update(prediction.semantic, *ids)
        if watch is not None:
            watch(pictures.names[index], prediction, label, _own_miou(semantic, label, len(names)))
    found = evaluator.compute()
    iou = [None if np.isnan(value) else value for value in found["iou"]]
    result = {
        "pictures": len(chosen),
        "miou": found["miou"],
        "pixel_accuracy": found["pixel_accuracy"],
        "iou_per_class": dict(zip(names, iou, strict=True)),
    }
    if benchmark is not None:
        figures = benchmark.compute()
        result |= {name: figures[name] for name in BENCHMARK_FIGURES}
    return result, evaluator


def _own_miou(semantic: NDArray[np.uint8], label: NDArray[np.uint8], num_classes: int) -> float:
    alone = SegmentationEvaluator(num_classes)
    alone.update(semantic, label)
    return float(alone.compute()["miou"]) if (label != VOID).any() else float("nan")


def collect_anomaly_scores(
    predictor: Predictor,
    pictures: Pictures,
    *,
    limit: int | None = None,
    watch: Watcher | None = None,
    watched_score: str = "msp",
    smoothed: bool = False,
) -> tuple[dict[str, AnomalyEvaluator], dict[str, Any]]:
    """Every anomaly score of every picture, one model run per picture.

    Args:
        predictor: of any model.
        pictures: with labels 0 known, 1 anomaly, 255 void.
        limit: use only that many pictures, evenly spread.
        watch: called per picture with its name, prediction, label and own AP.
        watched_score: the score of that AP.
        smoothed: measure the map that thresholds are applied to, not the plain score.

    Returns:
        One evaluator per score, and ``pictures`` (how many) with ``prevalence``, the share of
        anomalous pixels among the valid ones; of a calibrated model also ``regions``, at the
        threshold of the settings' score (see ``training.metrics.regions``).
    """
    evaluators = {score: AnomalyEvaluator() for score in SCORES}
    chosen = evenly_spread(pictures, limit)
    anomalous = valid = 0
    counter = RegionCounter()
    shown = predictor.settings.score
    calibrated = bool(getattr(predictor.model, "calibration", {}).get(shown))
    for index in tqdm(chosen, unit="picture"):
        picture, label = pictures.arrays(index)
        prediction = predictor(picture)
        prediction.prepare(SCORES)
        for score, evaluator in evaluators.items():
            values = prediction.anomaly_map(score) if smoothed else prediction.anomaly(score)
            evaluator.update(values, label)
        if calibrated:
            threshold, _ = prediction.default_threshold(shown)
            reported = prediction.anomaly_map(shown) >= threshold
            counter.update(reported, label, prediction.smallest_region(MIN_REGION_PIXELS))
        anomalous += int((label == ANOMALY).sum())
        valid += int((label != VOID).sum())
        if watch is not None:
            quality = own_ap(prediction.anomaly(watched_score), label)
            watch(pictures.names[index], prediction, label, quality)
    about: dict[str, Any] = {
        "pictures": len(chosen),
        "prevalence": anomalous / max(valid, 1),
        "settings": predictor.settings.to_dict(),
    }
    if calibrated:
        about["regions"] = counter.compute()
    return evaluators, about


def evenly_spread(pictures: Pictures, limit: int | None) -> list[int]:
    """Indices of at most ``limit`` pictures, from the first to the last; None for all."""
    count = len(pictures.names)
    spread = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    return [int(index) for index in spread]


def own_ap(score: NDArray[np.float32], label: NDArray[np.uint8]) -> float:
    """AP of one picture alone, NaN where it has not both kinds of pixels."""
    if not {0, ANOMALY} <= set(np.unique(label).tolist()):
        return float("nan")
    alone = AnomalyEvaluator()
    alone.update(score, label)
    return float(alone.compute()["ap"])


class Extremes:
    """Remembers every picture's own figure, to show the best and the worst.

    Args:
        watch: called for every picture as well.
    """

    def __init__(self, watch: Watcher | None = None) -> None:
        self._watch = watch
        self._found: list[tuple[float, str]] = []

    def __call__(
        self, name: str, prediction: Prediction, label: NDArray[np.uint8], quality: float
    ) -> None:
        """Take one picture; see ``Watcher``."""
        if not np.isnan(quality):
            self._found.append((quality, name))
        if self._watch is not None:
            self._watch(name, prediction, label, quality)

    def chosen(self, count: int) -> list[tuple[str, float]]:
        """The worst and the best pictures, at most ``count`` of each, with their figure."""
        ordered = sorted(self._found)
        kept = ordered if len(ordered) <= 2 * count else [*ordered[:count], *ordered[-count:]]
        return [(name, quality) for quality, name in kept]
