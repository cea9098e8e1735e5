"""The SegmentMeIfYouCan protocol against the benchmark's own evaluation.

``ORIGINAL`` holds what the published code answers (SegmentMeIfYouCan/road-anomaly-benchmark, commit
1c7804e: ``MetricPixelClassification`` with 768 percentile bins, then ``MetricSegment`` of the track
at the threshold metrics) for ``images(...)`` cast to float16, run with NumPy 1.26. NumPy 2.4 gives
the same but for ``siou`` of the first case, whose threshold is no float16: it compares the scores
with the threshold as it was read from a file, unrounded. None of these cases has a highest score
that several images share, where the benchmark's answer is a matter of its unstable sort. Equal to
1e-9: the same sums of the same counts.
"""

from __future__ import annotations

import json
import math
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mask2kan.errors import ConfigError, NumericsError
from training.metrics import AnomalyEvaluator
from training.metrics.smiyc import quantiles

Image = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
TAUS = list(range(25, 80, 5))


def images(seed: int, count: int, height: int, width: int, kind: str) -> Iterator[Image]:
    """Noise with anomalous rectangles and void borders; the legacy generator never changes."""
    rng = np.random.RandomState(seed)
    for index in range(count):
        label = np.zeros((height, width), np.uint8)
        for _ in range(rng.randint(1, 5)):
            top, left = rng.randint(0, height), rng.randint(0, width)
            label[top : top + rng.randint(2, 40), left : left + rng.randint(2, 60)] = 1
        label[: rng.randint(1, 20)] = 255
        if kind == "clean" and index % 2:
            label[label == 1] = 0
        coarse = rng.randn(height // 8 + 1, width // 8 + 1).repeat(8, 0).repeat(8, 1)
        score = coarse[:height, :width] + 0.4 * rng.randn(height, width) + 2.0 * (label == 1)
        if kind == "negative":
            score = score - 20
        elif kind != "raw":
            score = 1 / (1 + np.exp(-score))
        yield score.astype(np.float32), label


# case, track, pixel metrics, best F1 and its threshold, component metrics; tp, fp, fn by tau
ORIGINAL: list[tuple[Any, ...]] = [
    (
        (21, 4, 120, 160, "sigmoid"),
        "anomaly",
        (0.37025327335580765, 0.8897650190239551, 0.4999699789852897),
        (0.41443361753958585, 0.8763972748041775),
        (0.13815789473684212, 1.0, 0.2545454545454545),
        [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4],
    ),
    (
        (22, 5, 97, 131, "sigmoid"),
        "obstacle",
        (0.47078042522407415, 0.9042410264261849, 0.41263651954147484),
        (0.48087268380155407, 0.8837890625),
        (0.3981536640903632, 0.5376900854179645, 0.28535509897739),
        [6, 5, 5, 3, 2, 2, 1, 1, 1, 1, 1],
        [7, 7, 7, 7, 7, 7, 7, 8, 8, 8, 8],
        [1, 2, 2, 4, 5, 5, 6, 6, 6, 6, 6],
    ),
    (
        (23, 4, 90, 200, "clean"),
        "obstacle",
        (0.39498881319347434, 0.9125044104046381, 0.3900657783774667),
        (0.4106655469242074, 0.8818359375),
        (0.2925378998021433, 0.3721186937321556, 0.1409090909090909),
        [3, 3, 2, 2, 2, 0, 0, 0, 0, 0, 0],
        [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8],
        [2, 2, 3, 3, 3, 5, 5, 5, 5, 5, 5],
    ),
    (
        (24, 3, 240, 320, "negative"),
        "obstacle",
        (0.37212990970999926, 0.9105866193897758, 0.42799788208752504),
        (0.4075616789490548, -17.53125),
        (0.28260740475034063, 0.5785361842105263, 0.17994158951096753),
        [5, 4, 3, 3, 2, 1, 1, 1, 0, 0, 0],
        [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8],
        [4, 5, 6, 6, 7, 8, 8, 8, 9, 9, 9],
    ),
    (
        (25, 2, 300, 400, "raw"),
        "obstacle",
        (0.261734416069525, 0.9197210849075829, 0.34342199123611533),
        (0.3041416376857414, 2.96875),
        (0.19280092592592593, 1.0, 0.18181818181818182),
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3],
    ),
    (
        (26, 6, 64, 48, "raw"),
        "obstacle",
        (0.7146822277955815, 0.9112324628917832, 0.31605231866825206),
        (0.6766538512528172, 1.2099609375),
        (0.43753181216762266, 0.379409260073122, 0.42260195944406465),
        [6, 6, 6, 5, 4, 4, 4, 4, 4, 3, 2],
        [6, 6, 6, 6, 7, 8, 8, 8, 8, 8, 8],
        [3, 3, 3, 4, 5, 5, 5, 5, 5, 6, 7],
    ),
    (
        (27, 1, 200, 256, "sigmoid"),
        "anomaly",
        (0.48714279213451916, 0.8431759349500952, 0.6895669066392413),
        (0.47739381945501597, 0.873046875),
        (0.09775641025641026, 0.9490806223479491, 0.10909090909090911),
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4],
    ),
]
NAMES = ("ap", "auroc", "fpr95", "best_f1", "best_f1_threshold", "siou", "ppv", "f1_star")


