"""Exact pixel metrics against scikit-learn and the stored reference values."""

from __future__ import annotations

import errno
import io
import json
import runpy
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mask2kan.errors import ConfigError, Mask2KANError, NumericsError
from mask2kan.outputs.truth import ranking
from training.metrics import AnomalyEvaluator, sorted_scores
from training.metrics.curves import FALSE_ALARM_RATES, ExactCurve
from training.metrics.sorted_scores import RUN_LENGTH, SortedScores, merged_blocks

Images = list[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]]


def random_images(seed: int, levels: int | None, count: int = 5) -> Images:
    """Scores with `levels` distinct values (None: nearly all distinct), labels with void."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        height, width = rng.integers(15, 35, 2)
        label = rng.choice([0, 1, 255], (height, width), p=[0.8, 0.1, 0.1]).astype(np.uint8)
        score = rng.normal(size=(height, width)) + 1.2 * (label == 1)
        if levels is not None:
            score = np.round(score * levels) / levels
        images.append((score.astype(np.float32), label))
    return images


def pooled(images: Images) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    score = np.concatenate([s[la != 255] for s, la in images])
    label = np.concatenate([la[la != 255] for _, la in images])
    return score, label


def evaluated(images: Images, run_length: int, block_length: int) -> AnomalyEvaluator:
    """An evaluator whose runs are small enough for many of them to be merged."""
    evaluator = AnomalyEvaluator()
    evaluator._curve = ExactCurve(run_length=run_length, block_length=block_length)
    for score, label in images:
        evaluator.update(score, label)
    return evaluator


def fpr_at_tpr95(label: npt.NDArray[np.uint8], score: npt.NDArray[np.float32]) -> float:
    """Where scikit-learn's ROC curve, straight between its points, reaches 0.95."""
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    at = int(np.argmax(tpr >= 0.95))
    return float(np.interp(0.95, tpr[at - 1 : at + 1], fpr[at - 1 : at + 1]))


