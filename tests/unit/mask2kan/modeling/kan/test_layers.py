"""The KAN against scipy's B-splines and least squares, and at its edges."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import scipy.interpolate
import scipy.linalg
import torch
import torch.nn.functional as F

from mask2kan.errors import ConfigError, NumericsError
from mask2kan.modeling.config import BASE_ACTIVATIONS
from mask2kan.modeling.kan.edges import EdgeCurve, activation_norms, edge_curve, edge_norms
from mask2kan.modeling.kan.fast_path import edge_features, feature_table
from mask2kan.modeling.kan.grid import quantile_grid, refit
from mask2kan.modeling.kan.layers import KAN, KANLinear, edge_entropy
from mask2kan.modeling.kan.splines import spline_basis

REFERENCE_ACTIVATIONS = {
    "silu": lambda x: x * torch.sigmoid(x),
    "relu": lambda x: x.clamp_min(0),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_knots(features: int, intervals: int, order: int, dtype=torch.float32) -> torch.Tensor:
    widths = 0.05 + torch.rand(features, intervals + 2 * order, dtype=dtype)
    knots = torch.cat([torch.zeros(features, 1, dtype=dtype), widths.cumsum(1)], dim=1)
    return knots - knots.mean(1, keepdim=True)


def scipy_basis(x: np.ndarray, knots: np.ndarray, order: int) -> np.ndarray:
    """(N, I), (I, n) -> (N, I, n - 1 - order) in float64."""
    columns = []
    for feature in range(knots.shape[0]):
        t, values = knots[feature].astype(np.float64), x[:, feature].astype(np.float64)
        elements = [
            scipy.interpolate.BSpline.basis_element(t[i : i + order + 2], extrapolate=False)(values)
            for i in range(len(t) - 1 - order)
        ]
        columns.append(np.nan_to_num(np.stack(elements, axis=-1)))
    return np.stack(columns, axis=1)


def effective_spline(layer: KANLinear, x: torch.Tensor) -> np.ndarray:
    """(N, O, I) float64: each edge's scaled spline, by scipy, from the stored numbers."""
    basis = scipy_basis(x.numpy(), layer.grid.numpy(), layer.spline_order)
    weight = layer.spline_weight.detach().double()
    if layer.standalone_spline_scale:
        weight = weight * layer.spline_scaler.detach().double().unsqueeze(-1)
    return np.einsum("nip,oip->noi", basis, weight.numpy())


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# ---------------------------------------------------------------------------------------- basis


def tabulated_basis(x: torch.Tensor, grid: torch.Tensor, order: int) -> torch.Tensor:
    """``spline_basis`` by the lookup that an eager CPU pass uses; checks its first column too."""
    activated = x.detach().nan_to_num().cos()
    features = edge_features(x, activated, feature_table(grid, order, x.dtype))
    features = features.view(*x.shape, -1)
    assert torch.equal(features[..., 0].isfinite(), x.isfinite())
    finite = x.isfinite()
    torch.testing.assert_close(features[..., 0][finite], activated[finite], rtol=0, atol=0)
    return features[..., 1:]


both_ways = pytest.mark.parametrize("basis", [spline_basis, tabulated_basis])


@both_ways
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("intervals", [1, 2, 5, 11])
def test_basis_is_scipys(basis, order, intervals):
    grid = random_knots(4, intervals, order)
    low, high = grid[:, 0], grid[:, -1]
    spread = torch.lerp(low - 0.5, high + 0.5, torch.rand(300, 1))
    nudge = torch.tensor(1e-4)
    at_knots = grid.T
    x = torch.cat([spread, at_knots, at_knots + nudge, at_knots - nudge, (low - 99)[None]])
    ours = basis(x, grid, order)
    assert ours.shape == (len(x), 4, intervals + order)
    np.testing.assert_allclose(ours, scipy_basis(x.numpy(), grid.numpy(), order), atol=1e-5)


