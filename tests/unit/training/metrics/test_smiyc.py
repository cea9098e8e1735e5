"""The SegmentMeIfYouCan protocol against the benchmark's own evaluation.

``ORIGINAL`` holds what the published code answers (SegmentMeIfYouCan/road-anomaly-benchmark, commit
1c7804e: ``MetricPixelClassification`` with 768 percentile bins, then ``MetricSegment`` of the track
at the threshold found) for ``images(...)`` cast to float16, run with NumPy 1.26. NumPy 2.4 gives
the same but for ``siou`` of the first case, whose threshold is no float16: it compares the scores
with the threshold as it was read from a file, unrounded. None of these cases has a highest score
that several images share, where the benchmark's answer is a matter of its unstable sort. Equal to
1e-9: the same sums of the same counts.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
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


ORIGINAL: list[tuple[tuple[int, int, int, int, str], str, dict[str, Any]]] = [
    (
        (21, 4, 120, 160, "sigmoid"),
        "anomaly",
        {
            "ap": 0.37025327335580765,
            "auroc": 0.8897650190239551,
            "fpr95": 0.4999699789852897,
            "best_f1": 0.41443361753958585,
            "best_f1_threshold": 0.8763972748041775,
            "siou": 0.13815789473684212,
            "ppv": 1.0,
            "f1_star": 0.2545454545454545,
            "tp": [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
            "fp": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "fn": [3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4],
        },
    ),
    (
        (22, 5, 97, 131, "sigmoid"),
        "obstacle",
        {
            "ap": 0.47078042522407415,
            "auroc": 0.9042410264261849,
            "fpr95": 0.41263651954147484,
            "best_f1": 0.48087268380155407,
            "best_f1_threshold": 0.8837890625,
            "siou": 0.3981536640903632,
            "ppv": 0.5376900854179645,
            "f1_star": 0.28535509897739,
            "tp": [6, 5, 5, 3, 2, 2, 1, 1, 1, 1, 1],
            "fp": [7, 7, 7, 7, 7, 7, 7, 8, 8, 8, 8],
            "fn": [1, 2, 2, 4, 5, 5, 6, 6, 6, 6, 6],
        },
    ),
    (
        (23, 4, 90, 200, "clean"),
        "obstacle",
        {
            "ap": 0.39498881319347434,
            "auroc": 0.9125044104046381,
            "fpr95": 0.3900657783774667,
            "best_f1": 0.4106655469242074,
            "best_f1_threshold": 0.8818359375,
            "siou": 0.2925378998021433,
            "ppv": 0.3721186937321556,
            "f1_star": 0.1409090909090909,
            "tp": [3, 3, 2, 2, 2, 0, 0, 0, 0, 0, 0],
            "fp": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8],
            "fn": [2, 2, 3, 3, 3, 5, 5, 5, 5, 5, 5],
        },
    ),
    (
        (24, 3, 240, 320, "negative"),
        "obstacle",
        {
            "ap": 0.37212990970999926,
            "auroc": 0.9105866193897758,
            "fpr95": 0.42799788208752504,
            "best_f1": 0.4075616789490548,
            "best_f1_threshold": -17.53125,
            "siou": 0.28260740475034063,
            "ppv": 0.5785361842105263,
            "f1_star": 0.17994158951096753,
            "tp": [5, 4, 3, 3, 2, 1, 1, 1, 0, 0, 0],
            "fp": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8],
            "fn": [4, 5, 6, 6, 7, 8, 8, 8, 9, 9, 9],
        },
    ),
    (
        (25, 2, 300, 400, "raw"),
        "obstacle",
        {
            "ap": 0.261734416069525,
            "auroc": 0.9197210849075829,
            "fpr95": 0.34342199123611533,
            "best_f1": 0.3041416376857414,
            "best_f1_threshold": 2.96875,
            "siou": 0.19280092592592593,
            "ppv": 1.0,
            "f1_star": 0.18181818181818182,
            "tp": [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
            "fp": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "fn": [2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3],
        },
    ),
    (
        (26, 6, 64, 48, "raw"),
        "obstacle",
        {
            "ap": 0.7146822277955815,
            "auroc": 0.9112324628917832,
            "fpr95": 0.31605231866825206,
            "best_f1": 0.6766538512528172,
            "best_f1_threshold": 1.2099609375,
            "siou": 0.43753181216762266,
            "ppv": 0.379409260073122,
            "f1_star": 0.42260195944406465,
            "tp": [6, 6, 6, 5, 4, 4, 4, 4, 4, 3, 2],
            "fp": [6, 6, 6, 6, 7, 8, 8, 8, 8, 8, 8],
            "fn": [3, 3, 3, 4, 5, 5, 5, 5, 5, 6, 7],
        },
    ),
    (
        (27, 1, 200, 256, "sigmoid"),
        "anomaly",
        {
            "ap": 0.48714279213451916,
            "auroc": 0.8431759349500952,
            "fpr95": 0.6895669066392413,
            "best_f1": 0.47739381945501597,
            "best_f1_threshold": 0.873046875,
            "siou": 0.09775641025641026,
            "ppv": 0.9490806223479491,
            "f1_star": 0.10909090909090911,
            "tp": [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            "fp": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "fn": [3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4],
        },
    ),
]


def evaluated(frames: Iterator[Image], track: Any = None) -> dict[str, Any]:
    evaluator = AnomalyEvaluator("smiyc", track)
    for score, label in frames:
        evaluator.update(score, label)
    return evaluator.compute()


@pytest.mark.parametrize(("case", "track", "expected"), ORIGINAL)
def test_figures_equal_the_benchmark(
    case: tuple[int, int, int, int, str], track: str, expected: dict[str, Any]
) -> None:
    found = evaluated(images(*case), track)
    for counts in ("tp", "fp", "fn"):
        assert list(found[counts]) == TAUS
        assert list(found.pop(counts).values()) == expected[counts]
    assert found == pytest.approx({key: expected[key] for key in found}, abs=1e-9)


def anomaly_case(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "anomaly_case", shared / "golden" / "anomaly_case.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("index", range(3))
def test_reference_values(shared: Path, index: int) -> None:
    entry = json.loads((shared / "golden" / "anomaly_metrics.json").read_text())[index]
    options = {"separation": entry["separation"]} if "separation" in entry else {}
    frames = anomaly_case(shared).frames(entry["seed"], **options)
    found = evaluated(frames, entry["track"])
    names = {"auprc": "ap", "sIoU_gt": "siou", "PPV": "ppv", "F1_mean": "f1_star"}
    for name, value in {**entry["smiyc"], **entry["component"]}.items():
        if name[:3] in ("tp_", "fp_", "fn_"):
            assert found[name[:2]][int(name[3:])] == value, name
        else:
            assert found[names.get(name, name)] == pytest.approx(value, abs=1e-6), name


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


def test_a_image_all_void_changes_nothing() -> None:
    frames = list(images(5, 3, 60, 80, "sigmoid"))
    void = (np.full((60, 80), 9, np.float32), np.full((60, 80), 255, np.uint8))
    assert evaluated(iter([void, *frames, void]), "anomaly") == evaluated(iter(frames), "anomaly")


def test_images_of_several_sizes() -> None:
    frames = [*images(6, 2, 61, 83, "sigmoid"), *images(7, 2, 90, 40, "sigmoid")]
    found = evaluated(iter(frames), "obstacle")
    assert 0 < found["siou"] < 1
    assert found["tp"][25] + found["fn"][25] > 2


def test_constant_scores() -> None:
    label = np.zeros((40, 40), np.uint8)
    label[:4] = 1
    found = evaluated(iter([(np.full((40, 40), 1000, np.float32), label)]), "anomaly")
    assert found["ap"] == pytest.approx(0.1)
    assert found["auroc"] == 0.5
    assert found["fpr95"] == 1.0  # the only point that finds 95 % finds everything
    assert found["best_f1_threshold"] == 1000
    # nothing lies above the threshold
    assert found["siou"] == 0
    assert found["f1_star"] == 0
    assert math.isnan(found["ppv"])


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
