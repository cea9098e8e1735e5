"""Kolmogorov-Arnold layers: a learnable function on every edge, a B-spline plus a base activation.

An edge from input i to output o carries ``phi(x) = b * act(x) + s * sum_c w_c * B_c(x)``; a layer
sums its edges and an optional bias, a network chains layers. Source: Liu et al. (arXiv 2404.19756),
in efficient-kan's matrix form, names, shapes and initialisation, so that its checkpoints load.

Departures, and why:

* The refit after a grid update is the least-squares optimum of each edge, scaler included.
  efficient-kan applies the scaler twice there, which changes the function.
* Basis and sums are computed in float32 or better, and knots never stored in half precision, which
  could collapse them.
* Entropy terms are finite, with finite gradients, where edges are zero. Minimised, they promote
  sparsity, the opposite of the thesis's "more uniform distribution".
* Eq. 2.8 is a mean, as printed; efficient-kan sums over the edges.

``fast_path`` computes the same in less time on a CPU, ``grid`` moves the knots.

Legend: I inputs, O outputs, G grid intervals, k spline order, N rows (all leading dimensions),
P = G + k functions in the basis, on G + 2k + 1 knots.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2kan.checks import require, require_choice
from mask2kan.errors import ConfigError
from mask2kan.modeling.config import BASE_ACTIVATIONS
from mask2kan.modeling.kan.fast_path import TabulatedFeatures, merge_weights
from mask2kan.modeling.kan.grid import least_squares, quantile_grid, refit
from mask2kan.modeling.kan.splines import spline_basis
from mask2kan.runtime.precision import full_precision

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


class KANLinear(nn.Module):
    """One KAN layer: I inputs, O outputs, a function on each of the I * O edges.

    Args:
        in_features: I.
        out_features: O.
        grid_size: G, intervals inside ``grid_range``.
        spline_order: k, degree of the spline.
        grid_range: where the spline space is complete; k more intervals follow on either side.
        scale_noise: spread of the initial splines.
        scale_base: of the negative slope in ``kaiming_uniform_`` of ``base_weight``, as in
            efficient-kan: larger means smaller weights.
        scale_spline: the same for ``spline_scaler``; without a scaler, a factor of the splines.
        base_activation: one of ``config.BASE_ACTIVATIONS``.
        standalone_spline_scale: give each spline a factor of its own, ``spline_scaler``.
        grid_eps: share of the uniform grid in ``update_grid``; the rest follows the quantiles.
        bias: add a constant to every output.

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
        bias: bool = False,
    ) -> None:
        super().__init__()
        require("in_features", in_features, 1)
        require("out_features", out_features, 1)
        require("grid_size", grid_size, 1)
        require("spline_order", spline_order, 1)
        low, high = grid_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"grid_range is {grid_range}; it must be finite and increase.")
        require_choice("base_activation", base_activation, BASE_ACTIVATIONS)
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
        self._tabulated_features = TabulatedFeatures()

        step = (high - low) / grid_size
        knots = torch.arange(-spline_order, grid_size + spline_order + 1) * step + low
        self.register_buffer("grid", knots.expand(in_features, -1).contiguous())
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(
            torch.empty(out_features, in_features, grid_size + spline_order)
        )
        if standalone_spline_scale:
            self.spline_scaler = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights: uniform base and scaler, splines through small noise at the knots."""
        if self.spline_weight.is_meta:
            return
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5) * self.scale_base)
        if self.standalone_spline_scale:
            nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5) * self.scale_spline)
        # One solution serves all edges: the grid is still uniform, so integers can be its knots.
        size, order = self.grid_size, self.spline_order
        with torch.device("cpu"):
            knots = torch.arange(-order, size + order + 1, dtype=torch.float64)
            points = torch.arange(size + 1, dtype=torch.float64)
            interpolate = least_squares(
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

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Sum the edges into each output.

        Args:
            x: (..., I). Beyond the knots only the base branch is left; a non-finite value makes its
                whole row NaN.
            weight: ``edge_weight()``, where several calls share it.

        Returns:
            (..., O), in the dtype of x; computed in float32 or better.
        """
        with full_precision(x):
            rows = x.reshape(-1, self.in_features).to(self.compute_dtype(x))
            weight = self.edge_weight() if weight is None else weight
            bias = None if self.bias is None else self.bias.to(rows.dtype)
            total = F.linear(self.edge_features(rows), weight.to(rows.dtype), bias)
            return total.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def edge_features(self, rows: Tensor) -> Tensor:
        """Put act(x), B_1(x), …, B_P(x) of every input side by side: (N, I) to (N, I·(P + 1))."""
        activated = self.activate(rows)
        # Compilers fuse plain operators, exported graphs need them, and a GPU is fast with them.
        if rows.device.type == "cpu" and not torch.compiler.is_compiling():
            return self._tabulated_features(rows, activated, self.grid, self.spline_order)
        basis = spline_basis(rows, self.grid.to(rows.dtype), self.spline_order)
        return torch.cat([activated.unsqueeze(-1), basis], dim=-1).flatten(1)

    def edge_weight(self) -> Tensor:
        """Return both branches' weights, (O, I·(P + 1)), in the order of ``edge_features``."""
        dtype = self.compute_dtype(self.spline_weight)
        spline, base = self.spline_weight.to(dtype), self.base_weight.to(dtype)
        if torch.compiler.is_compiling():
            spline = self.scaled_spline_weight(dtype)
            return torch.cat([base.unsqueeze(-1), spline], dim=-1).flatten(1)
        scaler = self.spline_scaler.to(dtype) if self.standalone_spline_scale else None
        return merge_weights(base, spline, scaler)

    def scaled_spline_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the spline coefficients with the scaler applied, (O, I, P)."""
        if not self.standalone_spline_scale:
            return self.spline_weight.to(dtype)
        return self.spline_weight.to(dtype) * self.spline_scaler.to(dtype).unsqueeze(-1)

    def activate(self, x: Tensor) -> Tensor:
        """Apply the base activation, without the weight."""
        return _ACTIVATIONS[self.base_activation](x)

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Return the wider dtype of x and the weights, float32 at least."""
        dtype = torch.promote_types(x.dtype, self.spline_weight.dtype)
        return torch.promote_types(dtype, torch.float32)

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01) -> None:
        """Move the knots to the data (..., I) and refit the splines; see ``quantile_grid``.

        Raises:
            NumericsError: for data without rows or with values that are not finite.
        """
        rows, order = x.detach().reshape(-1, self.in_features), self.spline_order
        new_grid = quantile_grid(
            rows,
            self.grid_size,
            order,
            uniform_share=self.grid_eps,
            margin=margin,
            dtype=self.grid.dtype,
        ).to(self.grid)
        self.spline_weight.copy_(refit(self.spline_weight, rows, self.grid, new_grid, order))
        self.grid = new_grid

    def regularization_loss(self, activation: float = 1.0, entropy: float = 1.0) -> Tensor:
        """Compute the thesis's eq. 2.7 for this layer: a scalar, on the spline weights alone.

        Args:
            activation: factor of eq. 2.8, the mean of |spline_weight|.
            entropy: factor of eq. 2.9, the entropy over the edges, where p of an edge is its share
                of the edges' mean |spline_weight|, read as efficient-kan does.
        """
        magnitudes = self.spline_weight.to(self.compute_dtype(self.spline_weight)).abs().mean(-1)
        return activation * magnitudes.mean() + entropy * edge_entropy(magnitudes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KANLinear:
        """Move or cast the layer; knots follow to another device or float64, never to half."""
        knots = self.grid
        super()._apply(fn, recurse)
        if self.grid.dtype in (torch.float16, torch.bfloat16):
            self.grid = knots.to(self.grid.device)
        return self

    def extra_repr(self) -> str:
        """Describe the layer for ``print(model)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"grid_size={self.grid_size}, spline_order={self.spline_order}, "
            f"base_activation={self.base_activation!r}, "
            f"standalone_spline_scale={self.standalone_spline_scale}, "
            f"bias={self.bias is not None}"
        )


class KAN(nn.Module):
    """A chain of ``KANLinear`` layers.

    Args:
        layer_sizes: features at the input, between the layers and at the output; two or more.
        **options: of ``KANLinear``.

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
            for inputs, outputs in itertools.pairwise(layer_sizes)
        )

    def forward(self, x: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        """(..., first size) to (..., last size); ``weights`` are shared ``edge_weights()``."""
        for layer, weight in zip(self.layers, weights or self.edge_weights(), strict=True):
            x = layer(x, weight)
        return x

    def edge_weights(self) -> list[Tensor]:
        """Return every layer's ``edge_weight()``, for several calls of ``forward``."""
        return [layer.edge_weight() for layer in self._kan_layers()]

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01) -> None:
        """Update every layer's grid in turn on data (..., first size), as ``KANLinear``."""
        for layer in self._kan_layers():
            layer.update_grid(x, margin)
            x = layer(x)

    def regularization_loss(self, activation: float = 1.0, entropy: float = 1.0) -> Tensor:
        """Compute the thesis's eq. 2.7: the sum of the layers' terms on their weights."""
        terms = [layer.regularization_loss(activation, entropy) for layer in self._kan_layers()]
        return torch.stack(terms).sum()

    def _kan_layers(self) -> Iterable[KANLinear]:
        return cast(Iterable[KANLinear], self.layers)


def edge_entropy(magnitudes: Tensor) -> Tensor:
    """Compute the entropy of the distribution of magnitudes (not negative), a scalar in nats.

    Finite, as is its gradient, where all are zero: the logarithm is cut off at the smallest normal
    number, the sum at 1e-12.
    """
    share = magnitudes / magnitudes.sum().clamp_min(1e-12)
    return -(share * share.clamp_min(torch.finfo(share.dtype).tiny).log()).sum()
