"""Strips against the plain computation: resize everything, then sum over queries."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mask2kan.inference import postprocess
from mask2kan.inference.postprocess import (
    STRIP_ELEMENTS,
    Geometry,
    View,
    class_scores,
    mask_strips,
    reduce_pixels,
    strip_rows,
)
from mask2kan.inference.scores import FROM_CLASS_SCORES, SCORES

SIZES = [
    ((64, 96), (64, 96)),
    ((50, 77), (50, 77)),
    ((50, 77), (131, 203)),
    ((50, 77), (20, 33)),
    ((1, 64), (1, 64)),
    ((64, 1), (313, 5)),
    ((1, 1), (7, 9)),
]


def random_view(computed, *, queries=7, classes=5, seed=0, mirrored=False):
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-side // 32) * 8 for side in computed)
    return View(
        3 * torch.randn(queries, classes + 1, generator=generator),
        5 * torch.randn(queries, height, width, generator=generator),
        mirrored,
    )


def full_masks(view, geometry):
    """The originals' order: padded size, crop, asked-for size, sigmoid. (Q, H, W)."""
    padded = [4 * side for side in view.pred_masks.shape[1:]]
    options = {"mode": "bilinear", "align_corners": False}
    logits = F.interpolate(view.pred_masks[None], size=padded, **options)
    logits = logits[:, :, : geometry.computed[0], : geometry.computed[1]]
    masks = F.interpolate(logits, size=geometry.size, **options)[0].sigmoid()
    return masks.flip(-1) if view.mirrored else masks


def full_scores(view, geometry):
    classes = view.pred_logits.softmax(-1)[:, :-1]
    return torch.einsum("qc,qhw->chw", classes, full_masks(view, geometry))


@pytest.mark.parametrize(("computed", "size"), SIZES)
@pytest.mark.parametrize("max_elements", [1, 3000, *STRIP_ELEMENTS.values(), None])
def test_strips_equal_resizing_everything(computed, size, max_elements):
    view, geometry = random_view(computed), Geometry(computed, size)
    masks = torch.full((*size, 7), torch.nan)
    step = strip_rows([view], geometry, max_elements)
    for rows, strip in mask_strips(view, geometry, step=step):
        masks[rows] = strip
    torch.testing.assert_close(
        masks.permute(2, 0, 1), full_masks(view, geometry), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("computed", "size"), SIZES)
def test_class_scores(computed, size):
    view, geometry = random_view(computed), Geometry(computed, size)
    expected = full_scores(view, geometry).numpy()
    np.testing.assert_allclose(class_scores([view], geometry), expected, atol=1e-5, rtol=0)


def test_reductions_equal_those_of_the_full_class_scores(monkeypatch):
    monkeypatch.setitem(STRIP_ELEMENTS, "cpu", 5000)
    geometry = Geometry((50, 77), (120, 100))
    view = random_view((50, 77))
    full = full_scores(view, geometry)
    pixels = reduce_pixels([view], geometry, SCORES)
    assert pixels.semantic.dtype == np.uint8
    np.testing.assert_array_equal(pixels.semantic, full.argmax(0).numpy())
    for score in FROM_CLASS_SCORES:
        function = SCORES[score].compute
        np.testing.assert_allclose(pixels.anomaly[score], function(full).numpy(), atol=1e-5, rtol=0)
    best = view.pred_logits.softmax(-1)[:, :-1].amax(-1)
    claimed = (full_masks(view, geometry) * best[:, None, None]).sum(0)
    np.testing.assert_allclose(pixels.anomaly["eam"], (1 - claimed).numpy(), atol=1e-5, rtol=0)


def test_two_views_are_averaged():
    geometry = Geometry((50, 77), (50, 77))
    views = [random_view((50, 77)), random_view((50, 77), seed=1, mirrored=True)]
    full = [full_scores(view, geometry) for view in views]
    mean = (full[0] + full[1]) / 2
    np.testing.assert_allclose(class_scores(views, geometry), mean.numpy(), atol=1e-5, rtol=0)
    pixels = reduce_pixels(views, geometry, ("msp", "rba"))
    np.testing.assert_array_equal(pixels.semantic, mean.argmax(0).numpy())
    for score in ("msp", "rba"):
        expected = SCORES[score].compute(mean).numpy()
        np.testing.assert_allclose(pixels.anomaly[score], expected, atol=1e-5, rtol=0)


def test_views_of_several_sizes_are_averaged():
    size = (120, 100)
    geometry = Geometry((60, 50), size)
    sizes = [(60, 50), (120, 100), (24, 20)]
    views = [
        dataclasses.replace(random_view(computed, seed=seed), computed=computed)
        for seed, computed in enumerate(sizes)
    ]
    each = [
        full_scores(view, Geometry(computed, size))
        for view, computed in zip(views, sizes, strict=True)
    ]
    mean = torch.stack(each).mean(0).numpy()
    np.testing.assert_allclose(class_scores(views, geometry), mean, atol=1e-5, rtol=0)
    pixels = reduce_pixels(views, geometry, ("msp",))
    np.testing.assert_allclose(pixels.anomaly["msp"], 1 - mean.max(0), atol=1e-5, rtol=0)


def test_refinement_zeroes_what_certain_background_covers():
    """Two sure sky queries veto; the maximum stays over the classes alone."""
    view = random_view((32, 32), queries=3, classes=3)
    logits = torch.tensor([[0.0, 9.0, 0, 0], [0.0, 8.0, 0, 0], [9.0, 0.0, 0, 0]])
    masks = torch.full((3, 8, 8), -9.0)
    masks[0, :4] = 9.0
    masks[1, :, :4] = 9.0
    masks[2] = 9.0
    geometry = Geometry((32, 32), (32, 32))
    view = View(logits, masks)
    names = ("road", "sky", "car")
    full = full_scores(view, geometry)
    certain = logits.softmax(-1).amax(-1)[:2, None, None]
    vetoed = ((full_masks(view, geometry)[:2] * certain).amax(0) >= 0.5).numpy()
    assert 0 < vetoed.sum() < vetoed.size
    pixels = reduce_pixels([view], geometry, ("msp", "rba"), names)
    expected = np.where(vetoed, 0, SCORES["msp"].compute(full).numpy())
    np.testing.assert_allclose(pixels.anomaly["msp"], expected, atol=1e-6)
    assert np.allclose(pixels.anomaly["rba"][vetoed], -np.tanh(1))
    unrefined = reduce_pixels([View(logits[1:], masks[1:])], geometry, ("msp",), names)
    plain = reduce_pixels([View(logits[1:], masks[1:])], geometry, ("msp",))
    np.testing.assert_array_equal(unrefined.anomaly["msp"], plain.anomaly["msp"])


def test_peak_memory_at_2048_by_1024(monkeypatch):
    """Q=100: no resized tensor exceeds 40 MB, where one full-size mask array would take 839 MB."""
    largest = 0
    resize = postprocess._resize

    def watched(rows, size):
        nonlocal largest
        result = resize(rows, size)
        largest = max(largest, result.numel() * result.element_size())
        return result

    monkeypatch.setattr(postprocess, "_resize", watched)
    view = random_view((1024, 2048), queries=100, classes=19)
    pixels = reduce_pixels([view], Geometry((1024, 2048), (1024, 2048)), ("msp",))
    assert pixels.semantic.shape == (1024, 2048)
    assert largest < 40e6
