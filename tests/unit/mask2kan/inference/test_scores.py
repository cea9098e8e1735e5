"""Each published score against its formula, ranges, thresholds, regions."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, special, stats

from mask2kan.errors import ConfigError
from mask2kan.inference.scores import (
    FROM_CLASS_SCORES,
    SCORES,
    anomalous_regions,
    default_threshold,
    entropy,
    refining_queries,
    score_range,
)
from mask2kan.modeling.classes import CAMVID, CITYSCAPES


@pytest.fixture
def class_scores():
    return torch.rand(19, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_formulas(class_scores):
    s = class_scores.numpy()
    expected = {
        "msp": 1 - s.max(0),
        "entropy": stats.entropy(s, axis=0) / np.log(19),
        "energy": -special.logsumexp(s, axis=0),
        "rba": -np.tanh(s).sum(0),
    }
    assert set(expected) == set(FROM_CLASS_SCORES)
    for score, values in expected.items():
        np.testing.assert_allclose(SCORES[score].compute(class_scores), values, atol=1e-12)


def test_msp_is_not_clipped():
    assert SCORES["msp"].compute(torch.tensor([1.7, 0.1])) == pytest.approx(-0.7)


def test_entropy_at_its_ends():
    assert entropy(torch.zeros(5, 2)).tolist() == [1, 1]
    assert entropy(torch.tensor([1.0, 0, 0, 0])) == 0
    assert entropy(torch.full((4,), 1e-30)) == pytest.approx(1)
    assert entropy(torch.tensor([0.7])).item() == 0  # one class: no doubt, no division by log 1


@pytest.mark.parametrize("classes", [2, 11, 19])
@pytest.mark.parametrize("score", FROM_CLASS_SCORES)
def test_nominal_ranges_are_reached_by_certainty_and_by_nothing(score, classes):
    low, high = SCORES[score].nominal_range(classes)
    certain = torch.nn.functional.one_hot(torch.tensor(1), classes).double()
    assert SCORES[score].compute(certain).item() == pytest.approx(low)
    assert SCORES[score].compute(torch.zeros(classes).double()).item() == pytest.approx(high)


def test_range_and_threshold_with_and_without_calibration():
    calibration = {"msp": {"range": [0.1, 0.9], "fpr05": 0.4, "tpr95": 0.2, "best_f1": 0.5}}
    assert score_range(calibration, "msp", 19) == (0.1, 0.9, True)
    assert default_threshold(calibration, "msp", 19) == (0.4, "fpr05")
    assert score_range(calibration, "eam", 19) == (0.0, 1.0, False)
    assert default_threshold({}, "eam", 19) == (0.5, "middle of the range")
    low, high, calibrated = score_range({}, "energy", 19)
    assert (low, high) == (-math.log(18 + math.e), -math.log(19))
    assert not calibrated
    with pytest.raises(ConfigError, match="Nearest: msp"):
        score_range({}, "mps", 19)
    assert tuple(SCORES) == ("msp", "entropy", "energy", "rba", "eam")


def test_refining_queries_are_certain_background():
    names = tuple(CITYSCAPES)
    probabilities = torch.full((5, 20), 0.001)
    for query, (label, value) in enumerate(
        [(10, 0.99), (2, 0.96), (2, 0.94), (0, 0.99), (13, 0.99)]
    ):
        probabilities[query, label] = value
    queries, certainty = refining_queries(probabilities, names)
    assert queries.tolist() == [0, 1]
    assert certainty.tolist() == pytest.approx([0.99, 0.96])
    assert refining_queries(probabilities[1:], names) is None
    # Mask2Anomaly keeps Cityscapes' classes 2 to 10
    sure = torch.eye(20)[:19]
    assert refining_queries(sure, names)[0].tolist() == list(range(2, 11))
    assert len(refining_queries(torch.eye(12)[:11], tuple(CAMVID))[0]) == 6
    with pytest.raises(ConfigError, match="Turn it off"):
        refining_queries(probabilities, tuple(f"class_{i}" for i in range(19)))


def test_regions_are_eight_connected_and_filtered_by_size():
    mask = np.random.default_rng(0).random((60, 80)) > 0.75
    labels, number = anomalous_regions(mask)
    expected, count = ndimage.label(mask, structure=np.ones((3, 3)))
    np.testing.assert_array_equal(labels, expected)
    assert number == count
    labels, number = anomalous_regions(mask, min_pixels=4)
    sizes = np.bincount(expected.ravel())[1:]
    assert number == (sizes >= 4).sum()
    assert np.bincount(labels.ravel())[1:].min() >= 4
    np.testing.assert_array_equal(labels > 0, np.isin(expected, 1 + np.flatnonzero(sizes >= 4)))
    assert anomalous_regions(np.zeros((3, 3), bool))[1] == 0