@both_ways
@pytest.mark.parametrize("order", [1, 3, 5])
def test_basis_sums_to_one_inside_only(basis, order):
    grid = random_knots(3, 6, order, torch.float64)
    inside = torch.lerp(grid[:, order], grid[:, -1 - order], torch.rand(50, 1).double())
    torch.testing.assert_close(
        basis(inside, grid, order).sum(-1), torch.ones(50, 3).double(), atol=1e-12, rtol=0
    )
    # At and beyond the ends of the last knots: exactly nothing.
    outside = torch.stack([grid[:, 0] - 1e-9, grid[:, -1], grid[:, -1] + 1e30])
    assert (basis(outside, grid, order) == 0).all()


@both_ways
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_basis_gradcheck(basis, order):
    grid = random_knots(3, 4, order, torch.float64)
    x = torch.lerp(grid[:, 0] - 0.3, grid[:, -1] + 0.3, torch.rand(40, 1).double())
    assert torch.autograd.gradcheck(lambda v: basis(v, grid, order), (x.requires_grad_(),))


@both_ways
@pytest.mark.parametrize("order", [1, 2, 3])
def test_coinciding_knots_give_zeros_not_nan(basis, order):
    grid = random_knots(2, 5, order)
    grid[0, order + 1] = grid[0, order + 2]
    grid[1] = 0.25
    x = torch.cat([grid.T, grid.T + 0.01, grid.T - 0.01]).requires_grad_()
    values = basis(x, grid, order)
    assert values.isfinite().all()
    assert (values[:, 1] == 0).all()
    values.square().sum().backward()
    assert x.grad.isfinite().all()
    # Scipy's own answer with a double knot.
    points = np.linspace(float(grid[0, order]) + 1e-3, float(grid[0, -1 - order]) - 1e-3, 50)
    expected = scipy.interpolate.BSpline.design_matrix(
        points, grid[0].double().numpy(), order
    ).toarray()
    ours = basis(torch.tensor(points)[:, None], grid[:1].double(), order)[:, 0]
    np.testing.assert_allclose(ours, expected, atol=1e-10)


@pytest.mark.parametrize("width", [1e-6, 1e-3])
def test_tabulated_basis_on_a_very_uneven_grid(width):
    """A cell a million times narrower than its neighbours: the least the grid update allows."""
    grid = torch.linspace(-2, 2, 12).repeat(3, 1)
    grid[:, 6:] = grid[:, 6:] - grid[:, 6:7] + grid[:, 5:6] + width
    share = torch.rand(200, 1)
    x = torch.cat(
        [torch.lerp(grid[:, 5], grid[:, 6], share), torch.lerp(grid[:, 0], grid[:, -1], share)]
    )
    expected = scipy_basis(x.numpy(), grid.numpy(), 3)
    # x itself is a rounded number, which moves it by a share of so narrow a cell
    np.testing.assert_allclose(tabulated_basis(x, grid, 3), expected, atol=1e-5)


def test_table_follows_the_grid_however_it_changes():
    layer = KANLinear(4, 3)
    x = torch.randn(20, 4)
    with torch.inference_mode():
        first = layer(x)
    layer.grid.data.mul_(1.5)  # behind the back of every version counter
    with torch.inference_mode():
        second = layer(x)
    expected = F.linear(F.silu(x), layer.base_weight) + torch.einsum(
        "nip,oip->no", spline_basis(x, layer.grid, 3), layer.scaled_spline_weight()
    )
    torch.testing.assert_close(second, expected.detach())
    assert not torch.allclose(first, second)
    # the table made while nothing was recorded serves a recorded pass, and a copied layer
    copy.deepcopy(layer)(x.requires_grad_()).sum().backward()
    assert x.grad.isfinite().all()