def tied_pixels(seed: int, levels: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Quantised scores: so few values that the recall jumps over 0.95 inside a tie."""
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 255], (60, 80), p=[0.8, 0.1, 0.1]).astype(np.uint8)
    score = 1 / (1 + np.exp(-(rng.normal(size=label.shape) + 1.2 * (label == 1))))
    return (np.round(score * levels) / levels).astype(np.float32), label


@pytest.mark.parametrize("levels", [1, 2, 4, 16, 255])
@pytest.mark.parametrize("seed", range(3))
def test_both_conventions_of_fpr95_at_ties_are_scikit_learns(levels: int, seed: int) -> None:
    score, label = tied_pixels(seed, levels)
    evaluator = AnomalyEvaluator()
    evaluator.update(score, label)
    straight, at_threshold = evaluator.compute()["fpr95"], evaluator.fpr95_at_threshold()
    valid = label != 255
    for drop in (False, True):  # dropped points lie on straight lines
        fpr, tpr, _ = roc_curve(label[valid], score[valid], drop_intermediate=drop)
        at = int(np.argmax(tpr >= 0.95))
        line = np.interp(0.95, tpr[at - 1 : at + 1], fpr[at - 1 : at + 1])
        assert straight == pytest.approx(float(line), abs=1e-12)
    fpr, tpr, _ = roc_curve(label[valid], score[valid], drop_intermediate=False)
    assert at_threshold == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-12)
    assert at_threshold >= straight
    assert at_threshold - straight > (0.005 if levels <= 4 else 0)  # or this would show nothing
    page = ranking(score, label)
    assert page["fpr95"] == pytest.approx(straight, abs=1e-12)
    assert page["ap"] == pytest.approx(average_precision_score(label[valid], score[valid]))


def test_the_straight_fpr95_is_the_mean_over_breaking_ties_at_random() -> None:
    score, label = tied_pixels(0, 4)
    known, anomalous = score[label == 0], score[label == 1]
    rng = np.random.default_rng(1)
    broken = []
    for _ in range(200):
        kinds = np.repeat([0, 1], [len(known), len(anomalous)])
        noisy = np.concatenate([known, anomalous]) + rng.uniform(0, 1e-3, len(kinds))
        broken.append(fpr_at_tpr95(kinds.astype(np.uint8), noisy.astype(np.float32)))
    evaluator = AnomalyEvaluator()
    evaluator.update(score, label)
    assert evaluator.compute()["fpr95"] == pytest.approx(np.mean(broken), abs=0.004)


def test_the_smiyc_protocol_takes_fpr95_at_a_threshold() -> None:
    score, label = tied_pixels(0, 4)
    binned, exact = AnomalyEvaluator("smiyc"), AnomalyEvaluator()
    for evaluator in (binned, exact):
        evaluator.update(score, label)
    assert binned.compute()["fpr95"] == binned.fpr95_at_threshold()
    assert binned.fpr95_at_threshold() == pytest.approx(exact.fpr95_at_threshold(), abs=1e-9)


def reference_f1(
    score: npt.NDArray[np.float32], label: npt.NDArray[np.uint8]
) -> tuple[float, float]:
    """Best F1 over every distinct threshold, by counting."""
    best = (-1.0, 0.0)
    for threshold in np.unique(score)[::-1]:
        flagged = score >= threshold
        tp = int((flagged & (label == 1)).sum())
        f1 = 2 * tp / (int(flagged.sum()) + int((label == 1).sum()))
        best = max(best, (f1, float(threshold)), key=lambda pair: pair[0])
    return best


@pytest.mark.parametrize("levels", [None, 20, 2, 1])
@pytest.mark.parametrize(("run_length", "block_length"), [(1 << 20, 1 << 16), (700, 64), (300, 1)])
def test_exact_metrics_equal_scikit_learn(
    levels: int | None, run_length: int, block_length: int
) -> None:
    images = random_images(levels or 0, levels)
    score, label = pooled(images)
    metrics = evaluated(images, run_length, block_length).compute()
    f1, threshold = reference_f1(score, label)
    assert metrics["ap"] == pytest.approx(average_precision_score(label, score), abs=1e-9)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(label, score), abs=1e-9)
    assert metrics["fpr95"] == pytest.approx(fpr_at_tpr95(label, score), abs=1e-9)
    assert metrics["best_f1"] == pytest.approx(f1, abs=1e-9)
    assert metrics["best_f1_threshold"] == pytest.approx(threshold, abs=1e-7)


def many_pixels(count: int, levels: int | None) -> Iterator[tuple[Any, Any]]:
    """Images of a million pixels, a twentieth of them void."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        label = rng.choice([0, 1, 255], (1000, 1000), p=[0.9, 0.05, 0.05]).astype(np.uint8)
        score = rng.normal(size=label.shape) + 1.2 * (label == 1)
        yield (score if levels is None else np.round(score * levels)).astype(np.float32), label


@pytest.mark.parametrize(
    ("count", "levels"),
    [
        (1, None),
        (1, 3),
        pytest.param(11, None, marks=pytest.mark.slow),
        pytest.param(11, 3, marks=pytest.mark.slow),
    ],
)
def test_a_million_pixels_and_ten_equal_scikit_learn(count: int, levels: int | None) -> None:
    evaluator = AnomalyEvaluator()
    for score, label in many_pixels(count, levels):
        evaluator.update(score, label)
    score, label = pooled(list(many_pixels(count, levels)))
    metrics = evaluator.compute()
    assert metrics["ap"] == pytest.approx(average_precision_score(label, score), abs=1e-9)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(label, score), abs=1e-9)
    assert metrics["fpr95"] == pytest.approx(fpr_at_tpr95(label, score), abs=1e-9)


