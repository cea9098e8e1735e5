"""How large an image becomes before it is cropped, by each recipe's rule."""

from __future__ import annotations

import numpy as np
import pytest

from training.config.recipes import recipe
from training.data.augmentation import Augmentation


def _heights(augmentation, size, count=400):
    rng = np.random.default_rng(0)
    label = np.zeros(size, np.uint8)
    return np.array([size[0] * augmentation._draw_scale(label, rng) for _ in range(count)])


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # Cityscapes: detectron2's MIN_SIZE_TRAIN, 0.5 to 2 times 1024
        ("mask2former_swin_t", (1024, 2048), (512, 2048)),
        # ADE20K: the short side from 256 to 1024, 640 at twice that for Swin-B
        ("mask2former_ade20k_swin_t", (512, 683), (256, 1024)),
        ("mask2former_ade20k_swin_b", (512, 683), (320, 1280)),
        # its longer side at most 2048: a panorama four times as wide as high stops at 512
        ("mask2former_ade20k_swin_t", (300, 1200), (256, 512)),
        # the thesis: the image within the crop of 340x680, 0.1 to 2 times
        ("thesis_swin_t_kan", (1024, 2048), (34, 680)),
        ("thesis_swin_t_kan", (1024, 1024), (34, 680)),
    ],
)
def test_heights_of_images_by_recipe(name, size, expected):
    heights = _heights(recipe(name).augmentation, size)
    assert heights.min() == pytest.approx(expected[0], rel=0.05)
    assert heights.max() == pytest.approx(expected[1], rel=0.05)
    assert heights.min() >= expected[0] - 1e-6
    assert heights.max() <= expected[1] + 1e-6


def test_a_log_uniform_factor_halves_as_often_as_it_doubles():
    augmentation = Augmentation(scale=(0.25, 4.0), distribution="log")
    factors = _heights(augmentation, (100, 100), 4000) / 100
    assert np.mean(factors < 1) == pytest.approx(0.5, abs=0.03)
    assert np.mean(factors < 0.5) == pytest.approx(0.25, abs=0.03)