def test_shared_weights_change_nothing():
    network = KAN([6, 5, 4], standalone_spline_scale=False)
    x = torch.randn(9, 6)
    shared = network.edge_weights()
    assert torch.equal(network(x, shared), network(x))
    (network(x, shared) + network(2 * x, shared)).sum().backward()
    grads = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    (network(x) + network(2 * x)).sum().backward()
    for parameter, grad in zip(network.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


# ---------------------------------------------------------------------------------------- layer


@pytest.mark.parametrize("activation", BASE_ACTIVATIONS)
@pytest.mark.parametrize("scaler", [True, False])
def test_layer_is_its_formula(activation, scaler):
    layer = KANLinear(5, 4, base_activation=activation, standalone_spline_scale=scaler)
    assert hasattr(layer, "spline_scaler") is scaler
    layer.grid.copy_(random_knots(5, 5, 3))
    layer.spline_weight.data.normal_()
    x = torch.randn(2, 6, 5) * 2
    rows = x.reshape(-1, 5)
    base = REFERENCE_ACTIVATIONS[activation](rows.double()) @ layer.base_weight.double().T
    expected = base.detach().numpy() + effective_spline(layer, rows).sum(-1)
    assert layer(x).shape == (2, 6, 4)
    np.testing.assert_allclose(layer(x).detach().reshape(-1, 4), expected, atol=2e-5)


@pytest.mark.parametrize("scaler", [True, False])
def test_network_gradcheck(scaler):
    network = KAN([3, 4, 2], standalone_spline_scale=scaler).double()
    for layer in network.layers:
        layer.spline_weight.data.normal_()
    names = [name for name, _ in network.named_parameters()]
    x = (torch.rand(5, 3, dtype=torch.float64) * 5 - 2.5).requires_grad_()

    def run(x, *parameters):
        return torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *network.parameters()))


def test_names_shapes_and_uniform_grid_are_efficient_kans():
    layer = KANLinear(6, 4, grid_size=5, spline_order=3)
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert shapes == {
        "grid": (6, 12),
        "base_weight": (4, 6),
        "spline_weight": (4, 6, 8),
        "spline_scaler": (4, 6),
    }
    expected = torch.arange(-3, 9) * (2 / 5) - 1
    assert torch.equal(layer.grid, expected.expand(6, -1))
    assert next(iter(KAN([6, 5, 4]).state_dict())) == "layers.0.base_weight"


@pytest.mark.parametrize("scaler", [True, False])
def test_initial_spline_interpolates_small_noise(scaler):
    layer = KANLinear(
        64, 64, grid_size=4, scale_noise=0.8, scale_spline=0.5, standalone_spline_scale=scaler
    )
    at_knots = layer.grid[:, 3:-3].T
    basis = spline_basis(at_knots, layer.grid, 3)
    noise = torch.einsum("nip,oip->noi", basis, layer.spline_weight).detach()
    bound = 0.5 * 0.8 / 4 * (1 if scaler else 0.5)
    assert noise.abs().max() <= bound * 1.0001
    assert noise.abs().max() >= bound * 0.99
    assert noise.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert layer.base_weight.abs().max() <= 1 / math.sqrt(64)


def test_empty_batch():
    network = KAN([6, 5, 4])
    x = torch.empty(0, 7, 6, requires_grad=True)
    network(x).sum().backward()
    assert network(x).shape == (0, 7, 4)
    assert all((p.grad == 0).all() for p in network.parameters())


# ------------------------------------------------------------------------------------ precision


