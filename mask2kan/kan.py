"""Kolmogorov-Arnold layers: a learnable function on every edge, a B-spline plus a base activation.

An edge from input i to output o carries ``phi(x) = b * act(x) + s * sum_c w_c * B_c(x)``; a layer
sums its edges (no bias) and a network chains layers. The KAN is Liu et al. (arXiv 2404.19756);
the thesis takes the matrix form of efficient-kan, whose parameter names, shapes and initialisation
are kept so that its checkpoints load.

Departures, and why:

* The basis is evaluated where it is not zero: de Boor's triangle gives the k + 1 functions that
  live at x, which are then scattered. Same values as the recursion over all of them, in less time.
* The refit after a grid update is the least-squares optimum of each edge. efficient-kan applies
  the spline scaler twice there, which changes the function.
* Knots keep a minimum distance, so a collapsed range of activations cannot make the basis NaN.
* Basis and sums are computed in float32 or better, whatever the model's dtype or autocast say,
  and the knots are never stored in half precision.
* Entropy terms have a finite value and gradient when edges are zero. Minimised, they promote
  sparsity; the thesis's remark on a "more uniform distribution" has the sign the wrong way round.

Legend: I inputs, O outputs, G grid intervals, k spline order, N rows (all leading dimensions),
P = G + k functions in the basis, on G + 2k + 1 knots.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mask2kan.config import BASE_ACTIVATIONS
from mask2kan.errors import ConfigError, NumericsError, unknown

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}

# Elements of the largest temporary of anything that works through data in pieces.
_CHUNK_ELEMENTS = 1 << 23

# Smallest knot distance, in float32 steps at the data's magnitude and in uniform grid steps.
_GAP_RESOLUTION = 256
_GAP_STEPS = 1e-3


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
    basis: Tensor = _SplineBasis.apply(x, grid, order)  # type: ignore[no-untyped-call]
    return basis


class _SplineBasis(torch.autograd.Function):
    """The basis with its analytic derivative, so that backward repeats none of the triangle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, order: int) -> Tensor:
        num_functions = grid.shape[1] - 1 - order
        cell, x_inside = _locate(x, grid)
        knots = _nearby_knots(cell, grid, order)
        values, ratios = _de_boor(x_inside, knots, order)
        index, exists = _functions_of_cell(cell, num_functions, order)
        local = torch.stack(values, dim=-1).mul_(exists.to(x.dtype))
        ctx.order = order
        ctx.save_for_backward(index, exists, *ratios)
        return x.new_zeros(*x.shape, num_functions).scatter_(-1, index, local)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # B'_c of order k is k times the difference of neighbouring ratios of order k - 1.
        index, exists, *ratios = ctx.saved_tensors
        local = grad.gather(-1, index).mul_(exists.to(grad.dtype))
        slopes = local.diff(dim=-1).unbind(-1)
        total = ratios[0] * slopes[0]
        for ratio, slope in zip(ratios[1:], slopes[1:], strict=True):
            total = torch.addcmul(total, ratio, slope)
        return total * ctx.order, None, None


