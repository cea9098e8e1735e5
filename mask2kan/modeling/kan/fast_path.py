"""KAN layers on a CPU: the basis by table lookup, both branches' weights in one tensor.

``layers`` and ``splines`` define what is computed. Inside a cell (between two knots) every basis
function is a polynomial; tabulating their coefficients halves the time of de Boor's triangle.

Legend: I inputs, O outputs, G grid intervals, k spline order, N rows, P = G + k functions on
G + 2k + 1 knots, C = G + 2k + 2 cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2kan.modeling.kan.splines import de_boor, functions_of_cell, nearby_knots


class TabulatedFeatures:
    """Compute edge features with a table that is remade whenever the grid has changed."""

    def __init__(self) -> None:
        self._cached: tuple[Tensor, FeatureTable] | None = None

    def __call__(self, x: Tensor, activated: Tensor, grid: Tensor, order: int) -> Tensor:
        """As ``edge_features``, on a grid."""
        cached = self._cached  # read once: another thread may replace it
        # Compared by value: loading and optimisers may write to .data, unseen by version counters.
        if cached is None or cached[1].rows.dtype != x.dtype or not torch.equal(cached[0], grid):
            # Not an inference tensor: a recorded pass may come after this one.
            with torch.inference_mode(False):
                copy = grid.clone()
                cached = (copy, feature_table(copy, order, x.dtype))
            self._cached = cached
        return edge_features(x, activated, cached[1])


class FeatureTable(NamedTuple):
    """The basis as polynomials in u, which runs from 0 to 1 across a cell.

    A feature's first and last cell are everything outside its knots. Every cell has k + 2 rows of
    P + 1 numbers, the activation's column first: row 0 is (1, 0, ..., 0), row 1 + m has the
    functions' coefficients of u^m. The rows times (activation, 1, u, ..., u^k) sum to the features.
    """

    order: int
    knots: Tensor  # (G + 2k + 1, 1, I)
    first_cell: Tensor  # (I,) int32, number of a feature's first cell among all I·C
    cells: Tensor  # (I·C, 2) left end and 1 / width; both 0 outside the knots
    rows: Tensor  # (I·C·(k + 2), P + 1)


@torch.no_grad()
def feature_table(grid: Tensor, order: int, dtype: torch.dtype) -> FeatureTable:
    """Tabulate the basis on an (I, P + k + 1) grid, in float64; stored in ``dtype``."""
    num_inputs, num_knots = grid.shape
    num_functions, num_cells = num_knots - 1 - order, num_knots + 1
    knots = grid.to(torch.float64)
    left = F.pad(knots, (1, 0))
    width = F.pad(knots.diff(dim=1), (1, 1))
    cells = torch.arange(num_cells, device=grid.device).expand(num_inputs, -1)
    inside = (cells > 0) & (cells < num_knots)
    left = torch.where(inside, left, 0)

    # A polynomial of degree k is known from k + 1 points. A cell without width is never looked up.
    points = torch.linspace(0, 1, order + 1, dtype=torch.float64, device=grid.device)
    x = left.unsqueeze(-1) + points * width.unsqueeze(-1)  # (I, C, k + 1)
    nearby = [knot.T.unsqueeze(-1) for knot in nearby_knots(cells.T.int(), knots, order)]
    values = torch.stack(de_boor(x, tuple(nearby), order)[0], dim=-2)
    interpolate = torch.linalg.inv(torch.vander(points, increasing=True))
    coefficients = torch.where(width[..., None, None] > 0, values @ interpolate.T, 0)

    index, exists = functions_of_cell(cells, num_functions, order, torch.float64)
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
    """Compute ``KANLinear.edge_features`` of (N, I) by table lookup; ``activated`` is act(x)."""
    return cast(Tensor, _EdgeFeatures.apply(x, activated, table))


class _EdgeFeatures(torch.autograd.Function):
    """One lookup forward, and one of the polynomials' derivatives backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activated: Tensor, table: FeatureTable) -> Tensor:
        cell = (x >= table.knots).sum(dim=0, dtype=torch.int32).add_(table.first_cell)
        left, inverse_width = F.embedding(cell, table.cells).unbind(-1)
        # Outside the knots 0, but NaN where x is not finite: such a value must show in the result.
        u = (x - left).mul_(inverse_width)
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
        # Recomputed rather than saved: k tensors like x would outlive the forward pass.
        slopes = [torch.ones_like(u)]  # of u, u^2, ...: 1, 2u, ...
        for degree in range(2, ctx.table.order + 1):
            slopes.append((slopes[-1] * u).mul_(degree / (degree - 1)))
        derivative = _sum_of_rows(cell, slopes, 2, ctx.table)
        grad = grad.reshape(*u.shape, derivative.shape[1])
        # The rows from 2 on hold 0 in the activation's column, which so adds nothing here.
        grad_u = derivative.view_as(grad).mul_(grad).sum(dim=-1)
        return grad_u.mul_(inverse_width), grad[..., 0], None


def _sum_of_rows(cell: Tensor, factors: list[Tensor], first: int, table: FeatureTable) -> Tensor:
    """Sum each cell's rows from ``first`` on, times one factor each: (N·I, P + 1)."""
    # One fused, vectorised loop; separate products and sums would each write a tensor of that size.
    count = len(factors)
    rows = torch.arange(first, first + count, dtype=cell.dtype, device=cell.device)
    rows = cell.unsqueeze(-1) * (table.order + 2) + rows
    return F.embedding_bag(
        rows.view(-1, count),
        table.rows,
        mode="sum",
        per_sample_weights=torch.stack(factors, dim=-1).view(-1, count),
    )


def merge_weights(base: Tensor, spline: Tensor, scaler: Tensor | None) -> Tensor:
    """Put (O, I) base and scaled (O, I, P) spline weights side by side: (O, I·(P + 1))."""
    return cast(Tensor, _MergedWeights.apply(base, spline, scaler))


class _MergedWeights(torch.autograd.Function):
    """Write both into one tensor; plain operators would write and read a scaled copy first."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, spline: Tensor, scaler: Tensor | None) -> Tensor:
        weight = spline.new_empty(*base.shape, spline.shape[-1] + 1)
        weight[..., 0] = base
        ctx.edges = (base.shape[1], -1)
        if scaler is None:
            weight[..., 1:] = spline
            ctx.save_for_backward()
        else:
            torch.mul(spline, scaler.unsqueeze(-1), out=weight[..., 1:])
            ctx.save_for_backward(spline, scaler)
        return weight.flatten(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        grad = grad.unflatten(1, ctx.edges)
        grad_base, grad_spline = grad[..., 0], grad[..., 1:]
        saved = ctx.saved_tensors
        if not saved:
            return grad_base, grad_spline, None
        spline, scaler = saved
        grad_scaler = torch.mul(grad_spline, spline).sum(dim=-1)
        return grad_base, grad_spline * scaler.unsqueeze(-1), grad_scaler