def test_half_and_autocast_compute_in_float32():
    network = KAN([8, 8, 8])
    x = torch.randn(20, 8).bfloat16()
    # Each layer rounds its input and output only.
    expected = network.layers[1](network.layers[0](x.float()).bfloat16().float())
    ours = network(x)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, expected.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x.float()), network.float()(x.float()))
        assert network(x.float()).dtype == torch.float32
        assert activation_norms(network.layers[0], x.float()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_model_keeps_its_knots(dtype):
    network = KAN([8, 8])
    network.update_grid(torch.randn(100, 8) * 0.005 + 3)
    knots = network.layers[0].grid.clone()
    network.to(dtype)
    assert network.layers[0].base_weight.dtype == dtype
    assert torch.equal(network.layers[0].grid, knots)
    out = network((torch.randn(10, 8) * 0.005 + 3).to(dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()


def test_float64_stays_float64():
    layer = KANLinear(4, 3).double()
    assert layer.grid.dtype == torch.float64
    x = torch.rand(50, 4, dtype=torch.float64) * 2 - 1
    spline = effective_spline(layer, x).sum(-1)
    expected = spline + (F.silu(x) @ layer.base_weight.T).detach().numpy()
    np.testing.assert_allclose(layer(x).detach(), expected, atol=1e-13)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
def test_non_finite_input_shows(bad, activation):
    layer = KANLinear(4, 3, base_activation=activation)
    with torch.no_grad():
        layer.base_weight.zero_()
        layer.spline_weight.zero_()
    x = torch.zeros(2, 4)
    x[0, 2] = bad
    out = layer(x)
    assert not out[0].isfinite().any()
    assert out[1].isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.3, 1e4, -1e4, 1e30])
def test_extreme_input_is_finite(value):
    network = KAN([6, 6, 6])
    x = torch.full((4, 6), value, requires_grad=True)
    out = network(x)
    assert out.isfinite().all()
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


# ---------------------------------------------------------------------------- compile and export


@pytest.mark.parametrize("order", [1, 3])
def test_compiles_without_graph_breaks(order):
    network = KAN([6, 5, 4], spline_order=order)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(9, 6, requires_grad=True)
    torch.testing.assert_close(compiled(x), network(x))
    bad = torch.zeros_like(x)
    bad[:3, 2] = torch.tensor([math.nan, math.inf, -math.inf])
    assert torch.equal(compiled(bad).isfinite(), network(bad).isfinite())
    ours = torch.autograd.grad(compiled(x).square().sum(), [x, *network.parameters()])
    eager = torch.autograd.grad(network(x).square().sum(), [x, *network.parameters()])
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b)


def test_compiles_under_autocast():
    network = KAN([6, 5])
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(9, 6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), network(x))


def test_exports_with_a_free_batch():
    network = KAN([6, 5, 4]).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (torch.randn(3, 2, 6),), dynamic_shapes=({0: batch},))
    x = torch.randn(7, 2, 6) * 2
    torch.testing.assert_close(program.module()(x), network(x))


# ---------------------------------------------------------------------------------- grid update


def scattered(rows: int, features: int) -> torch.Tensor:
    return torch.randn(rows, features) * torch.linspace(0.3, 2, features) + 0.2


def random_layer(scaler: bool, order: int = 3, size: int = 5, features: int = 6) -> KANLinear:
    layer = KANLinear(
        features, 4, grid_size=size, spline_order=order, standalone_spline_scale=scaler
    )
    layer.spline_weight.data.normal_()
    return layer


@pytest.mark.parametrize("scaler", [True, False])
@pytest.mark.parametrize(("order", "size"), [(1, 4), (2, 5), (3, 5), (3, 8), (5, 3)])
def test_grid_update_is_the_least_squares_optimum(scaler, order, size):
    layer = random_layer(scaler, order, size)
    x = scattered(400, 6)
    before = effective_spline(layer, x)
    old_grid, parameter = layer.grid.clone(), layer.spline_weight
    layer.update_grid(x.reshape(20, 20, 6))
    after = effective_spline(layer, x)
    assert layer.spline_weight is parameter  # an optimiser holds it
    assert not torch.equal(old_grid, layer.grid)
    basis = scipy_basis(x.numpy(), layer.grid.numpy(), order)
    for feature in range(6):
        refit = scipy.linalg.lstsq(basis[:, feature], before[:, :, feature])[0]
        assert relative(after[:, :, feature], basis[:, feature] @ refit) < 1e-4