def peak_bytes(count: int, run_length: int, side: int) -> int:
    """Most memory NumPy held while images were added and evaluated."""
    rng = np.random.default_rng(0)
    score = rng.normal(size=(side, side)).astype(np.float32)
    label = rng.choice([0, 1, 255], (side, side)).astype(np.uint8)
    tracemalloc.start()
    try:
        evaluator = AnomalyEvaluator("exact", "obstacle")
        evaluator._curve = ExactCurve(run_length=run_length)
        for _ in range(count):
            score = score[:, ::-1] * np.float32(1.0001)  # other scores, so that runs interleave
            evaluator.update(score, label)
        evaluator.compute()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_scores, "MERGE_LENGTH", 1 << 14)
    few, many = (peak_bytes(count, run_length=1 << 14, side=128) for count in (8, 64))
    # 64 images are 4 MB of scores; what is allowed to grow is a few objects per run and image
    assert many < 1.3 * few
    assert many < 4e6


@pytest.mark.slow
def test_memory_stays_below_200_megabytes() -> None:
    few, many = (peak_bytes(count, run_length=RUN_LENGTH, side=1400) for count in (6, 30))
    assert many < 1.3 * few
    assert many < 200e6


def test_scores_all_equal() -> None:
    label = np.array([[0, 0, 0, 1]], np.uint8)
    evaluator = AnomalyEvaluator()
    evaluator.update(np.full((1, 4), 0.5, np.float32), label)
    assert evaluator.compute() == pytest.approx(
        {"ap": 0.25, "auroc": 0.5, "fpr95": 0.95, "best_f1": 0.4, "best_f1_threshold": 0.5}
    )


@pytest.mark.parametrize("case", range(3))
def test_reference_values(shared: Path, case: int) -> None:
    entry = json.loads((shared / "golden" / "anomaly_metrics.json").read_text())[case]
    options = {"separation": entry["separation"]} if "separation" in entry else {}
    evaluator = AnomalyEvaluator(protocol="exact")
    golden = runpy.run_path(str(shared / "golden" / "anomaly_case.py"))
    for score, label in golden["frames"](entry["seed"], **options):
        evaluator.update(score.astype(np.float16), label)  # the reference read float16
    metrics = evaluator.compute()
    assert {key: metrics[key] for key in entry["exact"]} == pytest.approx(entry["exact"], abs=1e-6)


def test_more_images_may_follow_a_result() -> None:
    images = random_images(3, 50)
    evaluator = evaluated(images[:2], 500, 32)
    evaluator.compute()
    for score, label in images[2:]:
        evaluator.update(score, label)
    assert evaluator.compute() == evaluated(images, 500, 32).compute()


@pytest.mark.parametrize("levels", [None, 4])
def test_operating_points_keep_their_promise(levels: int | None) -> None:
    images = random_images(7, levels)
    score, label = pooled(images)
    points = evaluated(images, 700, 64).operating_points()
    known, anomalous = score[label == 0], score[label == 1]
    assert points["range"] == pytest.approx(np.percentile(score, [0.5, 99.5]), abs=1e-6)
    assert (known >= points["fpr05"]).mean() <= 0.05
    below = score[score < points["fpr05"]].max()
    assert (known >= below).mean() > 0.05  # and it is the lowest such threshold
    assert (anomalous >= points["tpr95"]).mean() >= 0.95
    above = score[score > points["tpr95"]].min()
    assert (anomalous >= above).mean() < 0.95
    assert points["best_f1"] == pytest.approx(reference_f1(score, label)[1])


@pytest.mark.parametrize("levels", [None, 4])
def test_false_alarm_curve_equals_counting(levels: int | None) -> None:
    images = random_images(8, levels, count=12)
    score, label = pooled(images)
    points = evaluated(images, 700, 64).operating_points()
    known, anomalous = score[label == 0], score[label == 1]
    # Every score, and one above all of them for rates that none of them keeps.
    candidates = np.append(np.unique(score), np.nextafter(score.max(), np.float32(np.inf)))
    shares = np.array([(known >= threshold).mean() for threshold in candidates])
    expected: list[list[float]] = []
    for rate in FALSE_ALARM_RATES:
        threshold = float(candidates[shares <= rate].min())
        if not expected or threshold < expected[-1][1]:
            expected.append([rate, threshold, float((anomalous >= threshold).mean())])
    assert points["curve"] == expected
    if levels is None:
        assert [row[1] for row in points["curve"] if row[0] == 0.05] == [points["fpr05"]]


