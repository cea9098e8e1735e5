"""Figures of an analysis against its truth: scikit-learn's, the training metrics', and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from mask2kan.errors import ConfigError
from mask2kan.inference.prediction import Prediction
from mask2kan.outputs.regions import find_regions
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.truth import (
    count_false_regions,
    count_objects,
    mask_quality,
    ranking,
    truth_figures,
)
from training.metrics import AnomalyEvaluator

VALUES = np.array([0, 0, 0, 1, 255], np.uint8)


def test_quality_is_scikit_learns() -> None:
    random = np.random.default_rng(3)
    truth = random.choice(VALUES, (60, 90))
    valid = truth != 255
    for share in (0, 0.1, 0.5, 1):
        mask = random.random(truth.shape) < share
        quality = mask_quality(mask, truth)
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth[valid] == 1, mask[valid], average="binary", zero_division=0
        )
        assert (quality["precision"], quality["recall"]) == pytest.approx((precision, recall))
        assert quality["F1"] == pytest.approx(f1)
        union = (valid & (mask | (truth == 1))).sum()
        assert quality["IoU"] == pytest.approx((mask & (truth == 1)).sum() / union)


@pytest.mark.parametrize("levels", [3, 40, 10**6])  # many ties, some, none to speak of
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.7])
def test_the_ranking_is_that_of_the_benchmark(levels: int, shift: float) -> None:
    random = np.random.default_rng(levels)
    truth = random.choice(VALUES, (40, 50))
    score = random.normal(shift * (truth == 1))
    score = (np.round(score * levels) / levels).astype(np.float32)
    figures = ranking(score, truth)
    valid = truth != 255
    assert figures["ap"] == pytest.approx(average_precision_score(truth[valid] == 1, score[valid]))
    assert figures["auroc"] == pytest.approx(roc_auc_score(truth[valid] == 1, score[valid]))
    evaluator = AnomalyEvaluator()
    evaluator.update(score, truth)
    expected = evaluator.compute()
    assert figures == pytest.approx({name: expected[name] for name in figures})


def test_a_truth_of_one_kind_ranks_nothing() -> None:
    score = np.random.default_rng(0).random((4, 5), dtype=np.float32)
    for value in (0, 1, 255):
        figures = ranking(score, np.full((4, 5), value, np.uint8))
        assert figures == {"ap": None, "auroc": None, "fpr95": None}


def test_objects_and_false_regions_are_counted() -> None:
    truth = np.zeros((20, 30), np.uint8)
    truth[2:4, 2:6] = 1  # half covered
    truth[10:12, 2:6] = 1  # covered by three of eight
    truth[15:17, 20:24] = 1  # not at all
    truth[5:9, 20:28] = 255
    mask = np.zeros_like(truth, bool)
    mask[2:3, 2:6] = True
    mask[10, 3:6] = True
    mask[6:8, 21:25] = True  # in void alone: neither right nor wrong
    mask[18, 5:9] = True  # false
    mask[8:10, 26:28] = True  # half void, half known: false
    assert count_objects(mask, truth) == (3, 1)
    assert count_objects(np.ones_like(mask), truth) == (3, 3)
    assert count_objects(mask, np.zeros_like(truth)) == (0, 0)
    assert count_objects(mask, truth, min_pixels=9) == (0, 0)  # all three have eight
    assert len(find_regions(mask, mask.astype(np.float32))) == 5
    assert count_false_regions(mask, truth) == 2


def test_the_figures_judge_what_is_outlined_and_rank_the_raw_score(
    predictions: list[tuple[str, Prediction]],
) -> None:
    prediction = predictions[0][1]
    truth = np.zeros(prediction.size, np.uint8)
    truth[10:30, 20:50] = 1
    smoothed = prediction.anomaly_map("msp", 0.03)
    analysis = Analysis(
        prediction, "msp", float(np.quantile(smoothed, 0.8)), min_region_pixels=200, sigma=0.03
    )
    labels, count = ndimage.label(analysis.mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    large = np.isin(labels, 1 + np.flatnonzero(sizes >= 200))
    assert 0 < large.sum() < analysis.mask.sum()  # or this would show nothing
    figures = truth_figures(analysis, truth)
    assert figures["precision"] == (large & (truth == 1)).sum() / large.sum()
    assert figures["recall"] == (large & (truth == 1)).sum() / (truth == 1).sum()
    assert figures["ap"] == ranking(prediction.anomaly("msp"), truth)["ap"]
    assert figures["ap"] != ranking(smoothed, truth)["ap"]
    assert analysis.summary()["regions_share"] == large.mean()
    assert analysis.summary()["anomalous_share"] == analysis.mask.mean()
    assert count > len(analysis.regions)
    with pytest.raises(ConfigError, match="sizes must be equal"):
        truth_figures(analysis, truth[1:])
