"""Kolmogorov-Arnold layers: a learnable function on every edge, a B-spline plus a base activation.

An edge from input i to output o carries ``phi(x) = b * act(x) + s * sum_c w_c * B_c(x)``; a layer
sums its edges (and a bias, where asked for) and a network chains layers. The KAN is Liu et al.
(arXiv 2404.19756); the thesis takes the matrix form of efficient-kan, whose parameter names, shapes
and initialisation are kept so that its checkpoints load.

Departures, and why:

* The refit after a grid update is the least-squares optimum of each edge, scaler included.
  efficient-kan applies the scaler twice there, which changes the function.
* Basis and sums are computed in float32 or better, whatever the model's dtype or autocast say,
  and the knots are never stored in half precision, which could collapse them.
* Entropy terms have a finite value and gradient where edges are zero. Minimised, they promote
  sparsity; the thesis expects a "more uniform distribution" of them, which is the opposite.
* Eq. 2.8 is a mean, as printed; efficient-kan sums over the edges.

Legend: I inputs, O outputs, G grid intervals, k spline order, N rows (all leading dimensions),
P = G + k functions in the basis, on G + 2k + 1 knots.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mask2kan.errors import ConfigError, NumericsError, unknown
from mask2kan.modeling.config import BASE_ACTIVATIONS
from mask2kan.modeling.kan.splines import (
    FeatureTable,
    edge_features,
    feature_table,
    least_squares,
    quantile_grid,
    spline_basis,
    transfer_matrix,
)
from mask2kan.runtime.precision import full_precision

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}

# Elements of the largest temporary when every edge is evaluated on its own: 32 MiB of float32.
_EDGE_ELEMENTS = 1 << 23


@dataclasses.dataclass(frozen=True)
class EdgeCurve:
    """One edge's function, sampled for plotting; float32 arrays.

    Attributes:
        x: (num_points,) from the first knot to the last.
        base: (num_points,) the base branch, weight included.
        spline: (num_points,) the spline, scaler included.
        total: (num_points,) their sum.
        knots: (G + 2k + 1,); the spline space is complete between knots k and G + k.
    """

    x: npt.NDArray[np.float32]
    base: npt.NDArray[np.float32]
    spline: npt.NDArray[np.float32]
    total: npt.NDArray[np.float32]
    knots: npt.NDArray[np.float32]


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
        bias: whether a constant is added to every output. Without one the splines serve as it.

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
        self._table: tuple[Tensor, FeatureTable] | None = None

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
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5) * self.scale_base)
        if self.standalone_spline_scale:
            nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5) * self.scale_spline)
        # One solution serves all edges: the grid is still uniform, and units cancel.
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
        """Sum of the edges into each output.

        Args:
            x: (..., I). Values beyond the knots see the base branch only; a value that is not
                finite makes its whole row NaN.
            weight: ``edge_weight()``, where several calls share it.

        Returns:
            (..., O), in the dtype of x; computed in float32 or better.
        """
        with full_precision(x):
            rows = x.reshape(-1, self.in_features).to(self._compute_dtype(x))
            if weight is None:
                weight = self.edge_weight()
            bias = None if self.bias is None else self.bias.to(rows.dtype)
            total = F.linear(self._features(rows), weight.to(rows.dtype), bias)
            return total.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def edge_weight(self) -> Tensor:
        """Both branches' weights side by side, (O, I·(P + 1)): one product serves them both."""
        dtype = self._compute_dtype(self.spline_weight)
        spline, base = self.spline_weight.to(dtype), self.base_weight.to(dtype)
        if torch.compiler.is_compiling():  # which fuses the plain operators by itself
            spline = self.scaled_spline_weight(dtype)
            return torch.cat([base.unsqueeze(-1), spline], dim=-1).flatten(1)
        scaler = self.spline_scaler.to(dtype) if self.standalone_spline_scale else None
        weight: Tensor = _EdgeWeight.apply(base, spline, scaler)
        return weight

    def _features(self, rows: Tensor) -> Tensor:
        """(N, I) to (N, I·(P + 1)): the activation and the basis of every input."""
        activated = self.activate(rows)
        # Compilers fuse, and other programs know, the plain operators; so do graphics cards.
        if rows.device.type == "cpu" and not torch.compiler.is_compiling():
            return edge_features(rows, activated, self._feature_table(rows.dtype))
        basis = spline_basis(rows, self.grid.to(rows.dtype), self.spline_order)
        return torch.cat([activated.unsqueeze(-1), basis], dim=-1).flatten(1)

    def _feature_table(self, dtype: torch.dtype) -> FeatureTable:
        """The grid's table, made again whenever the grid is not what it was made for."""
        kept = self._table
        if kept is None or kept[1].rows.dtype != dtype or not torch.equal(kept[0], self.grid):
            # not an inference tensor: a recorded pass may come after this one
            with torch.inference_mode(False):
                grid = self.grid.clone()
                kept = (grid, feature_table(grid, self.spline_order, dtype))
            self._table = kept
        return kept[1]

    def scaled_spline_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Spline coefficients with the scaler applied, (O, I, P)."""
        if not self.standalone_spline_scale:
            return self.spline_weight.to(dtype)
        return self.spline_weight.to(dtype) * self.spline_scaler.to(dtype).unsqueeze(-1)

    def activate(self, x: Tensor) -> Tensor:
        """The base activation of inputs, without the weight."""
        return _ACTIVATIONS[self.base_activation](x)

    def _compute_dtype(self, x: Tensor) -> torch.dtype:
        dtype = torch.promote_types(x.dtype, self.spline_weight.dtype)
        return torch.promote_types(dtype, torch.float32)

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01) -> None:
        """Move the knots to where the data is and refit the splines to it.

        Args:
            x: (..., I) inputs of this layer.
            margin: by which the evenly spaced part of the grid exceeds the data, in its units.

        Raises:
            NumericsError: for data without rows or with values that are not finite.
        """
        rows = self._data_rows(x)
        new_grid = quantile_grid(
            rows,
            self.grid_size,
            self.spline_order,
            uniform_share=self.grid_eps,
            margin=margin,
            dtype=self.grid.dtype,
        )
        self.refit(rows, new_grid)

    @torch.no_grad()
    def refit(self, x: Tensor, new_grid: Tensor) -> None:
        """Put the splines on another grid, changing them as little as possible on the data.

        Each edge's new coefficients minimise the squared error of its scaled spline over the rows;
        among equals, those of smallest norm. The scaler is a factor of both sides, so it stays.

        Args:
            x: (..., I) inputs of this layer.
            new_grid: (I, G' + 2k + 1) knots, not decreasing. Another size than now replaces the
                parameter ``spline_weight``, so an optimiser has to be told.

        Raises:
            NumericsError: for data or knots that are not finite, or no data.
            ConfigError: for a grid of another shape or with decreasing knots.
        """
        rows = self._data_rows(x)
        new_grid = new_grid.to(self.grid)
        self._check_grid(new_grid)
        transfer = transfer_matrix(rows, self.grid, new_grid, self.spline_order)
        old = self.spline_weight.detach().to("cpu", torch.float64)
        new = torch.einsum("irp,oip->oir", transfer, old).to(self.spline_weight)
        if new.shape == self.spline_weight.shape:
            self.spline_weight.copy_(new)
        else:
            self.spline_weight = nn.Parameter(new)
        self.grid = new_grid.clone()
        self.grid_size = new_grid.shape[1] - 1 - 2 * self.spline_order

    def regularization_loss(self, activation: float = 1.0, entropy: float = 1.0) -> Tensor:
        """The thesis's eq. 2.7 for this layer, on the spline weights alone.

        Eq. 2.8 is the mean of |spline_weight|. Eq. 2.9 is the entropy over the edges of the layer:
        p of an edge is its mean |spline_weight| divided by the sum of these means (the "normalized
        spline weight values", read as efficient-kan does). The scaler is no part of either.

        Args:
            activation: factor of eq. 2.8.
            entropy: factor of eq. 2.9.

        Returns:
            A scalar; value and gradient are finite for weights that are all or partly zero.
        """
        magnitudes = self.spline_weight.to(self._compute_dtype(self.spline_weight)).abs().mean(-1)
        return activation * magnitudes.mean() + entropy * edge_entropy(magnitudes)

    def activation_regularization(self, x: Tensor, l1: float = 1.0, entropy: float = 1.0) -> Tensor:
        """The thesis's section 3.3.4 for this layer: L1 norm and entropy of its edge functions.

        Args:
            x: (..., I) inputs of this layer.
            l1: mu_1, factor of the sum over edges of the mean |phi|.
            entropy: mu_2, factor of the entropy of its distribution over edges.

        Returns:
            A scalar, differentiable in weights and x.
        """
        norms = self.activation_norms(x)
        return l1 * norms.sum() + entropy * edge_entropy(norms)

    def activation_norms(self, x: Tensor) -> Tensor:
        """Mean absolute value of every edge's function over the data, base branch included.

        Works through the rows in pieces and, for the gradient, recomputes them, so that memory does
        not grow with N * I * O.

        Args:
            x: (..., I) inputs of this layer; no rows give zeros.

        Returns:
            (O, I).
        """
        rows = x.reshape(-1, self.in_features).to(self._compute_dtype(x))
        total = rows.new_zeros(self.out_features, self.in_features)
        with full_precision(x):
            weight = self.edge_weight().to(rows.dtype)
            for part in rows.split(max(1, _EDGE_ELEMENTS // total.numel())):
                total = total + checkpoint(
                    self._sum_of_magnitudes,
                    part,
                    weight,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
        return total / max(1, len(rows))

    def _sum_of_magnitudes(self, rows: Tensor, weight: Tensor) -> Tensor:
        """(n, I) to (O, I): sum over the rows of every edge's |phi|."""
        features = self._features(rows).unflatten(1, (self.in_features, -1))
        weight = weight.unflatten(1, (self.in_features, -1))
        edges: Tensor = features.transpose(0, 1) @ weight.permute(1, 2, 0)  # (I, n, O)
        return edges.abs().sum(dim=1).transpose(0, 1)

    @torch.no_grad()
    def edge_norms(self, num_points: int = 200) -> Tensor:
        """Mean |phi| of every edge over the inner grid, evenly sampled: its weight without data.

        Returns:
            (O, I).
        """
        low = self.grid[:, self.spline_order]
        high = self.grid[:, -1 - self.spline_order]
        share = torch.linspace(0, 1, num_points, dtype=low.dtype, device=low.device).unsqueeze(1)
        return self.activation_norms(torch.lerp(low, high, share))

    @torch.no_grad()
    def curve(self, input_index: int, output_index: int, num_points: int = 200) -> EdgeCurve:
        """The function on one edge, from its first knot to its last.

        Raises:
            ConfigError: for an edge that does not exist, or fewer than two points.
        """
        found = (input_index, output_index, num_points)
        if not (0 <= found[0] < self.in_features and 0 <= found[1] < self.out_features):
            raise ConfigError(
                f"Edge (input {found[0]}, output {found[1]}) does not exist; the layer has "
                f"{self.in_features} inputs and {self.out_features} outputs, counted from 0."
            )
        if num_points < 2:
            raise ConfigError(f"num_points is {num_points}; a curve needs at least 2.")
        knots = self.grid[input_index]
        share = torch.linspace(0, 1, num_points, dtype=knots.dtype, device=knots.device)
        x = torch.lerp(knots[0], knots[-1], share)
        weight = self.scaled_spline_weight(x.dtype)[output_index, input_index]
        base = self.activate(x) * self.base_weight[output_index, input_index]
        basis = spline_basis(x.unsqueeze(1), knots.unsqueeze(0), self.spline_order)
        spline = basis.squeeze(1) @ weight
        arrays = (part.float().cpu().numpy() for part in (x, base, spline, base + spline, knots))
        return EdgeCurve(*arrays)

    def _data_rows(self, x: Tensor) -> Tensor:
        rows = x.detach().reshape(-1, self.in_features)
        if not len(rows):
            raise NumericsError("The grid update got no data; give it at least one row.")
        if not rows.isfinite().all():
            raise NumericsError(
                f"The grid update got {int((~rows.isfinite()).sum())} values that are not finite "
                f"of {rows.numel()}; check the layers before it."
            )
        return rows

    def _check_grid(self, grid: Tensor) -> None:
        least = 2 * self.spline_order + 2
        if grid.ndim != 2 or grid.shape[0] != self.in_features or grid.shape[1] < least:
            raise ConfigError(
                f"new_grid has shape {tuple(grid.shape)}; it must be ({self.in_features}, n) with "
                f"n = grid_size + 2 * spline_order + 1, at least {least}."
            )
        if not grid.isfinite().all():
            raise NumericsError("new_grid has knots that are not finite; give finite ones.")
        if (grid.diff(dim=1) < 0).any():
            raise ConfigError("new_grid has decreasing knots; sort each row.")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KANLinear:
        """Move or cast the layer; knots follow to another device or float64, never to half."""
        knots = self.grid
        super()._apply(fn, recurse)
        if self.grid.dtype in (torch.float16, torch.bfloat16):
            self.grid = knots.to(self.grid.device)
        return self

    def extra_repr(self) -> str:
        """What the layer is, for ``print(model)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"grid_size={self.grid_size}, spline_order={self.spline_order}, "
            f"base_activation={self.base_activation!r}, "
            f"standalone_spline_scale={self.standalone_spline_scale}, "
            f"bias={self.bias is not None}"
        )


class _EdgeWeight(torch.autograd.Function):
    """Base weights and scaled spline weights in one tensor, without passes over copies of them."""

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
            for inputs, outputs in itertools.pairwise(layer_sizes)
        )

    def forward(self, x: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        """(..., first size) to (..., last size).

        Args:
            x: inputs.
            weights: ``edge_weights()``, where several calls share them.
        """
        for layer, weight in zip(self.layers, weights or self.edge_weights(), strict=True):
            x = layer(x, weight)
        return x

    def edge_weights(self) -> list[Tensor]:
        """What every layer computes from its weights alone, for several calls of ``forward``."""
        return [layer.edge_weight() for layer in self._kan_layers()]

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01) -> None:
        """Update every layer's grid with what reaches it once the layers before it are updated.

        Args:
            x: (..., first size).
            margin: as of ``KANLinear.update_grid``.

        Raises:
            NumericsError: for data without rows or with values that are not finite.
        """
        for layer in self._kan_layers():
            layer.update_grid(x, margin)
            x = layer(x)

    def regularization_loss(self, activation: float = 1.0, entropy: float = 1.0) -> Tensor:
        """The thesis's eq. 2.7: the sum of the layers' terms on their weights."""
        terms = [layer.regularization_loss(activation, entropy) for layer in self._kan_layers()]
        return torch.stack(terms).sum()

    def activation_regularization(self, x: Tensor, l1: float = 1.0, entropy: float = 1.0) -> Tensor:
        """The bracket of the thesis's section 3.3.4: the sum of the layers' terms on data.

        Args:
            x: (..., first size), inputs of the network.
            l1: mu_1.
            entropy: mu_2.
        """
        terms = []
        for layer in self._kan_layers():
            terms.append(layer.activation_regularization(x, l1, entropy))
            x = layer(x)
        return torch.stack(terms).sum()

    def _kan_layers(self) -> Iterator[KANLinear]:
        for layer in self.layers:
            assert isinstance(layer, KANLinear)
            yield layer


def edge_entropy(magnitudes: Tensor) -> Tensor:
    """Entropy of how magnitudes are distributed, in nats.

    Args:
        magnitudes: not negative, any shape.

    Returns:
        A scalar, 0 where all are zero. Its gradient is finite there too: the logarithm is cut off
        at the smallest normal number, the sum at 1e-12.
    """
    share = magnitudes / magnitudes.sum().clamp_min(1e-12)
    return -(share * share.clamp_min(torch.finfo(share.dtype).tiny).log()).sum()


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")