def evaluated(frames: Iterator[Image], track: Any = None) -> dict[str, Any]:
    evaluator = AnomalyEvaluator("smiyc", track)
    for score, label in frames:
        evaluator.update(score, label)
    return evaluator.compute()


@pytest.mark.parametrize(
    ("case", "track", "pixel", "best", "component", "tp", "fp", "fn"), ORIGINAL
)
def test_metrics_equal_the_benchmark(
    case: Any, track: str, pixel: Any, best: Any, component: Any, tp: Any, fp: Any, fn: Any
) -> None:
    metrics = evaluated(images(*case), track)
    for name, counts in {"tp": tp, "fp": fp, "fn": fn}.items():
        assert metrics.pop(name) == dict(zip(TAUS, counts, strict=True))
    expected = dict(zip(NAMES, (*pixel, *best, *component), strict=True))
    assert metrics == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("index", range(3))
def test_reference_values(shared: Path, index: int) -> None:
    entry = json.loads((shared / "golden" / "anomaly_metrics.json").read_text())[index]
    options = {"separation": entry["separation"]} if "separation" in entry else {}
    golden = runpy.run_path(str(shared / "golden" / "anomaly_case.py"))
    frames = golden["frames"](entry["seed"], **options)
    metrics = evaluated(frames, entry["track"])
    names = {"auprc": "ap", "sIoU_gt": "siou", "PPV": "ppv", "F1_mean": "f1_star"}
    for name, value in {**entry["smiyc"], **entry["component"]}.items():
        if name[:3] in ("tp_", "fp_", "fn_"):
            assert metrics[name[:2]][int(name[3:])] == value, name
        else:
            assert metrics[names.get(name, name)] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("count", [1, 2, 3, 383, 384, 385, 5000])
@pytest.mark.parametrize("digits", [1, 9])
def test_quantiles_equal_numpy(count: int, digits: int) -> None:
    values = np.random.default_rng(count).normal(size=count).round(digits).astype(np.float16)
    shares = np.linspace(0, 1, min(384, count))
    assert quantiles(np.sort(values)) == pytest.approx(np.quantile(values, shares), abs=1e-12)


def test_bins_come_close_to_the_exact_curve() -> None:
    exact = AnomalyEvaluator("exact")
    for score, label in images(11, 6, 120, 160, "sigmoid"):
        exact.update(score, label)
    binned = evaluated(images(11, 6, 120, 160, "sigmoid"))
    for name, value in exact.compute().items():
        assert binned[name] == pytest.approx(value, abs=0.01), name
    assert binned["ap"] != pytest.approx(exact.compute()["ap"], abs=1e-9)


def test_results_repeat_and_more_images_may_follow() -> None:
    frames = list(images(4, 5, 90, 120, "sigmoid"))
    evaluator = AnomalyEvaluator("smiyc", "obstacle")
    for score, label in frames[:2]:
        evaluator.update(score, label)
    assert evaluator.compute() == evaluator.compute() == evaluated(iter(frames[:2]), "obstacle")
    for score, label in frames[2:]:
        evaluator.update(score, label)
    assert evaluator.compute() == evaluated(iter(frames), "obstacle")


def test_an_image_all_void_changes_nothing() -> None:
    frames = list(images(5, 3, 60, 80, "sigmoid"))
    void = (np.full((60, 80), 9, np.float32), np.full((60, 80), 255, np.uint8))
    assert evaluated(iter([void, *frames, void]), "anomaly") == evaluated(iter(frames), "anomaly")


def test_images_of_several_sizes() -> None:
    frames = [*images(6, 2, 61, 83, "sigmoid"), *images(7, 2, 90, 40, "sigmoid")]
    metrics = evaluated(iter(frames), "obstacle")
    assert 0 < metrics["siou"] < 1
    assert metrics["tp"][25] + metrics["fn"][25] > 2


def test_constant_scores() -> None:
    label = np.zeros((40, 40), np.uint8)
    label[:4] = 1
    metrics = evaluated(iter([(np.full((40, 40), 1000, np.float32), label)]), "anomaly")
    assert metrics["ap"] == pytest.approx(0.1)
    assert metrics["auroc"] == 0.5
    assert metrics["fpr95"] == 1.0  # the only point that finds 95 % finds everything
    assert metrics["best_f1_threshold"] == 1000
    # nothing lies above the threshold
    assert metrics["siou"] == 0
    assert metrics["f1_star"] == 0
    assert math.isnan(metrics["ppv"])


def test_errors() -> None:
    evaluator = AnomalyEvaluator("smiyc", "anomaly")
    with pytest.raises(NumericsError, match=r"float16.*exact"):
        evaluator.update(np.array([[0.0, 1e5]], np.float32), np.array([[0, 1]]))
    with pytest.raises(NumericsError, match="float16"):
        evaluator.update(np.array([[-6e4, 6e4]], np.float32), np.array([[0, 1]]))
    with pytest.raises(NumericsError, match="NaN"):
        evaluator.update(np.array([[0.0, np.nan]], np.float32), np.array([[0, 255]]))
    evaluator.update(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8))
    with pytest.raises(ConfigError, match="No anomalous"):
        evaluator.compute()
    with pytest.raises(ConfigError, match="exact"):
        evaluator.operating_points()
