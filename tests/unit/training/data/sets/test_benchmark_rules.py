"""Anomaly sets are counted as their benchmarks count them: images, void, sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.training.data_trees import TREES, mask, save
from training.data import AnomalyImages, open_anomaly
from training.data.check import inspect_data
from training.data.sets.lost_and_found import UNLABELLED, LostAndFound
from training.evaluation.measure import Sample, ScoreMeter
from training.metrics import AnomalyEvaluator

WIDTH, HEIGHT = 128, 96


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "cache"))


def smiyc(root: Path, names: list[str], label: np.ndarray) -> Path:
    for name in names:
        image = np.zeros((*label.shape, 3), np.uint8)
        save(root / "images" / f"{name}.webp", image, lossless=True)
        save(root / "labels_masks" / f"{name}_labels_semantic.png", label)
    return root


def road_scene() -> tuple[np.ndarray, np.ndarray]:
    """A label with two obstacles on a road, and a score with alarms of every kind.

    The obstacles have 120 and 9 pixels; the score finds the first but for one pixel, raises a false
    alarm of 40 pixels on the road, and its highest beside the road, which is void.
    """
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[:40] = 255
    label[50:60, 20:32] = 1
    label[80:83, 100:103] = 1
    score = np.full(label.shape, 0.05, np.float32)
    score[label == 1] = 0.95
    score[80:83, 100:103] = 0.1
    score[50, 20] = 0.9
    score[70:75, 60:68] = 0.85
    score[5:30, 10:60] = 0.99
    return score, label


def figures(images: AnomalyImages, score: np.ndarray) -> dict[str, float]:
    evaluator = AnomalyEvaluator(track=images.described().track)  # type: ignore[arg-type]
    for index in range(len(images.names)):
        evaluator.update(score, images.arrays(index)[1])
    return evaluator.compute()


AP = 120 / 129 + 9 / 129 * 129 / (129 + 40)  # the nine come after the forty on the road


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # the obstacle of 9 pixels is void, the false alarm of 40 dropped; 119 of 120 are found
        ("road_obstacle_21", {"siou": 119 / 120, "ppv": 1.0, "f1_star": 1.0}),
        # segments below 500 pixels are dropped: nothing is found of what is still an anomaly
        ("road_anomaly_21", {"siou": 0.0, "ppv": np.nan, "f1_star": 0.0}),
    ],
)
def test_void_and_sizes_are_those_of_the_track(
    tmp_path: Path, name: str, expected: dict[str, float]
) -> None:
    score, label = road_scene()
    root = smiyc(tmp_path, ["validation_1", "validation_2"], label)
    found = figures(open_anomaly(f"{name}={root}"), score)
    assert found["ap"] == pytest.approx(AP)
    assert found["best_f1_threshold"] == pytest.approx(0.9)
    assert {key: found[key] for key in expected} == pytest.approx(expected, nan_ok=True)


def test_lost_and_found_is_counted_on_the_road_alone(tmp_path: Path) -> None:
    score, label = road_scene()
    ids = np.select([label == 255, label == 1], [0, 37], 1).astype(np.uint8)  # of the data set
    name = "04_Maurener_Weg_8_000000_000030"
    for part, ending, pixels in (
        ("leftImg8bit", "leftImg8bit", np.zeros((*label.shape, 3), np.uint8)),
        ("gtCoarse", "gtCoarse_labelIds", ids),
    ):
        save(tmp_path / part / "test" / "04_Maurener_Weg_8" / f"{name}_{ending}.png", pixels)
    found = figures(open_anomaly(f"lost_and_found={tmp_path}"), score)
    assert found["ap"] == pytest.approx(AP)
    assert found["siou"] == pytest.approx(119 / 120)


def test_fishyscapes_takes_all_other_values_for_void(tmp_path: Path) -> None:
    tree = TREES["m2a_lost_and_found"](tmp_path)
    save(tree.first[1], mask(0, 1, 2, 255, 128))
    images = open_anomaly(tree.data)
    assert np.array_equal(images.arrays(0)[1], mask(0, 1, 255, 255, 255))
    assert images.described().track == "anomaly"


def test_road_obstacle_21_leaves_out_what_the_benchmark_does(tmp_path: Path) -> None:
    counted = ["validation_1", "validation_18", "validation_2", "validation_20", "validation_30"]
    left_out = ["validation_19", "validation_21", "validation_29"]
    root = smiyc(tmp_path, counted + left_out, mask(0, 1))
    (root / "labels_masks" / "validation_29_labels_semantic.png").unlink()  # with a mask or not
    assert open_anomaly(f"road_obstacle_21={root}").names == counted
    report = inspect_data(f"road_obstacle_21={root}")
    assert report.faults == []
    notes = [note.path.stem for note in report.notes if note.rule == "not-counted"]
    assert notes == left_out
    # Mask2Anomaly's folder numbers the thirty of the benchmark.
    tree = TREES["m2a_obstacle_21"](tmp_path / "numbered")
    assert open_anomaly(tree.data).names == ["0", "1"]


def lost_and_found(root: Path, sequences: dict[str, int]) -> list[str]:
    """Empty files of so many frames per sequence; nothing reads them when a folder is scanned."""
    names = [
        f"{sequence}_{number:06d}"
        for sequence, count in sequences.items()
        for number in range(count)
    ]
    for name in names:
        scene = name.rsplit("_", 2)[0]
        for part, ending in (("leftImg8bit", "leftImg8bit"), ("gtCoarse", "gtCoarse_labelIds")):
            path = root / part / "test" / scene / f"{name}_{ending}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return names


SEQUENCES = {
    "01_Hanns_Klemm_Str_45_000005": 400,
    "01_Hanns_Klemm_Str_45_000006": 3,
    "01_Hanns_Klemm_Str_45_000007": 4,
    "02_Hanns_Klemm_Str_44_000004": 400,
    "10_Schlossberg_9_000004": 5,
    "10_Schlossberg_9_000005": 385,
    "15_Rechbergstr_Deckenpfronn_000000": 6,
}


def test_lost_and_found_leaves_out_children_bicycles_and_unlabelled_frames(tmp_path: Path) -> None:
    names = lost_and_found(tmp_path, SEQUENCES)
    assert len(names) == 1203
    known = ("15_", "01_Hanns_Klemm_Str_45_000006", "01_Hanns_Klemm_Str_45_000007")
    known = (*known, "10_Schlossberg_9_000004")
    unlabelled = {sorted(names)[place] for place in UNLABELLED}
    assert len(unlabelled) == 17
    expected = [n for n in sorted(names) if not n.startswith(known) and n not in unlabelled]
    scan = LostAndFound.scan(tmp_path)
    assert sorted(pair.name for pair in scan.pairs) == expected
    assert scan.faults == []
    assert len(scan.notes) == 1203 - len(expected)
    # Without one frame nobody knows the others' places; void labels then stay, and count nothing.
    (tmp_path / "gtCoarse/test/02_Hanns_Klemm_Str_44").joinpath(
        "02_Hanns_Klemm_Str_44_000004_000399_gtCoarse_labelIds.png"
    ).unlink()
    (tmp_path / "leftImg8bit/test/02_Hanns_Klemm_Str_44").joinpath(
        "02_Hanns_Klemm_Str_44_000004_000399_leftImg8bit.png"
    ).unlink()
    assert len(LostAndFound.scan(tmp_path).pairs) == 400 + 399 + 385


def test_an_image_that_is_void_everywhere_is_not_counted_among_the_images() -> None:
    meter = ScoreMeter[np.ndarray](lambda score, _: score, ["msp"], track="obstacle")
    score, label = road_scene()
    image = np.zeros((*label.shape, 3), np.uint8)
    meter(Sample(0, "a", image, label), score)
    before = meter.about(), meter.evaluators["msp"].compute()
    meter(Sample(1, "b", image, np.full_like(label, 255)), score[::-1])
    assert (meter.about(), meter.evaluators["msp"].compute()) == before
    assert before[0]["pictures"] == 1


@pytest.mark.parametrize(
    ("name", "track", "size", "words"),
    [
        ("m2a_anomaly_21", "anomaly", 10, "AnomalyTrack-validation"),
        ("m2a_obstacle_21", "obstacle", 30, "ObstacleTrack-validation"),
        ("lost_and_found", "obstacle", 1043, "LostAndFound-testNoKnown"),
        ("m2a_lost_and_found", "anomaly", 100, "FishyLAFAnomaly-val"),
        ("m2a_static", None, 30, "Fishyscapes"),
    ],
)
def test_results_say_how_they_were_counted(
    tmp_path: Path, name: str, track: str | None, size: int, words: str
) -> None:
    description = open_anomaly(TREES[name](tmp_path).data).described()
    assert (description.track, description.size) == (track, size)
    [counted, share] = description.notes(measured=2)
    assert words in counted
    assert share == f"2 images, not the {size:,} of {description.title}"
    assert description.notes(measured=size) == [counted]
