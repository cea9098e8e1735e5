"""Point sampling against values known in closed form and against grid_sample."""

from __future__ import annotations

import pytest
import torch

from training.objectives.point_sampling import (
    MapTable,
    point_sample,
    sample_masks,
    uncertain_points,
)


def test_point_sample_reads_a_linear_ramp_exactly():
    width = 16
    ramp = ((torch.arange(width) + 0.5) / width).expand(1, 1, 8, width)
    points = 0.1 + 0.8 * torch.rand(1, 30, 2)
    assert torch.allclose(point_sample(ramp, points)[0, 0], points[0, :, 0], atol=1e-6)


def _points_in_and_out():
    points = torch.rand(300, 2) * 1.4 - 0.2
    points[:4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.5]])
    return points


def test_sample_masks_equals_resampling_a_float_copy():
    torch.manual_seed(0)
    masks = torch.rand(5, 9, 13) > 0.5
    points = _points_in_and_out()
    expected = point_sample(masks[None].float(), points[None])
    found = sample_masks(masks[None], points[None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_images_together_equal_each_by_itself():
    torch.manual_seed(0)
    masks, maps = torch.rand(3, 5, 9, 13) > 0.5, torch.randn(3, 4, 9, 13)
    points = torch.rand(3, 70, 2)
    for b in range(3):
        one = slice(b, b + 1)
        alone = sample_masks(masks[one], points[one])
        torch.testing.assert_close(sample_masks(masks, points)[one], alone)
        alone = MapTable([maps[one]]).at(points[one])
        torch.testing.assert_close(MapTable([maps]).at(points)[one], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_of_a_table_equal_each_by_itself(dtype):
    torch.manual_seed(0)
    maps = torch.randn(7, 9, 13).to(dtype)
    points = _points_in_and_out()
    expected = point_sample(maps[None].float(), points[None]).mT
    table = MapTable([maps[None, :2], maps[None, 2:]])
    torch.testing.assert_close(table.at(points[None]), expected, rtol=1e-4, atol=1e-5)


def test_uncertain_points_lie_at_the_zero_crossing():
    torch.manual_seed(0)
    width = 64
    logits = (torch.arange(width) - width / 2 + 0.5).expand(1, 3, 32, width)
    drawn = torch.rand(1300, 2)
    [chosen] = uncertain_points(logits, drawn[None], 400, 300)
    assert chosen.shape == (3, 400)
    assert all(len(set(row)) == 400 for row in chosen.tolist())
    points = drawn[chosen]
    distance = (points[..., 0] - 0.5).abs()
    # 300 of 1200 uniform candidates are the nearest quarter: within 1/8 of the middle.
    # (At the image's edge half of a pixel's neighbours are zero, so points look uncertain.)
    edge = ((points - 0.5).abs() > 0.48).any(-1)
    assert distance[:, :300][~edge[:, :300]].max() < 0.16
    # The other 100 are uniform: their mean distance is 1/4.
    assert abs(distance[:, 300:].mean() - 0.25) < 0.04


def test_all_points_uniform_without_importance():
    [chosen] = uncertain_points(torch.zeros(1, 2, 4, 4), torch.rand(1, 40, 2), 10, 0)
    assert chosen.tolist() == [list(range(30, 40))] * 2


def test_points_that_do_not_count_are_not_sought():
    torch.manual_seed(0)
    logits = torch.where(torch.arange(64) < 32, 0.1, 3.0).expand(1, 1, 64, 64)
    drawn = torch.rand(1, 500, 2)
    left = (drawn[..., 0] < 0.5).float()
    [[chosen]] = uncertain_points(logits, drawn, 150, 150, 1.0 - left)
    assert left[0, chosen].sum() == 0
