"""Objects found and regions reported for nothing, counted by hand."""

from __future__ import annotations

import numpy as np

from training.metrics.regions import RegionCounter


def test_objects_and_false_regions_by_hand():
    label = np.zeros((40, 60), np.uint8)
    label[2:12, 2:12] = 1  # found: 60 of its 100 pixels
    label[2:12, 20:30] = 1  # missed: 40 of 100
    label[20:23, 2:5] = 1  # 9 pixels: too small to be an object
    label[30:40, 40:60] = 255
    reported = np.zeros((40, 60), bool)
    reported[2:12, 2:8] = True
    reported[2:12, 20:24] = True
    reported[20:24, 2:6] = True  # touches an anomaly, however small: not false
    reported[20:30, 20:30] = True  # false
    reported[20, 50] = True  # false, but smaller than what is reported
    reported[32:38, 42:50] = True  # wholly void: says nothing
    counter = RegionCounter()
    counter.update(reported, label, smallest=4)
    assert counter.compute() == {"objects": 2, "found": 1, "false_median": 1, "false_mean": 1}
    counter.update(np.zeros((40, 60), bool), label, smallest=4)
    counter.update(reported, np.zeros((40, 60), np.uint8), smallest=4)
    assert counter.compute() == {"objects": 4, "found": 1, "false_median": 1, "false_mean": 2}


def test_diagonal_neighbours_are_one_object():
    label = np.zeros((30, 30), np.uint8)
    label[0:8, 0:8], label[8:16, 8:16] = 1, 1
    counter = RegionCounter()
    counter.update(label == 1, label, smallest=1)
    assert counter.compute()["objects"] == 1
