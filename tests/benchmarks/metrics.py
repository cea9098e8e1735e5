"""How long the metrics take and what memory they need, AP, AUROC and FPR95 against scikit-learn.

    PYTHONPATH=. python tests/benchmarks/metrics.py
    PYTHONPATH=. python tests/benchmarks/metrics.py --repeats 5 --json metrics.json

First table: AP, AUROC and FPR95 of ten images of a megapixel, adding the images included; the
peer is scikit-learn on the same pixels joined into one array, computing the same three. Second
table: milliseconds per image of 1024 x 2048 for every evaluator, to add it and its share of
``compute``. Third table: peak memory of a process above what it held before, while ever more
images are made one by one and ranked.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator

import measure
import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from training.metrics import AnomalyEvaluator, CityscapesEvaluator, SegmentationEvaluator
from training.metrics.cityscapes_labels import LABEL_ID_OF_TRAIN_ID

SIDE = 1000
IMAGES = 10
CITYSCAPES = (1024, 2048)
Image = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


def images(count: int, shape: tuple[int, int], ties: bool) -> Iterator[Image]:
    """Scores in [0, 1], smooth and noisy, with anomalous rectangles and a void border."""
    height, width = shape
    for seed in range(count):
        rng = np.random.default_rng(seed)
        label = np.zeros(shape, np.uint8)
        for _ in range(6):
            top, left = rng.integers(0, height), rng.integers(0, width)
            label[top : top + height // 6, left : left + width // 6] = 1
        label[: height // 20] = 255
        coarse = rng.normal(size=(height // 16 + 1, width // 16 + 1))
        smooth = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
        score = 1 / (1 + np.exp(-(smooth + 0.3 * rng.normal(size=shape) + 2 * (label == 1))))
        yield (np.round(score, 2) if ties else score).astype(np.float32), label


def ours(frames: list[Image]) -> tuple[float, ...]:
    """The three figures by this project."""
    evaluator = AnomalyEvaluator("exact")
    for score, label in frames:
        evaluator.update(score, label)
    found = evaluator.compute()
    return found["ap"], found["auroc"], found["fpr95"]


def scikit_learn(frames: list[Image]) -> tuple[float, ...]:
    """The same three by scikit-learn; FPR95 on the straight line between the ROC's points."""
    score = np.concatenate([score[label != 255] for score, label in frames])
    label = np.concatenate([label[label != 255] for _, label in frames])
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    at = int(np.argmax(tpr >= 0.95))
    fpr95 = float(np.interp(0.95, tpr[at - 1 : at + 1], fpr[at - 1 : at + 1]))
    return average_precision_score(label, score), roc_auc_score(label, score), fpr95


def ranking_rows(repeats: int) -> list[measure.Row]:
    """One row per kind of scores."""
    table: list[measure.Row] = []
    for ties in (False, True):
        frames = list(images(IMAGES, (SIDE, SIDE), ties))
        calls = {
            "ours": functools.partial(ours, frames),
            "sklearn": functools.partial(scikit_learn, frames),
        }
        pairs = zip(*(call() for call in calls.values()), strict=True)
        apart = max(abs(a - b) for a, b in pairs)
        times = measure.by_turns(calls, repeats)
        table.append(
            {
                "scores": "101 values" if ties else "float32",
                "pixels": sum(int((label != 255).sum()) for _, label in frames),
                "ours s": statistics.median(times["ours"]),
                "scikit-learn s": statistics.median(times["sklearn"]),
                "speed-up": measure.ratio(times["sklearn"], times["ours"]),
                "largest difference": apart,
            }
        )
    return table


def ours_in_turn(count: int) -> Callable[[], object]:
    """The evaluation of images that are made one by one, as a model would."""

    def call() -> object:
        evaluator = AnomalyEvaluator("exact", "anomaly")
        for score, label in images(count, (SIDE, SIDE), ties=False):
            evaluator.update(score, label)
        return evaluator.compute()

    return call


def sklearn_in_turn(count: int) -> Callable[[], object]:
    """The same images by scikit-learn, which needs them all."""
    return lambda: scikit_learn(list(images(count, (SIDE, SIDE), ties=False)))


def memory_rows() -> list[measure.Row]:
    """Peak above what the process held before, by number of images."""
    table: list[measure.Row] = []
    for count in (IMAGES // 2, 2 * IMAGES):
        row: measure.Row = {"pictures": count}
        row["ours MB"] = measure.peak_megabytes(functools.partial(ours_in_turn, count))["call_mb"]
        if count < IMAGES:  # it would take minutes
            peer = measure.peak_megabytes(functools.partial(sklearn_in_turn, count))
            row["scikit-learn MB"] = peer["call_mb"]
        table.append(row)
    return table


def cityscapes_image() -> tuple[npt.NDArray[np.int64], ...]:
    """Prediction, label ids and instance ids of blocks, some fifty of them objects."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 19, (16, 32)).repeat(64, 0).repeat(64, 1)
    prediction = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(0, 19, truth.shape))
    label_ids = LABEL_ID_OF_TRAIN_ID[truth].astype(np.int64)
    number = np.arange(16 * 32).reshape(16, 32).repeat(64, 0).repeat(64, 1)
    instances = np.where(truth >= 11, label_ids * 1000 + 1 + number % 50, label_ids)
    return prediction, label_ids, instances


def seconds_per_image(evaluator, image, count: int) -> dict[str, float]:
    """Milliseconds to add an image, and of ``compute`` divided by the images."""
    added = measure.by_turns({"update": lambda: evaluator.update(*image)}, count - 1)["update"]
    computed = measure.by_turns({"compute": evaluator.compute}, 3)["compute"]
    return {
        "update ms": 1e3 * statistics.median(added),
        "compute ms": 1e3 * statistics.median(computed) / count,
    }


def evaluator_rows(count: int) -> list[measure.Row]:
    """One row per evaluator, all on images of Cityscapes' size."""
    score, label = next(images(1, CITYSCAPES, ties=False))
    city = cityscapes_image()
    cases = {
        "exact": (AnomalyEvaluator("exact"), (score, label)),
        "exact, anomaly track": (AnomalyEvaluator("exact", "anomaly"), (score, label)),
        "smiyc": (AnomalyEvaluator("smiyc"), (score, label)),
        "smiyc, anomaly track": (AnomalyEvaluator("smiyc", "anomaly"), (score, label)),
        "segmentation": (SegmentationEvaluator(19), (city[0].astype(np.uint8), city[0])),
        "Cityscapes": (CityscapesEvaluator(), city),
    }
    return [
        {"evaluator": name, **seconds_per_image(evaluator, image, count)}
        for name, (evaluator, image) in cases.items()
    ]


def main() -> None:
    """Print the three tables."""
    parser = measure.parser(__doc__, 3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts = measure.about(arguments.threads)
    ranking = ranking_rows(arguments.repeats)
    measure.show(ranking, facts)
    evaluators = evaluator_rows(8)
    measure.show(evaluators, {"pictures": CITYSCAPES})
    memory = memory_rows()
    measure.show(memory)
    measure.write(
        {"ranking": ranking, "evaluators": evaluators, "memory": memory}, facts, arguments.json
    )


if __name__ == "__main__":
    main()
