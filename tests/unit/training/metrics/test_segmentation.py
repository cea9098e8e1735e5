"""Overlap metrics against scikit-learn's Jaccard index."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from mask2kan.errors import ConfigError
from training.metrics import SegmentationEvaluator


def test_overlap_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    evaluator = SegmentationEvaluator(6)
    truths, predictions = [], []
    for _ in range(3):
        label = rng.choice([0, 1, 2, 3, 255], (30, 40)).astype(np.uint8)  # 4 and 5 never occur
        prediction = np.where(rng.random((30, 40)) < 0.6, label % 6, rng.integers(0, 5, (30, 40)))
        evaluator.update(prediction.astype(np.uint8), label)
        truths.append(label[label != 255])
        predictions.append(prediction[label != 255])
    truth, predicted = np.concatenate(truths), np.concatenate(predictions)
    metrics = evaluator.compute()
    expected = jaccard_score(truth, predicted, labels=range(4), average=None)
    assert metrics["iou"][:4] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(metrics["iou"][4:]).all()
    assert metrics["miou"] == pytest.approx(expected.mean(), abs=1e-12)
    assert metrics["pixel_accuracy"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)


def test_bad_input_is_refused() -> None:
    evaluator = SegmentationEvaluator(3)
    with pytest.raises(ConfigError, match="No labelled pixels"):
        evaluator.compute()
    with pytest.raises(ConfigError, match="shape"):
        evaluator.update(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ConfigError, match="0 to 2"):
        evaluator.update(np.full((2, 2), 3), np.zeros((2, 2), int))
    with pytest.raises(ConfigError, match="0 to 2"):
        evaluator.update(np.zeros((2, 2), int), np.full((2, 2), 11))
    with pytest.raises(ConfigError, match="integers"):
        evaluator.update(np.zeros((2, 2)), np.zeros((2, 2), int))
    with pytest.raises(ConfigError, match="num_classes"):
        SegmentationEvaluator(0)
