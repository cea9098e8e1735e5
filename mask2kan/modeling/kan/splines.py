"""The B-spline basis and its derivative.

De Boor's triangle of k(k + 1)/2 ratios gives the k + 1 functions that are not zero at x, and they
are scattered to their places; efficient-kan's recursion over all functions gives the same in more
time. A cell is the stretch between two knots; inside one, every function is a polynomial.

Legend: I inputs, G grid intervals, k spline order, N rows, P = G + k functions on G + 2k + 1 knots.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def spline_basis(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """Evaluate every B-spline on the knots of each input feature.

    Function c is 0 outside knots c ... c + k + 1; all are NaN where x is not finite. Intervals of
    zero width contribute 0.

    Args:
        x: (..., I).
        grid: (I, P + k + 1) knots, not decreasing along the second axis.
        order: k, at least 1.

    Returns:
        (..., I, P).
    """
    basis = _SplineBasis.apply(x.reshape(-1, grid.shape[0]), grid, order)
    return cast(Tensor, basis.reshape(*x.shape, grid.shape[1] - 1 - order))


class _SplineBasis(torch.autograd.Function):
    """The basis with its analytic derivative, so that backward repeats none of the triangle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, order: int) -> Tensor:
        num_functions = grid.shape[1] - 1 - order
        cell, x_inside = _locate(x, grid)
        knots = nearby_knots(cell, grid, order)
        values, ratios = de_boor(x_inside, knots, order)
        index, exists = functions_of_cell(cell, num_functions, order, x.dtype)
        # Indices are distinct, so a scatter without reduction is enough and deterministic.
        local = torch.stack(values, dim=-1).mul_(exists)
        ctx.order = order
        ctx.save_for_backward(index, exists, *ratios)
        return x.new_zeros(*x.shape, num_functions).scatter_(-1, index, local)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # B'_c of order k is k times the difference of neighbouring ratios of order k - 1. Summed
        # over c the difference moves to the gradient, so each ratio is used once.
        index, exists, *ratios = ctx.saved_tensors
        local = grad.gather(-1, index).mul_(exists)
        slopes = local.diff(dim=-1).unbind(-1)
        total = ratios[0] * slopes[0]
        for ratio, slope in zip(ratios[1:], slopes[1:], strict=True):
            total = torch.addcmul(total, ratio, slope)
        return total * ctx.order, None, None


def _locate(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Find the cell of each x.

    Returns:
        cell: (N, I) int32, the number of knots <= x; 0 and the number of all knots lie outside.
        x_inside: (N, I) x where it is inside; outside, 0 where x is finite and NaN where not.
    """
    # Counting exports to ONNX, searchsorted does not; over the first axis it also vectorises.
    cell = (x >= grid.T.unsqueeze(1)).sum(dim=0, dtype=torch.int32)
    inside = (cell > 0) & (cell < grid.shape[1])
    # x * 0 is NaN for NaN and infinity: a value that is not finite must show in the result.
    return cell, torch.where(inside, x, x * 0)


def nearby_knots(cell: Tensor, grid: Tensor, order: int) -> tuple[Tensor, ...]:
    """Look up the 2k knots around each cell, (N, I) each: k on its left, k on its right."""
    num_inputs, num_knots = grid.shape
    # Past the ends of the grid the end knot repeats: only functions that do not exist use it.
    left = grid[:, :1].expand(-1, order - 1)
    right = grid[:, -1:].expand(-1, order - 1)
    windows = torch.cat([left, grid, right], dim=1).unfold(1, 2 * order, 1)
    # For x outside, where x_inside is 0: any increasing knots around 0 keep the ratios finite.
    outside = torch.arange(1 - order, order + 1, dtype=grid.dtype, device=grid.device)
    outside = outside.expand(num_inputs, 1, -1)
    table = torch.cat([outside, windows, outside], dim=1).reshape(-1, 2 * order)
    # One embedding gathers all 2k at once; indexing by (feature, cell) would gather one by one.
    row = cell + torch.arange(num_inputs, device=grid.device) * (num_knots + 1)
    return F.embedding(row, table).unbind(-1)


def de_boor(
    x: Tensor, knots: tuple[Tensor, ...], order: int
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Evaluate the k + 1 functions that are not zero in the cell of x, by their first knot.

    Returns:
        values: k + 1 tensors shaped like x.
        ratios: k tensors, the functions of order k - 1 over the width of their support.
    """
    right = [knots[order + step] - x for step in range(order)]
    left = [x - knots[order - 1 - step] for step in range(order)]
    values, ratios = [torch.ones_like(x)], []
    for degree in range(order):
        # Every denominator spans the cell, so it is positive even where knots coincide.
        ratios = [value / (right[r] + left[degree - r]) for r, value in enumerate(values)]
        rising = [left[degree - r] * ratio for r, ratio in enumerate(ratios)]
        falling = [right[r] * ratio for r, ratio in enumerate(ratios)]
        middle = [up + down for up, down in zip(rising[:-1], falling[1:], strict=True)]
        values = [falling[0], *middle, rising[-1]]
    return values, tuple(ratios)


def functions_of_cell(
    cell: Tensor, num_functions: int, order: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """List the functions of each cell.

    Returns:
        index: (N, I, k + 1) int64 in [0, P), distinct along the last axis.
        exists: (N, I, k + 1) of the dtype: 1, or 0 for a function that would reach past the knots.
    """
    # Tabulated per cell and looked up: there are few cells and many x.
    num_knots = num_functions + order + 1
    cells = torch.arange(num_knots + 1, device=cell.device).unsqueeze(1)
    index = cells - 1 - order + torch.arange(order + 1, device=cell.device)
    exists = (index >= 0) & (index < num_functions) & (cells > 0) & (cells < num_knots)
    return F.embedding(cell, index % num_functions), F.embedding(cell, exists.to(dtype))
