"""The loop that every evaluation goes through, and its meters."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.measure import ClassMeter, Extremes, ScoreMeter, evenly_spread, measure


class Images:
    """Five images of one shade each; the left half of a label is class or kind 1."""

    names = [*"abcde"]  # noqa: RUF012

    def arrays(self, index):
        label = np.zeros((4, 4), np.uint8)
        label[:, :2] = 1
        return np.full((4, 4, 3), index, np.uint8), label


def test_every_model_s_prediction_goes_to_its_own_meters_in_order():
    seen = []
    images = Images()
    chosen = evenly_spread(images, 3)
    meters = [
        [lambda sample, shade, name=name: seen.append((name, sample.name, shade))] * count
        for name, count in (("one", 1), ("two", 2))
    ]
    went = measure(
        lambda sample: [sample.image.max(), -sample.image.max().astype(int)],
        *(images, chosen, meters),
        disable=True,
    )
    assert went
    assert chosen == [0, 2, 4]
    assert seen == [
        *(("one", "a", 0), ("two", "a", 0), ("two", "a", 0)),
        *(("one", "c", 2), ("two", "c", -2), ("two", "c", -2)),
        *(("one", "e", 4), ("two", "e", -4), ("two", "e", -4)),
    ]


def test_it_stops_when_asked_and_says_so():
    seen = []
    meters = [[lambda sample, _: seen.append(sample.index)]]
    stop = lambda: len(seen) == 2  # noqa: E731
    went = measure(lambda _: [None], Images(), range(5), meters, stop=stop, disable=True)
    assert not went
    assert seen == [0, 1]


def test_a_meter_too_few_is_no_silent_gap():
    with pytest.raises(ValueError, match="zip"):
        measure(lambda _: [1, 2], Images(), [0], [[]], disable=True)


def test_meters_count_what_they_are_given():
    images = Images()
    classes = ClassMeter(["sky", "road"], lambda half: half)
    half = np.repeat([[1, 0, 0, 0]], 4, 0).astype(np.uint8)
    scores = ScoreMeter(lambda half, name: half.astype(np.float32), ["msp"])
    meters = [[classes, scores]]
    measure(lambda _: [half], images, range(5), meters, disable=True)
    assert classes.compute()["iou_per_class"] == {"sky": 2 / 3, "road": 0.5}
    assert scores.about() == {"pictures": 5, "prevalence": 0.5}
    assert scores.evaluators["msp"].compute()["ap"] == pytest.approx(0.75)


def test_the_worst_and_the_best_are_shown_and_all_are_drawn():
    drawn, shown = [], []
    qualities = [0.5, 0.1, np.nan, 0.9, 0.3]
    extremes = Extremes(
        lambda sample, _: qualities[sample.index], lambda name, *_: drawn.append(name)
    )
    many = Images()
    measure(lambda _: [None], many, [*range(5), 0, 1, 3], [[extremes]], disable=True)
    assert drawn == [*"abcde", *"abd"]
    extremes.show(many, lambda _: None, lambda name, *_: shown.append(name))
    assert shown == ["b", "b", "e", "a", "d", "d"]