def test_false_alarm_rates_hold_the_usual_ones() -> None:
    usual = {0.0002, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5}
    assert usual <= set(FALSE_ALARM_RATES)
    assert list(FALSE_ALARM_RATES) == sorted(FALSE_ALARM_RATES)


def test_fpr05_of_a_constant_score_flags_nothing() -> None:
    evaluator = AnomalyEvaluator()
    evaluator.update(np.ones((4, 4), np.float32), np.eye(4, dtype=np.uint8))
    points = evaluator.operating_points()
    assert points["fpr05"] > 1.0
    assert points["curve"] == [[FALSE_ALARM_RATES[0], points["fpr05"], 0.0]]


def test_percentiles_of_several_collections() -> None:
    values = np.random.default_rng(0).normal(size=3001).astype(np.float32)
    curve = ExactCurve(run_length=100, block_length=7)
    curve.add(values[:1000], values[1000:])
    expected = np.percentile(values.astype(np.float64), [0, 0.5, 50, 99.5, 100])
    assert curve.percentiles((0, 0.5, 50, 99.5, 100)) == pytest.approx(expected, abs=1e-6)


def test_blocks_come_in_order_and_whole() -> None:
    values = np.random.default_rng(0).integers(0, 50, 5000).astype(np.float32)
    store = SortedScores(run_length=64, block_length=3)
    store.add(values)
    assert len(store) == 5000
    blocks = [block for (block,) in merged_blocks([store])]
    assert np.array_equal(np.concatenate(blocks), np.sort(values)[::-1])


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class FullDisk(io.BytesIO):
        def write(self, values: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: FullDisk())
    evaluator = AnomalyEvaluator(track="anomaly", folder=tmp_path)
    with pytest.raises(Mask2KANError, match=rf"No room for 16 more bytes.*{tmp_path}.*TMPDIR"):
        evaluator.update(np.zeros((2, 2), np.float32), np.eye(2, dtype=np.uint8))


@pytest.mark.parametrize(
    ("score", "label", "error", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), int), ConfigError, r"\(2, 3\).*\(3, 2\)"),
        (np.zeros((1, 2, 3)), np.zeros((1, 2, 3), int), ConfigError, r"\(H, W\)"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), int), NumericsError, "4 of 4"),
        (np.full((2, 2), np.inf), np.zeros((2, 2), int), NumericsError, "infinite"),
        (np.zeros((2, 2)), np.full((2, 2), 2), ConfigError, r"\[2\].*255"),
        (np.zeros((2, 2), int), np.zeros((2, 2)), ConfigError, "floating"),
    ],
)
def test_unusable_images_are_refused(
    score: npt.NDArray[np.float64],
    label: npt.NDArray[np.int64],
    error: type[Mask2KANError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        AnomalyEvaluator().update(score, label)


@pytest.mark.parametrize(("value", "message"), [(0, "No anomalous"), (1, "No known"), (255, "No")])
def test_one_kind_of_pixel_is_not_enough(value: int, message: str) -> None:
    evaluator = AnomalyEvaluator()
    evaluator.update(np.zeros((2, 2), np.float32), np.full((2, 2), value, np.uint8))
    with pytest.raises(ConfigError, match=message):
        evaluator.compute()


def test_unknown_protocol_and_track() -> None:
    with pytest.raises(ConfigError, match="exact"):
        AnomalyEvaluator(protocol="binned")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"track.*obstacle"):
        AnomalyEvaluator(track="obstacles")  # type: ignore[arg-type]
