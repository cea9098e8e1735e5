"""The one loop that measures: every chosen image is predicted and handed to meters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mask2kan.inference.comparison import Comparison
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import SCORES

from ..data import AnomalyImages, LabelledImages
from ..data.label_space import coarse_classes, plain_labels, require_classes
from ..metrics import AnomalyEvaluator, SegmentationEvaluator
from ..metrics.pixel import ANOMALY, KNOWN, VOID

SHOWN = 3  # best and worst images shown beside a result

P = TypeVar("P")  # what stands for a prediction
Array = NDArray[np.uint8]
Images = LabelledImages | AnomalyImages


@dataclasses.dataclass(frozen=True)
class Sample:
    """A data set's image (H, W, 3) and label (H, W)."""

    index: int
    name: str
    image: Array
    label: Array


Meter = Callable[[Sample, P], None]


def measure(
    predict: Callable[[Sample], Iterable[P]],
    images: Images,
    chosen: Iterable[int],
    meters: Sequence[Sequence[Meter[P]]],
    *,
    stop: Callable[[], bool] = lambda: False,
    **bar: Any,
) -> bool:
    """Predict every chosen image and hand each prediction, with the truth, to its model's meters.

    ``predict`` gives one prediction per model (see ``predictions_of``); ``stop`` is asked before
    every image; ``bar`` are options of ``tqdm``.

    Returns:
        Whether all images were measured.
    """
    for index in tqdm(chosen, unit="image", **bar):
        if stop():
            return False
        sample = Sample(index, images.names[index], *images.arrays(index))
        for prediction, own in zip(predict(sample), meters, strict=True):
            for meter in own:
                meter(sample, prediction)
    return True


def predictions_of(
    together: Comparison, scores: Collection[str] = ()
) -> Callable[[Sample], list[Prediction]]:
    """Make ``measure``'s ``predict`` of models; the anomaly ``scores`` are computed in one pass."""

    def predict(sample: Sample) -> list[Prediction]:
        predictions = together(sample.image)
        if scores:
            for prediction in predictions:
                prediction.prepare(scores)
        return predictions

    return predict


def evenly_spread(images: Images, limit: int | None) -> list[int]:
    """Return indices of at most ``limit`` images, first to last; None for all."""
    count = len(images.names)
    spread = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    return [int(index) for index in spread]


class ClassMeter(Generic[P]):
    """Overlap of a class map with the truth; labels that are no single class count as void.

    ``class_map`` gives a prediction's (H, W) in ``class_names``.
    """

    def __init__(self, class_names: Sequence[str], class_map: Callable[[P], Array]) -> None:
        self.class_names = tuple(class_names)
        self.evaluator = SegmentationEvaluator(len(self.class_names))
        self._class_map = class_map

    def __call__(self, sample: Sample, prediction: P) -> None:
        """Count one image."""
        label = plain_labels(sample.label, len(self.class_names))
        self.evaluator.update(self._class_map(prediction), label)

    def compute(self) -> dict[str, Any]:
        """Return ``miou``, ``pixel_accuracy``, ``iou_per_class`` (None where absent)."""
        figures = self.evaluator.compute()
        iou = [None if np.isnan(value) else value for value in figures["iou"]]
        return {
            "miou": figures["miou"],
            "pixel_accuracy": figures["pixel_accuracy"],
            "iou_per_class": dict(zip(self.class_names, iou, strict=True)),
        }

    def own_miou(self, sample: Sample, prediction: P) -> float:
        """MIoU of one image alone, NaN where it is all void."""
        alone = ClassMeter(self.class_names, self._class_map)
        alone(sample, prediction)
        return alone.compute()["miou"] if alone.evaluator.confusion.any() else float("nan")


