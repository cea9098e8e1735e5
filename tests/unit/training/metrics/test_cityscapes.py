"""Cityscapes' figures against the data set's own evaluation script, on files it reads itself."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mask2kan.errors import ConfigError
from training.metrics import CityscapesEvaluator
from training.metrics.cityscapes_labels import (
    CATEGORIES,
    LABEL_ID_OF_TRAIN_ID,
    LABELS,
    TRAIN_ID_OF_LABEL_ID,
)

Sample = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int32]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("cityscapesscripts", reason="cityscapesscripts is not installed")
    if not hasattr(np, "in1d"):  # the script calls it; numpy 2.4 has it no more
        monkeypatch.setattr(np, "in1d", lambda a, b: np.isin(a, b).ravel(), raising=False)
    return importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")


def blocks(rng: np.random.Generator, choices: list[int], side: int) -> npt.NDArray[np.int64]:
    """(48, 80) map of squares of one value each."""
    coarse = rng.choice(choices, (48 // side, 80 // side))
    return coarse.repeat(side, 0).repeat(side, 1)


def random_image(
    rng: np.random.Generator, label_ids: list[int], classes: list[int], right: float = 0.5
) -> Sample:
    """Prediction (train ids), label ids, instance ids with single objects and groups."""
    labels = blocks(rng, label_ids, 4)
    # one number per larger square, so that objects have several sizes; 0 stands for a group
    numbers = blocks(rng, [0, 1, 2, 3], 8)
    countable = np.array([label.category in ("human", "vehicle") for label in LABELS])[labels]
    instances = np.where(countable & (numbers > 0), labels * 1000 + numbers, labels)
    truth = TRAIN_ID_OF_LABEL_ID[labels]
    guess = rng.choice(classes, labels.shape)
    prediction = np.where((rng.random(labels.shape) < right) & (truth != 255), truth, guess)
    return prediction.astype(np.uint8), labels.astype(np.uint8), instances.astype(np.int32)


def reference(script: ModuleType, folder: Path, images: list[Sample]) -> Any:
    """What the script answers for the images, written as files."""
    predictions, truths = [], []
    ids = np.zeros(256, np.uint8)  # void is stored as 0, "unlabeled"
    ids[: len(LABEL_ID_OF_TRAIN_ID)] = LABEL_ID_OF_TRAIN_ID
    for index, (prediction, labels, instances) in enumerate(images):
        predictions.append(str(folder / f"{index}_pred.png"))
        truths.append(str(folder / f"{index}_gtFine_labelIds.png"))
        Image.fromarray(ids[prediction]).save(predictions[-1])
        Image.fromarray(labels).save(truths[-1])
        Image.fromarray(instances.astype(np.uint16)).save(
            truths[-1].replace("labelIds", "instanceIds")
        )
    script.args.quiet, script.args.JSONOutput = True, False
    with contextlib.redirect_stdout(io.StringIO()):
        return script.evaluateImgLists(predictions, truths, script.args)


def assert_same(metrics: dict[str, object], expected: dict[str, object]) -> None:
    """Every figure equal; what the script calls NaN is None. 1e-12: sums in another order."""
    for ours, theirs in (
        ("iou_per_class", "classScores"),
        ("iiou_per_class", "classInstScores"),
        ("iou_per_category", "categoryScores"),
        ("iiou_per_category", "categoryInstScores"),
    ):
        mine, reference_scores = metrics[ours], expected[theirs]
        assert isinstance(mine, dict)
        assert isinstance(reference_scores, dict)
        for name, score in reference_scores.items():
            if math.isnan(score):
                assert mine.get(name) is None, (ours, name)
            else:
                assert mine[name] == pytest.approx(score, abs=1e-12), (ours, name)
    for ours, theirs in (
        ("iou", "averageScoreClasses"),
        ("iiou", "averageScoreInstClasses"),
        ("category_iou", "averageScoreCategories"),
        ("category_iiou", "averageScoreInstCategories"),
    ):
        value = expected[theirs]
        assert isinstance(value, float)
        assert metrics[ours] == (None if math.isnan(value) else pytest.approx(value, abs=1e-12)), (
            ours
        )


EVERY_ID, EVERY_CLASS = list(range(34)), list(range(19))


@pytest.mark.parametrize(
    ("label_ids", "classes"),
    [
        pytest.param(EVERY_ID, EVERY_CLASS, id="everything"),
        pytest.param(EVERY_ID, [*EVERY_CLASS, 255], id="void predicted"),
        pytest.param([7, 8, 26, 24], [0, 1, 11, 13, 14], id="most classes absent"),
        pytest.param([0, 4, 7, 11, 23], EVERY_CLASS, id="no objects, but claimed"),
        pytest.param([0, 7, 11], [0, 2], id="no objects anywhere"),
        pytest.param([26, 27, 29, 30, 25], [12, 13, 14], id="caravans and trailers"),
    ],
)
def test_figures_equal_the_script(
    script: ModuleType, tmp_path: Path, label_ids: list[int], classes: list[int]
) -> None:
    rng = np.random.default_rng(len(label_ids) * 100 + len(classes))
    images = [random_image(rng, label_ids, classes) for _ in range(3)]
    evaluator = CityscapesEvaluator()
    for image in images:
        evaluator.update(*image)
    assert_same(evaluator.compute(), reference(script, tmp_path, images))


def test_labels_equal_the_script(script: ModuleType) -> None:
    theirs = {label.id: label for label in script.labels if label.id >= 0}
    assert sorted(theirs) == list(range(len(LABELS)))
    for label_id, label in enumerate(LABELS):
        other = theirs[label_id]
        assert label == (other.name, other.category)
        assert label.train_id == other.trainId == TRAIN_ID_OF_LABEL_ID[label_id]
        assert label.evaluated is not other.ignoreInEval
    assert (TRAIN_ID_OF_LABEL_ID[len(LABELS) :] == 255).all()
    assert set(CATEGORIES) == set(script.category2labels) - {"void"}


def test_small_and_large_objects_weigh_the_same() -> None:
    labels = np.full((4, 25), 26, np.uint8)
    instances = np.full((4, 25), 26001)
    instances[0, :4] = 26002
    prediction = np.full((4, 25), 13)
    prediction[0, :4] = 15  # the small car is called a bus
    evaluator = CityscapesEvaluator()
    evaluator.update(prediction, labels, instances)
    metrics = evaluator.compute()
    assert metrics["iou"] == 0.96 / 2  # the bus claimed wrongly has 0
    assert metrics["iou_per_class"]["car"] == 0.96
    assert metrics["iiou_per_class"]["car"] == 0.5
    assert metrics["category_iou"] == metrics["category_iiou"] == 1.0


def test_more_images_may_follow_a_result() -> None:
    rng = np.random.default_rng(1)
    images = [random_image(rng, EVERY_ID, EVERY_CLASS) for _ in range(4)]
    in_steps, at_once = CityscapesEvaluator(), CityscapesEvaluator()
    for image in images:
        in_steps.update(*image)
        assert in_steps.compute() == in_steps.compute()
        at_once.update(*image)
    assert in_steps.compute() == at_once.compute()


@pytest.mark.parametrize(
    ("prediction", "labels", "instances", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), np.zeros((2, 3), int), "shapes"),
        (np.zeros(6, int), np.zeros(6, int), np.zeros(6, int), r"\(H, W\)"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), np.zeros((2, 2), int), "integers"),
        (np.full((2, 2), 19), np.full((2, 2), 7), np.full((2, 2), 7), r"\[19\].*train ids"),
        (np.full((2, 2), -1), np.full((2, 2), 7), np.full((2, 2), 7), r"\[-1\]"),
        (np.zeros((2, 2), int), np.full((2, 2), 255), np.full((2, 2), 7), "255.*0 to 33"),
        (np.zeros((2, 2), int), np.full((2, 2), 7), np.full((2, 2), 34001), "33999"),
        (np.zeros((2, 2), int), np.full((2, 2), 7), np.full((2, 2), 7001), "7001.*person"),
    ],
)
def test_unusable_images_are_refused(
    prediction: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    instances: npt.NDArray[np.int64],
    message: str,
) -> None:
    evaluator = CityscapesEvaluator()
    with pytest.raises(ConfigError, match=message):
        evaluator.update(prediction, labels, instances)
    with pytest.raises(ConfigError, match="No labelled pixels"):
        evaluator.compute()
