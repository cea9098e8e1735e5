"""B-splines: the basis, a grid that follows data, and the refit from one grid to another.

Pure functions on tensors; ``mask2kan.modeling.kan.layers`` builds layers from them. The basis is de
Boor's: at any x only k + 1 functions are not zero, so a triangle of k(k + 1)/2 ratios gives them
and they are scattered to their places. The recursion over all functions (efficient-kan) gives the
same values in more time. Within a cell, the stretch between two knots, each function is a
polynomial; with these tabulated (``feature_table``) a processor evaluates the basis in half the
time once more. The grid is efficient-kan's blend of quantiles and uniform steps, with two
departures: knots keep a minimum distance, so that collapsed activations cannot make the basis NaN,
and the refit is the least-squares optimum.

Legend: I inputs, G grid intervals, k spline order, N rows, P = G + k functions on G + 2k + 1 knots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Smallest distance of knots: in steps of their dtype at the data's magnitude, in uniform grid
# steps, and in absolute terms.
_GAP_RESOLUTION = 256
_GAP_STEPS = 1e-3
_GAP_FLOOR = 1e-6

# Float64 elements of the largest temporary of a refit: 64 MiB.
_REFIT_ELEMENTS = 1 << 23


def spline_basis(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """Values of every B-spline on the knots of each input feature.

    Function c of a feature lives on its knots c ... c + k + 1 and is 0 outside them. Where x is not
    finite all of its functions are NaN. Intervals of zero width contribute 0.

    Args:
        x: (..., I).
        grid: (I, P + k + 1) knots, not decreasing along the second axis.
        order: k, at least 1.

    Returns:
        (..., I, P).
    """
    num_inputs, num_knots = grid.shape
    basis: Tensor = _SplineBasis.apply(x.reshape(-1, num_inputs), grid, order)
    return basis.reshape(*x.shape, num_knots - 1 - order)


class _SplineBasis(torch.autograd.Function):
    """The basis with its analytic derivative, so that backward repeats none of the triangle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, order: int) -> Tensor:
        num_functions = grid.shape[1] - 1 - order
        cell, x_inside = _locate(x, grid)
        knots = _nearby_knots(cell, grid, order)
        values, ratios = _de_boor(x_inside, knots, order)
        index, exists = _functions_of_cell(cell, num_functions, order, x.dtype)
        local = torch.stack(values, dim=-1).mul_(exists)
        ctx.order = order
        ctx.save_for_backward(index, exists, *ratios)
        return x.new_zeros(*x.shape, num_functions).scatter_(-1, index, local)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # B'_c of order k is k times the difference of neighbouring ratios of order k - 1.
        index, exists, *ratios = ctx.saved_tensors
        local = grad.gather(-1, index).mul_(exists)
        slopes = local.diff(dim=-1).unbind(-1)
        total = ratios[0] * slopes[0]
        for ratio, slope in zip(ratios[1:], slopes[1:], strict=True):
            total = torch.addcmul(total, ratio, slope)
        return total * ctx.order, None, None