@pytest.mark.parametrize("scaler", [True, False])
def test_function_is_unchanged_where_the_new_space_contains_the_old(scaler):
    layer = random_layer(scaler)
    if scaler:
        layer.spline_scaler.data[0, 0] = 0.0
        layer.spline_scaler.data[1, 1] = 1e-20
        layer.spline_scaler.data[2, 2] = -3.0
    x = torch.rand(600, 6) * 4.4 - 2.2
    before, output = effective_spline(layer, x), layer(x).detach()
    # Every old interval halved, so that all old knots are kept.
    old = layer.grid
    inserted = (old[:, 1:] + old[:, :-1]) / 2
    step = 0.2 * torch.arange(1, 4)
    finer = torch.cat([old, inserted, old[:, :1] - step, old[:, -1:] + step], dim=1)
    finer = finer.sort(dim=1).values
    weight = refit(layer.spline_weight, x, layer.grid, finer, 3)
    refitted = KANLinear(6, 4, grid_size=22, standalone_spline_scale=scaler)
    refitted.load_state_dict({**layer.state_dict(), "grid": finer, "spline_weight": weight})
    np.testing.assert_allclose(effective_spline(refitted, x), before, atol=1e-4)
    torch.testing.assert_close(refitted(x), output, atol=1e-4, rtol=1e-4)


def test_refit_on_the_same_grid_changes_nothing():
    layer = random_layer(scaler=True)
    x = torch.rand(500, 6) * 4.4 - 2.2
    weight = refit(layer.spline_weight, x, layer.grid, layer.grid, 3)
    torch.testing.assert_close(weight, layer.spline_weight.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scaler", [True, False])
def test_update_inside_one_old_interval_leaves_the_function(scaler):
    # Between two knots the old spline is one polynomial, which any grid's splines contain.
    layer = random_layer(scaler)
    x = (torch.rand(500, 6) - 0.5) * 0.36
    before, output = effective_spline(layer, x), layer(x).detach()
    layer.update_grid(x)
    assert float(layer.grid[:, 3].min()) > -0.2
    np.testing.assert_allclose(effective_spline(layer, x), before, atol=1e-4)
    torch.testing.assert_close(layer(x), output, atol=1e-4, rtol=1e-4)


def test_rank_deficient_refit_has_minimum_norm():
    layer = random_layer(scaler=False)
    x = torch.rand(5, 6) * 0.1  # fewer rows than functions
    before = effective_spline(layer, x)
    basis = scipy_basis(x.numpy(), layer.grid.numpy(), 3)
    layer.spline_weight.data = refit(layer.spline_weight, x, layer.grid, layer.grid, 3)
    np.testing.assert_allclose(effective_spline(layer, x), before, atol=1e-4)
    eps = np.finfo(np.float32).eps
    for feature in range(6):
        least = scipy.linalg.lstsq(basis[:, feature], before[:, :, feature], cond=eps)[0]
        np.testing.assert_allclose(layer.spline_weight[:, feature].detach().T, least, atol=2e-3)


def test_refit_in_pieces_is_the_same(monkeypatch):
    layers = [random_layer(scaler=True) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = scattered(100, 6)
    layers[0].update_grid(x)
    monkeypatch.setattr("mask2kan.modeling.kan.grid._REFIT_ELEMENTS", 1)
    layers[1].update_grid(x)
    assert torch.equal(layers[0].grid, layers[1].grid)
    torch.testing.assert_close(layers[0].spline_weight, layers[1].spline_weight)


def test_quantile_grid_between_its_extremes():
    x = scattered(1001, 3)
    options = {"margin": 0.01, "dtype": torch.float32}
    quantile = quantile_grid(x, 5, 3, uniform_share=0.0, **options)
    np.testing.assert_allclose(
        quantile[:, 3:-3], np.quantile(x.numpy(), np.linspace(0, 1, 6), axis=0).T, atol=1e-5
    )
    uniform = quantile_grid(x, 5, 3, uniform_share=1.0, **options)
    widths = uniform.diff(dim=1)
    torch.testing.assert_close(widths, widths[:, :1].expand_as(widths), atol=1e-5, rtol=0)
    torch.testing.assert_close(uniform[:, 3], x.amin(0) - 0.01)
    torch.testing.assert_close(uniform[:, -4], x.amax(0) + 0.01)


@pytest.mark.parametrize("eps", [0.0, 0.02])
@pytest.mark.parametrize("offset", [0.0, 1.0, -1e4, 1e6])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.012])
def test_collapsed_range_keeps_knots_apart_and_output_finite(eps, offset, spread):
    network = KAN([4, 4, 4], grid_eps=eps)
    x = offset + spread * torch.randn(50, 4)
    network.update_grid(x)
    for layer in network.layers:
        assert layer.grid.isfinite().all()
        assert (layer.grid.diff(dim=1) > 0).all()
    x.requires_grad_()
    out = network(x)
    assert out.isfinite().all()
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert network(torch.tensor([[1e4, -1e4, 0.0, 5.0]])).isfinite().all()


