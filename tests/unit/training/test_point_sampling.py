"""Point sampling against values known in closed form and against grid_sample."""

from __future__ import annotations

import torch

from training.point_sampling import point_sample, sample_many, sample_masks, uncertain_points


def test_point_sample_reads_a_linear_ramp_exactly():
    width = 16
    ramp = ((torch.arange(width) + 0.5) / width).expand(1, 1, 8, width)
    points = 0.1 + 0.8 * torch.rand(1, 30, 2)
    assert torch.allclose(point_sample(ramp, points)[0, 0], points[0, :, 0], atol=1e-6)


def test_sample_masks_equals_resampling_a_float_copy():
    torch.manual_seed(0)
    masks = torch.rand(5, 9, 13) > 0.5
    index = torch.tensor([4, 0, 0, 2])
    points = torch.rand(4, 200, 2) * 1.2 - 0.1  # some outside
    expected = point_sample(masks[index, None].float(), points)[:, 0]
    assert torch.allclose(sample_masks(masks, index, points), expected, atol=1e-5)


def test_many_maps_at_shared_points_equal_each_by_itself():
    torch.manual_seed(0)
    maps = torch.randn(7, 9, 13)
    points = torch.rand(300, 2) * 1.4 - 0.2  # some outside
    points[:4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.5]])
    expected = point_sample(maps[None], points[None])[0].T
    torch.testing.assert_close(sample_many(maps, points), expected, rtol=1e-4, atol=1e-5)


def test_uncertain_points_lie_at_the_zero_crossing():
    torch.manual_seed(0)
    width = 64
    logits = (torch.arange(width) - width / 2 + 0.5).expand(3, 32, width)
    points = uncertain_points(logits, torch.rand(3, 1300, 2), 400, 300)
    assert points.shape == (3, 400, 2)
    assert (points >= 0).all()
    assert (points <= 1).all()
    distance = (points[..., 0] - 0.5).abs()
    # 300 of 1200 uniform candidates are the nearest quarter: within 1/8 of the middle.
    # (At the picture's edge half of a pixel's neighbours are zero, so points look uncertain.)
    edge = ((points - 0.5).abs() > 0.48).any(-1)
    assert distance[:, :300][~edge[:, :300]].max() < 0.16
    # The other 100 are uniform: their mean distance is 1/4.
    assert abs(distance[:, 300:].mean() - 0.25) < 0.04


def test_all_points_uniform_without_importance():
    drawn = torch.rand(2, 40, 2)
    points = uncertain_points(torch.zeros(2, 4, 4), drawn, 10, 0)
    assert torch.equal(points, drawn[:, 30:])
