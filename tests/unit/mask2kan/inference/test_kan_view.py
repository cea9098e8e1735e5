"""Views of a KAN head: curves against the layers' own forward, shares and norms counted by hand."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from mask2kan import Predictor, create_model
from mask2kan.errors import ConfigError
from mask2kan.inference.kan_activity import spline_share
from mask2kan.inference.kan_view import edge_view, kan_head, layer_views, query_norms
from mask2kan.modeling.kan.edges import edge_norms
from mask2kan.modeling.kan.layers import KAN

TINY = {
    "backbone_depths": (1,) * 7,
    "backbone_width": 8,
    "hidden_dim": 16,
    "num_heads": 2,
    "num_queries": 7,
    "num_classes": 5,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "encoder_feedforward_dim": 16,
    "decoder_feedforward_dim": 16,
}
HEADS = {
    "as published": {},
    "order 2": {"spline_order": 2, "grid_size": 7},
    "tanh": {"base_activation": "tanh"},
    "identity, order 1": {"base_activation": "identity", "spline_order": 1},
    "no scaler": {"standalone_spline_scale": False},
    "moved knots": {"moved": True},
    "moved knots, order 2, no scaler": {
        "moved": True,
        "spline_order": 2,
        "standalone_spline_scale": False,
    },
}


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_kan(*, moved=False, **options):
    """Two small layers with splines as large as the base branch, (Q, I) inputs among them."""
    torch.manual_seed(0)
    kan = KAN([5, 6, 4], scale_noise=5.0, **options)
    inputs = 1.5 * torch.randn(11, 5)
    if moved:
        kan.update_grid(torch.randn(200, 5) ** 3)
        steps = kan.layers[0].grid.diff(dim=1)
        assert steps.max() > 3 * steps.min()
    return kan, inputs


@torch.no_grad()
def edge_by_differences(layer, i, o, points):
    """phi at each point, from the layer's forward with only input i changed.

    The other inputs are kept at what they are; far beyond the knots phi is the base branch alone,
    which gives the constant that differences leave open.
    """
    act = {
        "silu": nn.functional.silu,
        "tanh": torch.tanh,
        "identity": lambda x: x,
    }[layer.base_activation]
    far = layer.grid.max() + 1
    rows = torch.randn(1, layer.in_features).repeat(len(points) + 1, 1)
    rows[:-1, i] = torch.as_tensor(points)
    rows[-1, i] = far
    out = layer(rows)[:, o]
    return (out[:-1] - out[-1] + layer.base_weight[o, i] * act(far)).numpy()


# ----------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("edge", [(0, 0, 0), (0, 3, 5), (1, 2, 1), (1, 5, 3)])
def test_the_curve_is_the_layers_own_forward(options, edge):
    kan, inputs = make_kan(**options)
    view = edge_view(kan, *edge, inputs, num_points=77)
    layer = kan.layers[edge[0]]
    assert (view.layer, view.input, view.output) == edge
    assert view.x.shape == view.total.shape == (77,)
    assert np.abs(view.spline).max() > 0.01
    expected = edge_by_differences(layer, edge[1], edge[2], view.x)
    np.testing.assert_allclose(view.total, expected, atol=1e-5)
    np.testing.assert_allclose(view.base + view.spline, view.total, atol=1e-6)
    np.testing.assert_array_equal(view.knots, layer.grid[edge[1]])
    order = layer.spline_order
    assert view.inner == (view.knots[order], view.knots[order + layer.grid_size])

    # the image's activations: what the layers before make of its queries
    with torch.no_grad():
        arriving = inputs if edge[0] == 0 else kan.layers[0](inputs)
    np.testing.assert_allclose(view.activations, arriving[:, edge[1]], atol=1e-6)
    expected = edge_by_differences(layer, edge[1], edge[2], view.activations)
    np.testing.assert_allclose(view.values, expected, atol=1e-5)
    assert view.norm == pytest.approx(np.abs(expected).mean(), abs=1e-5)


def test_shares_outside_are_counted_per_edge():
    kan, _ = make_kan()  # inner grid -1 to 1, knots -2.2 to 2.2
    inputs = torch.zeros(8, 5)
    inputs[:, 1] = torch.tensor([-3, -2, -1, 0, 0.5, 1, 1.5, 2.5])
    view = edge_view(kan, 0, 1, 0, inputs)
    assert (view.outside_inner, view.outside_knots) == (4 / 8, 2 / 8)
    assert view.inner == pytest.approx((-1, 1))
    inner_edge = edge_view(kan, 0, 2, 0, inputs)
    assert (inner_edge.outside_inner, inner_edge.outside_knots) == (0, 0)
    whole = layer_views(kan, inputs)[0]
    assert whole.outside_inner == pytest.approx(4 / 40)
    assert whole.outside_knots == pytest.approx(2 / 40)


def test_a_layer_says_how_much_its_splines_do():
    kan, _ = make_kan()
    inputs = torch.randn(30, 5)
    first, second = layer_views(kan, inputs)
    assert first.spline_share == spline_share(kan.layers[0], inputs)
    assert second.to_json()["spline_share"] == spline_share(kan.layers[1], kan.layers[0](inputs))
    assert layer_views(kan, inputs[:1])[0].spline_share == 0


def test_an_edge_without_a_image_and_as_json():
    kan, inputs = make_kan()
    bare = edge_view(kan, 1, 2, 3)
    imageless = (
        "activations",
        "values",
        "norm",
        "spline_norm",
        "outside_inner",
        "outside_knots",
    )
    assert all(getattr(bare, name) is None for name in imageless)
    assert bare.x.shape == (200,)
    full = edge_view(kan, 1, 2, 3, inputs)
    for view in (bare, full):
        read = json.loads(json.dumps(view.to_json(), allow_nan=False))
        assert read["x"] == [float(value) for value in view.x]
        assert read["inner"] == list(view.inner)
        assert (read["layer"], read["input"], read["output"]) == (1, 2, 3)
        assert (read["activations"] is None) == (view is bare)
    assert read["norm"] == full.norm
    assert len(read["values"]) == len(read["activations"]) == 11
    np.testing.assert_array_equal(bare.total, full.total)
    inner = np.linspace(*bare.inner, 200, dtype=np.float32)
    expected = np.abs(edge_by_differences(kan.layers[1], 2, 3, inner)).mean()
    assert bare.grid_norm == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
def test_layers_norms_and_shares(options):
    kan, inputs = make_kan(**options)
    views = layer_views(kan, inputs, num_strongest=4)
    assert [(view.index, view.in_features, view.out_features) for view in views] == [
        (0, 5, 6),
        (1, 6, 4),
    ]
    rows = inputs
    for view, layer in zip(views, kan.layers, strict=True):
        assert view.base_activation == options.get("base_activation", "silu")
        assert view.spline_order == options.get("spline_order", 3)
        assert view.grid_size == options.get("grid_size", 5)
        norms = np.array(
            [
                [
                    np.abs(edge_by_differences(layer, i, o, rows[:, i])).mean()
                    for i in range(layer.in_features)
                ]
                for o in range(layer.out_features)
            ]
        )
        assert view.norms.dtype == view.grid_norms.dtype == np.float32
        np.testing.assert_allclose(view.norms, norms, atol=1e-5)
        np.testing.assert_array_equal(view.grid_norms, edge_norms(layer))
        largest = np.sort(view.norms, axis=None)[::-1][:4]
        np.testing.assert_array_equal([edge.norm for edge in view.strongest], largest)
        for edge in view.strongest:
            assert view.norms[edge.output, edge.input] == edge.norm
        grid, order = layer.grid.numpy(), layer.spline_order
        activations = rows.numpy()
        knots = (activations >= grid[:, 0]) & (activations <= grid[:, -1])
        low, high = grid[:, order], grid[:, order + layer.grid_size]
        inner = (activations >= low) & (activations <= high)
        assert view.outside_inner == pytest.approx(1 - inner.mean())
        assert view.outside_knots == pytest.approx(1 - knots.mean())
        with torch.no_grad():
            rows = layer(rows)


@torch.no_grad()
def splines_by_base(layer, rows):
    """(N, O, I) of the splines: each edge by differences, less its base branch."""
    phi = np.array(
        [
            [
                edge_by_differences(layer, i, o, rows[:, i]) - layer.base_weight[o, i].numpy() * act
                for i, act in enumerate(layer.activate(rows).T.numpy())
            ]
            for o in range(layer.out_features)
        ]
    )
    return phi.transpose(2, 0, 1)


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
def test_edges_are_ranked_by_how_far_their_splines_move_the_image(options):
    kan, inputs = make_kan(**options)
    rows = inputs
    for view, layer in zip(layer_views(kan, inputs, num_strongest=4), kan.layers, strict=True):
        splines = splines_by_base(layer, rows)
        np.testing.assert_allclose(view.spline_norms, np.abs(splines).mean(0), atol=1e-5)
        largest = np.sort(view.spline_norms, axis=None)[::-1][:4]
        np.testing.assert_array_equal([edge.norm for edge in view.strongest_by_spline], largest)
        first = view.strongest_by_spline[0]
        assert view.spline_norms[first.output, first.input] == first.norm
        seen = edge_view(kan, view.index, first.input, first.output, inputs)
        assert seen.spline_norm == pytest.approx(first.norm, abs=1e-5)
        for query in (0, 7):
            norms = query_norms(kan, view.index, inputs, query)
            np.testing.assert_allclose(norms.spline, np.abs(splines[query]), atol=1e-5)
            expected = [
                [
                    edge_view(kan, view.index, i, o, inputs).values[query]
                    for i in range(layer.in_features)
                ]
                for o in range(layer.out_features)
            ]
            np.testing.assert_allclose(norms.total, np.abs(expected), atol=1e-5)
        with torch.no_grad():
            rows = layer(rows)


def test_idle_splines_have_no_norm():
    """However large the base branch is, nothing of its rounding is taken for a spline."""
    kan, inputs = make_kan()
    with torch.no_grad():
        kan.layers[0].spline_weight.zero_()
        kan.layers[0].base_weight.mul_(1000)
    assert (layer_views(kan, inputs)[0].spline_norms == 0).all()


def test_queries_that_do_not_exist_are_refused():
    kan, inputs = make_kan()
    for query in (-1, 11):
        with pytest.raises(ConfigError, match=f"Query {query} does not exist.*11 queries, 0 to 10"):
            query_norms(kan, 0, inputs, query)
    with pytest.raises(ConfigError, match="Layer 2 does not exist"):
        query_norms(kan, 2, inputs, 0)


def test_layers_as_json():
    kan, inputs = make_kan()
    view = layer_views(kan, inputs, num_strongest=1000)[0]
    assert len(view.strongest) == 30
    read = json.loads(json.dumps(view.to_json(), allow_nan=False))
    assert read["strongest"][0] == {
        "input": view.strongest[0].input,
        "output": view.strongest[0].output,
        "norm": view.strongest[0].norm,
    }
    assert read["strongest_by_spline"][0]["norm"] == view.strongest_by_spline[0].norm
    assert "norms" not in read
    assert "spline_norms" not in read
    assert len(layer_views(kan, inputs)[0].strongest) == 12


# ---------------------------------------------------------------------------- queries of an image


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("head", ["kan", "mlp"])
def test_a_predictions_queries_give_its_masks(head, flip):
    torch.manual_seed(0)
    model = create_model("mask2kan_mobilenetv2", mask_embed=head, **TINY).eval()
    prediction = Predictor(model, device="cpu", dtype="float32", flip=flip)(photo(40, 52))
    assert (prediction.queries.shape, prediction.queries.dtype) == ((7, 16), np.float32)
    images = torch.from_numpy(photo(40, 52)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        embedded = model.transformer_decoder.mask_embed(torch.from_numpy(prediction.queries))
        masks = torch.einsum("qc,chw->qhw", embedded, model.trunk(images).mask_features[0])
    np.testing.assert_allclose(masks, prediction.pred_masks, atol=1e-4)


def test_from_an_image_to_its_strongest_edges():
    torch.manual_seed(0)
    model = create_model("mask2kan_mobilenetv2", **TINY)
    prediction = Predictor(model, device="cpu", dtype="bfloat16")(photo(64, 64))
    queries = torch.from_numpy(prediction.queries)
    kan = kan_head(model)
    for view in layer_views(kan, queries):
        for edge in view.strongest:
            actual = edge_view(kan, view.index, edge.input, edge.output, queries)
            assert actual.norm == pytest.approx(edge.norm, rel=1e-4)
            assert actual.grid_norm == pytest.approx(
                view.grid_norms[edge.output, edge.input], rel=1e-5
            )


# ---------------------------------------------------------------------------------------- refusals


def test_a_head_that_is_no_kan_is_refused():
    mlp = create_model("mask2former_mobilenetv2", **TINY)
    head = mlp.transformer_decoder.mask_embed
    for call in (
        lambda: kan_head(mlp),
        lambda: layer_views(head, torch.zeros(1, 16)),
        lambda: edge_view(head, 0, 0, 0),
    ):
        with pytest.raises(ConfigError, match=r"This model's head \(mask_embed\) is an MLP"):
            call()
    with pytest.raises(ConfigError, match="is missing"):
        kan_head(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="is of type Linear"):
        layer_views(nn.Linear(2, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("layer", [-1, 2])
def test_layers_that_do_not_exist_are_refused(layer):
    with pytest.raises(ConfigError, match=f"Layer {layer} does not exist.*2 layers, 0 to 1"):
        edge_view(make_kan()[0], layer, 0, 0)


@pytest.mark.parametrize("edge", [(-1, 0), (5, 0), (0, -1), (0, 6)])
def test_edges_that_do_not_exist_are_refused(edge):
    with pytest.raises(ConfigError, match="does not exist; the layer has 5 inputs and 6 outputs"):
        edge_view(make_kan()[0], 0, *edge)


def test_inputs_and_counts_that_do_not_fit_are_refused():
    kan, inputs = make_kan()
    for wrong in (inputs[:, :4], inputs[None], inputs[:0]):
        with pytest.raises(ConfigError, match=r"must be \(Q, 5\), at least one query"):
            layer_views(kan, wrong)
        with pytest.raises(ConfigError, match=r"must be \(Q, 5\), at least one query"):
            edge_view(kan, 0, 0, 0, wrong)
    with pytest.raises(ConfigError, match="num_strongest is 0"):
        layer_views(kan, inputs, num_strongest=0)
    with pytest.raises(ConfigError, match="num_points is 1"):
        edge_view(kan, 0, 0, 0, num_points=1)