def test_ties_keep_knots_apart():
    layer = KANLinear(3, 2, grid_eps=0.0)
    x = torch.randn(200, 3).relu()  # half of the data is exactly 0
    layer.update_grid(x)
    assert (layer.grid.diff(dim=1) > 0).all()
    assert layer(x).isfinite().all()


def test_network_update_feeds_each_layer_what_reaches_it():
    network = KAN([5, 6, 3])
    x = scattered(200, 5)
    network.update_grid(x)
    hidden = network.layers[0](x)
    low, high = network.layers[1].grid[:, 3], network.layers[1].grid[:, -4]
    assert (low <= hidden.amin(0)).all()
    assert (high >= hidden.amax(0)).all()
    torch.testing.assert_close(low, hidden.amin(0).detach(), atol=1e-2, rtol=0)


def test_refused_data():
    layer = KANLinear(3, 2)
    with pytest.raises(NumericsError, match="no data"):
        layer.update_grid(torch.empty(0, 3))
    with pytest.raises(NumericsError, match="1 values that are not finite"):
        layer.update_grid(torch.tensor([[0.0, math.nan, 1.0]]))


# --------------------------------------------------------------------------------- regularisers


def plain_entropy(values: np.ndarray) -> float:
    p = values.ravel().astype(np.float64)
    p = p[p > 0] / p.sum()
    return float(-(p * np.log(p)).sum())


def test_weight_regulariser_is_equations_2_7_to_2_9():
    network = KAN([5, 4, 3])
    activation = entropy = 0.0
    for layer in network.layers:
        size = layer.spline_weight.detach().abs().numpy()
        activation += size.mean()
        entropy += plain_entropy(size.mean(-1))
    assert network.regularization_loss(1.0, 0.0).item() == pytest.approx(activation, rel=1e-5)
    assert network.regularization_loss(0.0, 1.0).item() == pytest.approx(entropy, rel=1e-5)
    assert network.regularization_loss(2.0, 3.0).item() == pytest.approx(
        2 * activation + 3 * entropy, rel=1e-5
    )


@pytest.mark.parametrize("which", ["all", "edge", "row"])
def test_regulariser_of_zero_edges_is_finite(which):
    layer = KANLinear(4, 3)
    rows = {"all": (slice(None), slice(None)), "edge": (0, 0), "row": (1, slice(None))}[which]
    with torch.no_grad():
        layer.spline_weight[rows] = 0
    loss = layer.regularization_loss()
    loss.backward()
    assert loss.isfinite()
    assert layer.spline_weight.grad.isfinite().all()
    if which == "all":
        assert loss.item() == 0


def test_entropy_gradient():
    values = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(edge_entropy, (values,))
    assert float(edge_entropy(torch.ones(5, 2))) == pytest.approx(math.log(10), rel=1e-6)


@pytest.mark.parametrize("elements", [1, 1 << 23])
def test_activation_norms_are_means_of_every_edge(elements, monkeypatch):
    monkeypatch.setattr("mask2kan.modeling.kan.edges._EDGE_ELEMENTS", elements)
    layer = random_layer(scaler=True, features=5)
    x = torch.randn(3, 10, 5)
    rows = x.reshape(-1, 5)
    phi = effective_spline(layer, rows)
    phi = phi + (F.silu(rows)[:, None] * layer.base_weight).detach().numpy()
    expected = np.abs(phi).mean(0)
    np.testing.assert_allclose(activation_norms(layer, x), expected, rtol=1e-4, atol=1e-6)
    assert (activation_norms(layer, x[:0]) == 0).all()


