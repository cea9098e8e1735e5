"""The queries that matter in an image, against sums over the raw masks."""

import numpy as np
import pytest
import torch

from mask2kan.errors import ConfigError
from mask2kan.inference.postprocess import View
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.query_masks import query_masks

NAMES = ("road", "car", "sky")
PALETTE = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=np.uint8)


def made_up(logits, masks, computed, *, mirrored=()):
    """A prediction of one view, and of others that must not count."""
    views = [View(torch.tensor(logits), torch.tensor(masks))]
    views += [View(-views[0].pred_logits, -views[0].pred_masks, mirrored=True) for _ in mirrored]
    return Prediction(
        image=np.zeros((*computed, 3), np.uint8),
        views=tuple(views),
        compute_size=computed,
        class_names=NAMES,
        palette=PALETTE,
        calibration={},
        spent={},
        notes=(),
    )


@pytest.mark.parametrize("mirrored", [(), (True,)])
def test_queries_come_by_what_they_claim_of_the_image(mirrored):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (9, 4)).astype(np.float32)
    masks = rng.normal(0, 4, (9, 16, 24)).astype(np.float32)  # 64 × 96 with padding
    listed = query_masks(made_up(logits, masks, (40, 72), mirrored=mirrored), count=6)
    p = np.exp(logits.astype(float))
    p /= p.sum(axis=1, keepdims=True)
    m = 1 / (1 + np.exp(-masks[:, :10, :18].astype(float)))  # without it
    weights = p[:, :3].max(axis=1) * m.mean(axis=(1, 2))
    assert [one.query for one in listed] == np.argsort(-weights)[:6].tolist()
    for one in listed:
        best = int(p[one.query].argmax())
        assert one.label.name == (*NAMES, "no object")[best]
        assert one.label.probability == pytest.approx(p[one.query].max())
        assert one.color == (None if best == 3 else tuple(PALETTE[best]))
        assert one.weight == pytest.approx(weights[one.query], abs=1e-6)
        assert one.area == pytest.approx((m[one.query] >= 0.5).mean())
        assert one.mask.shape == (10, 18)
        np.testing.assert_allclose(one.mask, 255 * m[one.query], atol=0.51)


def test_a_query_of_half_the_image_has_half_its_area():
    masks = np.full((2, 8, 8), -20, np.float32)
    masks[1, :, :4] = 20
    first, second = query_masks(made_up([[9.0, 0, 0, 0], [0, 9.0, 0, 0]], masks, (32, 32)), count=9)
    assert (first.query, first.label.name, first.area) == (1, "car", 0.5)
    assert (second.query, second.area) == (0, 0)


def test_there_is_at_least_one():
    with pytest.raises(ConfigError, match="count is 0"):
        query_masks(made_up([[0.0] * 4], np.zeros((1, 8, 8), np.float32), (32, 32)), count=0)
