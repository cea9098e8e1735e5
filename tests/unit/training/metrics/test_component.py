"""Component metrics against a pixel-by-pixel reference that follows the paper's sentences."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from training.metrics import AnomalyEvaluator
from training.metrics.component import TRACKS, ComponentEvaluator, Track

Pixel = tuple[int, int]
Image = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
# the benchmark's own floating point numbers: its 0.6 is the next above 0.6
TAUS = dict(zip(range(25, 80, 5), np.linspace(0.25, 0.75, 11), strict=True))


def components(pixels: set[Pixel]) -> list[set[Pixel]]:
    """Sets of pixels that touch, corners included."""
    left, groups = set(pixels), []
    while left:
        group, open_ends = set(), [left.pop()]
        while open_ends:
            y, x = open_ends.pop()
            group.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            open_ends += near
        groups.append(group)
    return groups


def where(mask: npt.NDArray[np.bool_]) -> set[Pixel]:
    return {(int(y), int(x)) for y, x in np.argwhere(mask)}


def overlaps(
    score: npt.NDArray[Any], label: npt.NDArray[np.uint8], threshold: float, track: Track
) -> tuple[list[float], list[float]]:
    """Of one image: sIoU of every true component, PPV of every segment."""
    flagged = where((score > threshold) & (label != 255))
    segments = [s for s in components(flagged) if len(s) >= track.min_segment]
    everything = components(where(label == 1))
    truths = [t for t in everything if len(t) >= track.min_truth]
    void = where(label == 255).union(*(t for t in everything if len(t) < track.min_truth))
    if (label != 1).sum() < track.min_truth:
        void |= where(label != 1)
    segments = [s - void for s in segments if s - void]
    siou = []
    for truth in truths:
        touching = set().union(*(s for s in segments if s & truth))
        others = set().union(*(t for t in truths if t is not truth))
        siou.append(len(truth & touching) / len((truth | touching) - (touching & others)))
    ppv = [len(s & set().union(*truths)) / len(s) for s in segments]
    return siou, ppv


def reference(images: list[Image], threshold: float, track: Track) -> dict[str, Any]:
    pairs = [overlaps(score, label, threshold, track) for score, label in images]
    siou = [value for pair in pairs for value in pair[0]]
    ppv = [value for pair in pairs for value in pair[1]]
    counts: dict[str, dict[int, int]] = {"tp": {}, "fp": {}, "fn": {}}
    f1 = []
    for key, tau in TAUS.items():
        tp = sum(value >= tau for value in siou)
        fp = sum(value < tau for value in ppv)
        counts["tp"][key], counts["fp"][key], counts["fn"][key] = tp, fp, len(siou) - tp
        f1.append(2 * tp / (2 * tp + fp + len(siou) - tp))
    means = {"siou": np.mean(siou), "ppv": np.mean(ppv), "f1_star": np.mean(f1)}
    return {**means, **counts}


def scene(rng: np.random.Generator, height: int, width: int, size: int) -> Image:
    """Blobs whose places the score hits more or less; sizes from one pixel on."""
    label = np.zeros((height, width), np.uint8)
    hint = rng.normal(size=(height, width)) * 0.3
    for _ in range(rng.integers(3, 9)):
        top, left = rng.integers(0, height), rng.integers(0, width)
        tall, wide = rng.integers(1, size, 2)
        if rng.random() < 0.8:
            label[top : top + tall, left : left + wide] = 1
        dy, dx = rng.integers(-3, 4, 2)
        top, left = max(top + dy, 0), max(left + dx, 0)
        hint[top : top + tall, left : left + wide] += 2
    label[:, : rng.integers(1, 9)] = 255
    return hint.astype(np.float32), label


def assert_same(metrics: dict[str, Any], expected: dict[str, Any]) -> None:
    """Counts equal; means to 1e-12, sums in another order."""
    for name, value in expected.items():
        if isinstance(value, dict):
            assert metrics[name] == value, name
        else:
            assert metrics[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("seed", range(12))
def test_small_maps_equal_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    track = Track(min_segment=int(rng.integers(1, 20)), min_truth=int(rng.integers(1, 20)))
    images = [scene(rng, 30, 40, 14) for _ in range(3)]
    evaluator = ComponentEvaluator(track, np.float32)
    for score, label in images:
        evaluator.add(score, label == 1, label == 255)
    for threshold in (0.5, 1.0, 1.7):
        assert_same(evaluator.compute(threshold), reference(images, threshold, track))


@pytest.mark.parametrize("track", ["anomaly", "obstacle"])
@pytest.mark.parametrize("protocol", ["exact", "smiyc"])
def test_tracks_equal_the_reference(
    protocol: Literal["exact", "smiyc"], track: Literal["anomaly", "obstacle"]
) -> None:
    rng = np.random.default_rng(5)
    images = [scene(rng, 90, 130, 50) for _ in range(4)]
    evaluator = AnomalyEvaluator(protocol, track)
    for score, label in images:
        evaluator.update(score, label)
    metrics = evaluator.compute()
    threshold = metrics["best_f1_threshold"]
    if protocol == "smiyc":  # scores and threshold as float16
        threshold = float(np.float16(threshold))
        images = [(score.astype(np.float16).astype(np.float32), la) for score, la in images]
    expected = reference(images, threshold, TRACKS[track])
    assert expected["tp"][25] > 0
    assert_same(metrics, expected)


def test_sizes_of_the_tracks() -> None:
    """One pixel less than the limit, and the limit itself, as bars two rows apart."""
    for name, (segment, truth) in {"anomaly": (500, 100), "obstacle": (50, 10)}.items():
        score, label = np.zeros((8, 600), np.float32), np.zeros((8, 600), np.uint8)
        label[1, : truth - 1] = 1
        label[3, :truth] = 1
        score[5, : segment - 1] = 1
        score[7, :segment] = 1
        evaluator = ComponentEvaluator(TRACKS[name], np.float16)
        evaluator.add(score, label == 1, label == 255)
        metrics = evaluator.compute(0.5)
        assert metrics["fn"][25] == 1
        assert metrics["fp"][25] == 1


def test_corners_connect_and_void_parts() -> None:
    track = Track(3, 3)
    label = np.eye(6, dtype=np.uint8)
    score = np.eye(6, dtype=np.float32)
    evaluator = ComponentEvaluator(track, np.float32)
    evaluator.add(score, label == 1, label == 255)
    assert evaluator.compute(0.5)["tp"][75] == 1
    label[3] = 255  # two pieces remain, of three pixels and of two
    evaluator = ComponentEvaluator(track, np.float32)
    evaluator.add(score, label == 1, label == 255)
    metrics = evaluator.compute(0.5)
    assert metrics["tp"][75] == 1
    assert metrics["siou"] == metrics["ppv"] == metrics["f1_star"] == 1.0


def test_a_segment_over_two_components_is_not_held_against_either() -> None:
    label = np.zeros((3, 9), np.uint8)
    label[:, :4] = 1
    label[:, 5:] = 1
    evaluator = ComponentEvaluator(Track(1, 1), np.float32)
    evaluator.add(np.ones((3, 9), np.float32), label == 1, label == 255)
    metrics = evaluator.compute(0.5)
    assert metrics["siou"] == 12 / 15  # the gap counts, the other component does not
    assert metrics["ppv"] == 24 / 27


def test_nothing_to_find_and_nothing_found() -> None:
    evaluator = ComponentEvaluator(TRACKS["anomaly"], np.float32)
    empty = np.zeros((20, 20), bool)
    evaluator.add(np.zeros((20, 20), np.float32), empty, empty)
    metrics = evaluator.compute(0.5)
    assert all(math.isnan(metrics[name]) for name in ("siou", "ppv", "f1_star"))
    assert set(metrics["tp"].values()) == {0}


@pytest.mark.parametrize("protocol", ["exact", "smiyc"])
def test_results_repeat_and_more_images_may_follow(protocol: Literal["exact", "smiyc"]) -> None:
    rng = np.random.default_rng(3)
    images = [scene(rng, 40 + 3 * index, 61, 30) for index in range(4)]  # of several sizes
    in_steps = AnomalyEvaluator(protocol, "obstacle")
    for last in range(len(images)):
        in_steps.update(*images[last])
        at_once = AnomalyEvaluator(protocol, "obstacle")
        for image in images[: last + 1]:
            at_once.update(*image)
        # repr, since NaN is unequal to itself
        assert repr(in_steps.compute()) == repr(in_steps.compute()) == repr(at_once.compute())