def _locate(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Knot interval of each x.

    Returns:
        cell: (N, I) int32, how many knots are <= x; 0 and the number of knots lie outside.
        x_inside: (N, I) x where it is inside; outside, 0 where x is finite and NaN where not.
    """
    # Counting exports to ONNX, searchsorted does not; over the first axis it also vectorises.
    cell = (x >= grid.T.unsqueeze(1)).sum(dim=0, dtype=torch.int32)
    inside = (cell > 0) & (cell < grid.shape[1])
    return cell, torch.where(inside, x, x * 0)


def _nearby_knots(cell: Tensor, grid: Tensor, order: int) -> tuple[Tensor, ...]:
    """The 2k knots around each cell, (N, I) each: k up to its left end, k from its right end.

    Past the ends of the grid the last knot repeats: only functions that do not exist use it.
    Outside the grid the knots are made up, an evenly spaced set around 0.
    """
    num_inputs, num_knots = grid.shape
    left = grid[:, :1].expand(-1, order - 1)
    right = grid[:, -1:].expand(-1, order - 1)
    windows = torch.cat([left, grid, right], dim=1).unfold(1, 2 * order, 1)
    outside = torch.arange(1 - order, order + 1, dtype=grid.dtype, device=grid.device)
    outside = outside.expand(num_inputs, 1, -1)
    table = torch.cat([outside, windows, outside], dim=1).reshape(-1, 2 * order)
    row = cell + torch.arange(num_inputs, device=grid.device) * (num_knots + 1)
    return F.embedding(row, table).unbind(-1)


def _de_boor(
    x: Tensor, knots: tuple[Tensor, ...], order: int
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """The k + 1 functions that are not zero in the cell of x, in order of their first knot.

    Every denominator spans the cell, so it is positive even where knots coincide.

    Returns:
        values: k + 1 tensors shaped like x.
        ratios: k tensors, the functions of order k - 1 over the width of their support.
    """
    right = [knots[order + step] - x for step in range(order)]
    left = [x - knots[order - 1 - step] for step in range(order)]
    values, ratios = [torch.ones_like(x)], []
    for degree in range(order):
        ratios = [value / (right[r] + left[degree - r]) for r, value in enumerate(values)]
        rising = [left[degree - r] * ratio for r, ratio in enumerate(ratios)]
        falling = [right[r] * ratio for r, ratio in enumerate(ratios)]
        middle = [up + down for up, down in zip(rising[:-1], falling[1:], strict=True)]
        values = [falling[0], *middle, rising[-1]]
    return values, tuple(ratios)


def _functions_of_cell(
    cell: Tensor, num_functions: int, order: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Which functions live in each cell.

    Returns:
        index: (N, I, k + 1) int64 in [0, P), distinct along the last axis.
        exists: (N, I, k + 1) of the dtype: 1, or 0 for a function that would reach past the knots,
            whose index then only points to a place that is 0 anyway.
    """
    num_knots = num_functions + order + 1
    cells = torch.arange(num_knots + 1, device=cell.device).unsqueeze(1)
    index = cells - 1 - order + torch.arange(order + 1, device=cell.device)
    exists = (index >= 0) & (index < num_functions) & (cells > 0) & (cells < num_knots)
    return F.embedding(cell, index % num_functions), F.embedding(cell, exists.to(dtype))


class FeatureTable(NamedTuple):
    """The basis as polynomials in u, which runs from 0 to 1 across a cell; C = G + 2k + 2 cells.

    The first and the last cell of a feature are what lies outside its knots. Every cell has k + 2
    rows of P + 1 numbers, one per function and one, the first, for the activation: row 0 is 1 for
    the activation and 0 else, row 1 + m has the functions' coefficients of u^m. So the features of
    an x are the sum of its cell's rows times (activation, 1, u, ..., u^k).

    Attributes:
        order: k.
        knots: (G + 2k + 1, 1, I).
        first_cell: (I,) int32, number of the feature's first cell among all I·C.
        cells: (I·C, 2) left end and 1 / width; both 0 outside.
        rows: (I·C·(k + 2), P + 1).
    """

    order: int
    knots: Tensor
    first_cell: Tensor
    cells: Tensor
    rows: Tensor


@torch.no_grad()
def feature_table(grid: Tensor, order: int, dtype: torch.dtype) -> FeatureTable:
    """Tabulate ``edge_features`` on a grid.

    Args:
        grid: (I, P + k + 1) knots, not decreasing along the second axis.
        order: k, at least 1.
        dtype: of what is computed with the table; the table itself is made in float64.
    """
    num_inputs, num_knots = grid.shape
    num_functions, num_cells = num_knots - 1 - order, num_knots + 1
    knots = grid.to(torch.float64)
    left = F.pad(knots, (1, 0))
    width = F.pad(knots.diff(dim=1), (1, 1))
    cells = torch.arange(num_cells, device=grid.device).expand(num_inputs, -1)
    inside = (cells > 0) & (cells < num_knots)
    left = torch.where(inside, left, 0)

    # a polynomial of degree k is known from k + 1 points; a cell without width is never looked up
    points = torch.linspace(0, 1, order + 1, dtype=torch.float64, device=grid.device)
    x = left.unsqueeze(-1) + points * width.unsqueeze(-1)  # (I, C, k + 1)
    nearby = [knot.T.unsqueeze(-1) for knot in _nearby_knots(cells.T.int(), knots, order)]
    values = torch.stack(_de_boor(x, tuple(nearby), order)[0], dim=-2)
    interpolate = torch.linalg.inv(torch.vander(points, increasing=True))
    coefficients = torch.where(width[..., None, None] > 0, values @ interpolate.T, 0)

    index, exists = _functions_of_cell(cells, num_functions, order, torch.float64)
    powers = (coefficients * exists.unsqueeze(-1)).transpose(-1, -2)  # (I, C, power, function)
    rows = grid.new_zeros((num_inputs, num_cells, order + 2, num_functions + 1)).double()
    rows[:, :, 0, 0] = 1
    target = (1 + index).unsqueeze(-2).expand_as(powers)
    rows[:, :, 1:].scatter_(-1, target, powers)
    return FeatureTable(
        order,
        grid.T.unsqueeze(1).to(dtype).contiguous(),
        torch.arange(num_inputs, dtype=torch.int32, device=grid.device) * num_cells,
        torch.stack([left, torch.where(width > 0, 1 / width, 0)], dim=-1).to(dtype).flatten(0, 1),
        rows.to(dtype).flatten(0, 2),
    )


def edge_features(x: Tensor, activated: Tensor, table: FeatureTable) -> Tensor:
    """The activation and every B-spline of each x, side by side: what a KAN layer's weights meet.

    Args:
        x: (N, I).
        activated: (N, I), the base activation of x.
        table: of the layer's grid.

    Returns:
        (N, I·(P + 1)); as ``spline_basis``, with the activation before each feature's functions.
    """
    features: Tensor = _EdgeFeatures.apply(x, activated, table)
    return features


class _EdgeFeatures(torch.autograd.Function):
    """One lookup forward, and one of the polynomials' derivatives backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activated: Tensor, table: FeatureTable) -> Tensor:
        cell = (x >= table.knots).sum(dim=0, dtype=torch.int32).add_(table.first_cell)
        left, inverse_width = F.embedding(cell, table.cells).unbind(-1)
        u = (x - left).mul_(inverse_width)  # 0 outside, but NaN where x is not finite
        ctx.table = table
        ctx.save_for_backward(cell, inverse_width, u)
        powers = [activated, torch.ones_like(u), u]
        for _ in range(table.order - 1):
            powers.append(powers[-1] * u)
        features = _sum_of_rows(cell, powers, 0, table)
        return features.view(len(x), x.shape[1] * features.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        cell, inverse_width, u = ctx.saved_tensors
        slopes = [torch.ones_like(u)]  # of u, u^2, ...: 1, 2u, ...
        for degree in range(2, ctx.table.order + 1):
            slopes.append((slopes[-1] * u).mul_(degree / (degree - 1)))
        derivative = _sum_of_rows(cell, slopes, 2, ctx.table)
        grad = grad.reshape(*u.shape, derivative.shape[1])
        grad_u = derivative.view_as(grad).mul_(grad).sum(dim=-1)
        return grad_u.mul_(inverse_width), grad[..., 0], None


def _sum_of_rows(cell: Tensor, factors: list[Tensor], first: int, table: FeatureTable) -> Tensor:
    """(N·I, P + 1): each cell's rows from ``first`` on, times one factor each."""
    count = len(factors)
    rows = torch.arange(first, first + count, dtype=cell.dtype, device=cell.device)
    rows = cell.unsqueeze(-1) * (table.order + 2) + rows
    return F.embedding_bag(
        rows.view(-1, count),
        table.rows,
        mode="sum",
        per_sample_weights=torch.stack(factors, dim=-1).view(-1, count),
    )


def quantile_grid(
    rows: Tensor, size: int, order: int, *, uniform_share: float, margin: float, dtype: torch.dtype
) -> Tensor:
    """Knots that follow the data of each feature.

    Inside, G + 1 knots blend the data's quantiles with an even spacing of the range plus a margin
    on either side; k even steps follow at both ends.

    Args:
        rows: (N, I) finite data, N at least 1.
        size: G.
        order: k.
        uniform_share: 1 for even spacing, 0 for quantiles.
        margin: in units of the data.
        dtype: the knots' dtype; distances stay well above its resolution.

    Returns:
        (I, G + 2k + 1) knots, strictly increasing, on the CPU.
    """
    ranks = torch.linspace(0, len(rows) - 1, size + 1, dtype=torch.float64).round().long()
    knots = [
        _quantile_knots(
            rows[:, part].to("cpu", torch.float64).sort(dim=0).values[ranks].T,
            order,
            uniform_share,
            margin,
            torch.finfo(dtype).eps,
        )
        for part in _feature_slices(rows.shape[1], 4 * len(rows))
    ]
    return torch.cat(knots).to(dtype)


def _quantile_knots(
    quantiles: Tensor, order: int, uniform_share: float, margin: float, resolution: float
) -> Tensor:
    """``quantile_grid`` of (I, G + 1) quantiles that include both extremes."""
    size = quantiles.shape[1] - 1
    low, high = quantiles[:, :1], quantiles[:, -1:]
    magnitude = torch.maximum(low.abs(), high.abs()) + margin
    gap = (magnitude * resolution * _GAP_RESOLUTION).clamp_min(_GAP_FLOOR)
    step = torch.maximum((high - low + 2 * margin) / size, gap)
    gap = torch.maximum(gap, step * _GAP_STEPS)

    count = torch.arange(size + 1, dtype=quantiles.dtype)
    uniform = (low + high) / 2 + (count - size / 2) * step
    inner = uniform_share * uniform + (1 - uniform_share) * quantiles
    # Least increasing sequence above `inner` whose neighbours differ by at least the gap.
    inner = (inner - count * gap).cummax(dim=1).values + count * gap

    outer = torch.arange(1, order + 1, dtype=quantiles.dtype) * step
    return torch.cat([inner[:, :1] - outer.flip(1), inner, inner[:, -1:] + outer], dim=1)


def transfer_matrix(rows: Tensor, grid: Tensor, new_grid: Tensor, order: int) -> Tensor:
    """What turns coefficients on one grid into the best ones on another, for each feature.

    ``T @ w`` minimises the squared difference of the two splines over the rows. The least-squares
    solution is linear in the old spline, so one matrix serves all edges of a feature, and a factor
    on an edge's spline (the scaler) cancels.

    Args:
        rows: (N, I) finite data, N at least 1, on any device.
        grid: (I, P + k + 1) knots.
        new_grid: (I, R + k + 1) knots.
        order: k.

    Returns:
        (I, R, P) float64, on the CPU.
    """
    per_feature = len(rows) * (grid.shape[1] + new_grid.shape[1]) * 2
    transfers = []
    for part in _feature_slices(rows.shape[1], per_feature):
        data = rows[:, part].to("cpu", torch.float64)
        old, new = (
            spline_basis(data, knots[part].to("cpu", torch.float64), order).transpose(0, 1)
            for knots in (grid, new_grid)
        )
        transfers.append(least_squares(new, old, new_grid.dtype))
    return torch.cat(transfers)


def least_squares(design: Tensor, target: Tensor, stored: torch.dtype) -> Tensor:
    """Minimum-norm least-squares solution of a batch of problems.

    Args:
        design: (I, N, R) float64 on the CPU: gelsd, which handles rank deficiency, runs only there.
        target: (I, N, P) likewise.
        stored: the dtype the solution will be stored in. Directions below its resolution count as
            rank deficient: their coefficients would be too large to cancel once rounded.

    Returns:
        (I, R, P) float64.
    """
    tolerance = torch.finfo(stored).eps
    fit = torch.linalg.lstsq(design, target, rcond=tolerance, driver="gelsd")
    solution: Tensor = fit.solution
    return solution


def _feature_slices(num_features: int, elements_per_feature: int) -> list[slice]:
    step = max(1, _REFIT_ELEMENTS // max(1, elements_per_feature))
    return [slice(start, start + step) for start in range(0, num_features, step)]