def class_meter(images: LabelledImages, model: Any) -> ClassMeter[Prediction]:
    """Make a meter of a model's class maps, in the data set's classes.

    Where these are coarser, the class whose members' scores add up to most wins.

    Raises:
        ConfigError: when the model's classes are others.
    """
    advice = "Measure it on data of its own classes."
    require_classes(model.class_names, images.class_names, advice=advice)
    coarser = coarse_classes(tuple(model.class_names), tuple(images.class_names))
    if coarser is None:
        return ClassMeter(images.class_names, lambda prediction: prediction.semantic)
    return ClassMeter(images.class_names, lambda prediction: coarser(prediction.class_scores))


class ScoreMeter(Generic[P]):
    """Anomaly scores, with all pixels of all images ranked together.

    ``read`` gives a prediction's (H, W) by the score's name; ``options`` are
    ``AnomalyEvaluator``'s.
    """

    def __init__(
        self,
        read: Callable[[P, str], NDArray[np.float32]],
        scores: Collection[str] = SCORES,
        **options: Any,
    ) -> None:
        self.evaluators = {score: AnomalyEvaluator(**options) for score in scores}
        self._read = read
        self._images = self._anomalous = self._valid = 0

    def __call__(self, sample: Sample, prediction: P) -> None:
        """Rank pixels labelled 0 known, 1 anomaly, 255 void."""
        for score, evaluator in self.evaluators.items():
            evaluator.update(self._read(prediction, score), sample.label)
        valid = int((sample.label != VOID).sum())
        self._images += valid > 0
        self._anomalous += int((sample.label == ANOMALY).sum())
        self._valid += valid

    def about(self) -> dict[str, Any]:
        """Return the number of images that count, and the anomalous share of their valid pixels.

        Returns:
            ``pictures``, without those that are void everywhere, and ``prevalence``.
        """
        return {"pictures": self._images, "prevalence": self._anomalous / max(self._valid, 1)}


def measure_scores(
    predictor: Predictor,
    images: Images,
    *,
    scores: Collection[str] = SCORES,
    limit: int | None = None,
    smoothed: bool = False,
    beside: Sequence[Meter[Prediction]] = (),
) -> ScoreMeter[Prediction]:
    """Measure anomaly scores of one model over at most ``limit`` images.

    ``smoothed`` measures the map that thresholds apply to; ``beside`` are further meters.
    """
    meter = ScoreMeter(Prediction.anomaly_map if smoothed else Prediction.anomaly, scores)
    predict = predictions_of(Comparison(predictor), scores)
    measure(predict, images, evenly_spread(images, limit), [[meter, *beside]])
    return meter


def own_ap(score: NDArray[np.float32], label: Array) -> float:
    """AP of one image alone, NaN where it lacks either kind of pixels."""
    if not {KNOWN, ANOMALY} <= set(np.unique(label).tolist()):
        return float("nan")
    alone = AnomalyEvaluator()
    alone.update(score, label)
    return float(alone.compute()["ap"])


class Extremes(Generic[P]):
    """Remembers every image's own ``quality`` (NaN for none), to show the best and the worst.

    ``draw``, such as ``SideImages``, is called for every image as well.
    """

    def __init__(
        self,
        quality: Callable[[Sample, P], float],
        draw: Callable[[str, P, Array, float], None] | None = None,
    ) -> None:
        self._quality = quality
        self._draw = draw
        self._figures: list[tuple[float, int]] = []

    def __call__(self, sample: Sample, prediction: P) -> None:
        """Take one image."""
        quality = self._quality(sample, prediction)
        if not np.isnan(quality):
            self._figures.append((quality, sample.index))
        if self._draw is not None:
            self._draw(sample.name, prediction, sample.label, quality)

    def show(
        self,
        images: Images,
        predictor: Predictor,
        draw: Callable[[str, Prediction, Array, float], None],
    ) -> None:
        """Draw the worst and the best images, at most ``SHOWN`` of each."""
        ordered = sorted(self._figures)
        if len(ordered) > 2 * SHOWN:
            ordered = [*ordered[:SHOWN], *ordered[-SHOWN:]]
        for quality, index in ordered:
            image, label = images.arrays(index)
            draw(images.names[index], predictor(image), label, quality)