def test_minimised_entropy_promotes_sparsity():
    layer = KANLinear(6, 6)
    layer.spline_weight.data.normal_()
    before = edge_entropy(layer.spline_weight.abs().mean(-1)).item()
    optimiser = torch.optim.Adam([layer.spline_weight], lr=0.03)
    for _ in range(30):
        optimiser.zero_grad()
        layer.regularization_loss(0.0, 1.0).backward()
        optimiser.step()
    assert edge_entropy(layer.spline_weight.abs().mean(-1)).item() < before - 0.1


# --------------------------------------------------------------------------------------- curves


def test_curve_is_the_edge():
    layer = random_layer(scaler=True, features=3)
    layer.grid.copy_(random_knots(3, 5, 3))
    curve = edge_curve(layer, 1, 2, num_points=50)
    assert isinstance(curve, EdgeCurve)
    for array in curve:
        assert array.dtype == np.float32
    np.testing.assert_array_equal(curve.knots, layer.grid[1])
    assert (curve.x[0], curve.x[-1]) == (curve.knots[0], curve.knots[-1])
    # The layer with every other edge silenced is the edge.
    with torch.no_grad():
        for i, o in itertools.product(range(3), range(4)):
            if (i, o) != (1, 2):
                layer.base_weight[o, i] = 0
                layer.spline_weight[o, i] = 0
        x = torch.zeros(50, 3)
        x[:, 1] = torch.from_numpy(curve.x)
        np.testing.assert_allclose(curve.total, layer(x)[:, 2], atol=1e-5)
        layer.spline_weight.zero_()
        np.testing.assert_allclose(curve.base, layer(x)[:, 2], atol=1e-6)
    np.testing.assert_allclose(curve.base + curve.spline, curve.total, atol=1e-6)


def test_edge_norms_follow_the_curves():
    layer = random_layer(scaler=True, features=3)
    norms = edge_norms(layer, 4001)
    assert norms.shape == (4, 3)
    curve = edge_curve(layer, 2, 1, num_points=9001)
    inner = (curve.x >= curve.knots[3]) & (curve.x <= curve.knots[-4])
    assert float(norms[1, 2]) == pytest.approx(np.abs(curve.total[inner]).mean(), rel=1e-2)
    with torch.no_grad():
        layer.spline_weight[1, 2] = 0
        layer.base_weight[1, 2] = 0
    assert float(edge_norms(layer)[1, 2]) == 0


def test_refused_curves():
    layer = KANLinear(3, 2)
    for arguments in ((3, 0), (0, 2), (-1, 0), (0, 0, 1)):
        with pytest.raises(ConfigError):
            edge_curve(layer, *arguments)


# -------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid_size": 0}, "grid_size is 0"),
        ({"spline_order": 0}, "spline_order is 0"),
        ({"base_activation": "sliu"}, "Nearest: silu"),
        ({"grid_range": (1.0, 1.0)}, "grid_range"),
        ({"grid_range": (0.0, math.inf)}, "grid_range"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ConfigError, match=message):
        KANLinear(3, 2, **options)


def test_refused_sizes():
    with pytest.raises(ConfigError, match="layer_sizes"):
        KAN([3])
    with pytest.raises(ConfigError, match="out_features is 0"):
        KAN([3, 0])
    with pytest.raises(RuntimeError):
        KANLinear(3, 2)(torch.randn(4, 1))


def test_every_activation_is_offered():
    assert set(REFERENCE_ACTIVATIONS) == set(BASE_ACTIVATIONS)
    assert "grid_size=7, spline_order=2, base_activation='relu'" in repr(
        KANLinear(3, 2, grid_size=7, spline_order=2, base_activation="relu")
    )
