"""Spline share and curvature where they are known."""

from __future__ import annotations

import pytest
import torch

from mask2kan.errors import ConfigError
from mask2kan.inference.kan_activity import collect_queries, curvature, head_activity, spline_share
from mask2kan.modeling.heads import MLP
from mask2kan.modeling.kan.layers import KAN, KANLinear
from tests.tiny_models import tiny

ROWS = 400


def _layer(**options):
    torch.manual_seed(0)
    return KANLinear(6, 5, grid_range=(-3.0, 3.0), scale_noise=1.0, bias=True, **options)


def test_the_share_is_of_the_two_branches_variances():
    layer, x = _layer(standalone_spline_scale=False), torch.randn(ROWS, 6)
    torch.nn.init.normal_(layer.bias)  # which has no variance
    base = layer.activate(x) @ layer.base_weight.T
    spline = layer(x) - base
    expected = spline.var(0).sum() / (spline.var(0).sum() + base.var(0).sum())
    assert spline_share(layer, x) == pytest.approx(expected.item(), abs=1e-5)


def test_idle_splines_have_no_share_and_a_bare_spline_has_all():
    layer, x = _layer(), torch.randn(ROWS, 6)
    torch.nn.init.zeros_(layer.spline_weight)
    assert spline_share(layer, x) < 1e-10
    layer = _layer()
    torch.nn.init.zeros_(layer.base_weight)
    assert spline_share(layer, x) == pytest.approx(1.0)


def test_an_affine_head_has_no_curvature_and_noise_has_all_of_it():
    x = torch.randn(ROWS, 6)
    assert curvature(x, x @ torch.randn(6, 4) + 3.0) < 1e-10
    assert curvature(x, torch.randn(ROWS, 4)) == pytest.approx(1.0, abs=0.05)
    # half of the variance: y = x + an independent z of the same spread
    assert curvature(x, x + torch.randn(ROWS, 6)) == pytest.approx(0.5, abs=0.05)


def test_heads_are_measured_layer_by_layer():
    torch.manual_seed(0)
    kan, queries = KAN([6, 6, 6], standalone_spline_scale=False), torch.randn(20, 20, 6)
    actual = head_activity(kan, queries)
    rows = queries.flatten(0, 1)
    first, second = kan.layers
    assert actual.spline_shares == (spline_share(first, rows), spline_share(second, first(rows)))
    assert actual.queries == ROWS
    assert head_activity(MLP([6, 8, 6]), queries).spline_shares == ()
    with pytest.raises(ConfigError, match="at least twice as many"):
        head_activity(kan, queries[0, :5])


def test_queries_are_those_after_every_layer():
    model = tiny("mask2kan")
    images = [torch.rand(3, 64, 96) for _ in range(2)]
    rows = collect_queries(model, images)
    layers, queries = model.config.num_decoder_layers, model.config.num_queries
    assert rows.shape == (2 * layers * queries, model.config.hidden_dim)
    assert not model.transformer_decoder.mask_embed._forward_pre_hooks
    with torch.no_grad():
        last = model.transformer_decoder.mask_embed(rows[-queries:])
        expected = model(images[-1][None])["pred_masks"]
        features, _ = model.trunk(images[-1][None])
        actual = torch.einsum("qc,bchw->bqhw", last, features)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