def _locate(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Knot interval of each x.

    Returns:
        cell: (..., I) int64, how many knots are <= x; 0 and the number of knots lie outside.
        x_inside: (..., I) x where it is inside; outside, 0 where x is finite and NaN where not.
    """
    # Counting rather than searchsorted: it exports to ONNX and needs no transposition.
    cell = (x.unsqueeze(-1) >= grid).sum(dim=-1)
    inside = (cell > 0) & (cell < grid.shape[1])
    return cell, torch.where(inside, x, x * 0)


def _nearby_knots(cell: Tensor, grid: Tensor, order: int) -> tuple[Tensor, ...]:
    """The 2k knots around each cell, (..., I) each: k up to its left end, k from its right end.

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


def _functions_of_cell(cell: Tensor, num_functions: int, order: int) -> tuple[Tensor, Tensor]:
    """Which functions live in each cell.

    Returns:
        index: (..., I, k + 1) int64 in [0, P), distinct along the last axis.
        exists: (..., I, k + 1) bool; False for a function that reaches past the knots, whose index
            then only fills a place that is 0 anyway.
    """
    num_knots = num_functions + order + 1
    cells = torch.arange(num_knots + 1, device=cell.device).unsqueeze(1)
    index = cells - 1 - order + torch.arange(order + 1, device=cell.device)
    exists = (index >= 0) & (index < num_functions) & (cells > 0) & (cells < num_knots)
    return (index % num_functions)[cell], exists[cell]


class KANLinear(nn.Module):
    """One KAN layer: I inputs, O outputs, a function on each of the I * O edges.

    Args:
        in_features: I.
        out_features: O.
        grid_size: G, intervals inside ``grid_range``.
        spline_order: k, degree of the spline.
        grid_range: where the spline space is complete; k more intervals follow on either side.
        scale_noise: spread of the initial splines.
        scale_base: enters the initialisation of ``base_weight`` as efficient-kan has it, as a
            factor of the negative slope of ``kaiming_uniform_``: larger means smaller weights.
        scale_spline: the same for ``spline_scaler``; without a scaler, a factor of the splines.
        base_activation: one of ``config.BASE_ACTIVATIONS``.
        standalone_spline_scale: whether each spline has a factor of its own, ``spline_scaler``.
        grid_eps: share of the uniform grid in ``update_grid``; the rest follows the quantiles.

    Raises:
        ConfigError: for a size, range or activation no layer can be built from.
    """

    grid: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        scale_noise: float = 0.1,
        scale_base: float = 1.0,
        scale_spline: float = 1.0,
        base_activation: str = "silu",
        standalone_spline_scale: bool = True,
        grid_eps: float = 0.02,
    ) -> None:
        super().__init__()
        _check_sizes(
            in_features=in_features,
            out_features=out_features,
            grid_size=grid_size,
            spline_order=spline_order,
        )
        low, high = grid_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"grid_range is {grid_range}; it must be finite and increase.")
        if base_activation not in BASE_ACTIVATIONS:
            raise ConfigError(unknown("base_activation", base_activation, BASE_ACTIVATIONS))
        self.in_features = in_features
        self.out_features = out_features
        self.grid_size = grid_size
        self.spline_order = spline_order
        self.scale_noise = scale_noise
        self.scale_base = scale_base
        self.scale_spline = scale_spline
        self.base_activation = base_activation
        self.standalone_spline_scale = standalone_spline_scale
        self.grid_eps = grid_eps

        step = (high - low) / grid_size
        knots = torch.arange(-spline_order, grid_size + spline_order + 1) * step + low
        self.register_buffer("grid", knots.expand(in_features, -1).contiguous())
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(
            torch.empty(out_features, in_features, grid_size + spline_order)
        )
        if standalone_spline_scale:
            self.spline_scaler = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights: uniform base and scaler, splines through small noise at the knots."""
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5) * self.scale_base)
        if self.standalone_spline_scale:
            nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5) * self.scale_spline)
        # One solution serves all edges: the grid is still uniform, and units cancel.
        size, order = self.grid_size, self.spline_order
        with torch.device("cpu"):
            knots = torch.arange(-order, size + order + 1, dtype=torch.float64)
            points = torch.arange(size + 1, dtype=torch.float64)
            interpolate = _least_squares(
                spline_basis(points.unsqueeze(1), knots.unsqueeze(0), order).transpose(0, 1),
                torch.eye(size + 1, dtype=torch.float64).unsqueeze(0),
                torch.float64,
            )[0]
        weight = self.spline_weight
        noise = torch.rand(*weight.shape[:2], size + 1, dtype=weight.dtype, device=weight.device)
        noise = (noise - 0.5) * (self.scale_noise / size)
        if not self.standalone_spline_scale:
            noise = noise * self.scale_spline
        weight.copy_(noise @ interpolate.to(weight).transpose(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the edges into each output.

        Args:
            x: (..., I). Values beyond the knots see the base branch only; a value that is not
                finite makes its whole row NaN.

        Returns:
            (..., O), in the dtype of x; computed in float32 or better.
        """
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._sum_of_edges(x)
        return self._sum_of_edges(x)

    def _sum_of_edges(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).to(self._compute_dtype(x))
        base = F.linear(self._activate(rows), self.base_weight.to(rows.dtype))
        basis = spline_basis(rows, self.grid.to(rows.dtype), self.spline_order)
        coefficients = self.scaled_spline_weight(rows.dtype)
        total = torch.addmm(base, basis.flatten(1), coefficients.flatten(1).transpose(0, 1))
        return total.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def scaled_spline_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Spline coefficients with the scaler applied, (O, I, P)."""
        if not self.standalone_spline_scale:
            return self.spline_weight.to(dtype)
        return self.spline_weight.to(dtype) * self.spline_scaler.to(dtype).unsqueeze(-1)

    def _activate(self, x: Tensor) -> Tensor:
        return _ACTIVATIONS[self.base_activation](x)

    def _compute_dtype(self, x: Tensor) -> torch.dtype:
        dtype = torch.promote_types(x.dtype, self.spline_weight.dtype)
        return torch.promote_types(dtype, torch.float32)

    def extra_repr(self) -> str:
        """What the layer is, for ``print(model)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"grid_size={self.grid_size}, spline_order={self.spline_order}, "
            f"base_activation={self.base_activation!r}, "
            f"standalone_spline_scale={self.standalone_spline_scale}"
        )


class KAN(nn.Module):
    """A chain of ``KANLinear`` layers.

    Args:
        layer_sizes: features at the input, between the layers and at the output; two or more.
        **options: of every ``KANLinear``.

    Raises:
        ConfigError: for fewer than two sizes, or what ``KANLinear`` refuses.
    """

    def __init__(self, layer_sizes: Sequence[int], **options: Any) -> None:
        super().__init__()
        if len(layer_sizes) < 2:
            raise ConfigError(
                f"layer_sizes is {list(layer_sizes)}; a KAN needs an input and an output size."
            )
        self.layers = nn.ModuleList(
            KANLinear(inputs, outputs, **options)
            for inputs, outputs in zip(layer_sizes[:-1], layer_sizes[1:], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., first size) to (..., last size)."""
        for layer in self.layers:
            x = layer(x)
        return x


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")


def _least_squares(design: Tensor, target: Tensor, stored: torch.dtype) -> Tensor:
    """Minimum-norm least-squares solution, per feature, in float64 on the CPU.

    Args:
        design: (I, N, P) float64.
        target: (I, N, R) float64.
        stored: the dtype the result will live in. Directions weaker than its resolution count as
            rank deficient: coefficients that large could not be stored accurately enough to cancel.

    Returns:
        (I, P, R) float64.
    """
    return torch.linalg.lstsq(
        design, target, rcond=torch.finfo(stored).eps, driver="gelsd"
    ).solution
