"""Single edges of a KAN layer: how large their functions are, and their curves.

Legend: I inputs, O outputs, G grid intervals, k spline order, N rows, P = G + k functions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mask2kan.errors import ConfigError
from mask2kan.modeling.kan.layers import KANLinear
from mask2kan.modeling.kan.splines import spline_basis
from mask2kan.runtime.precision import full_precision

# Elements of the largest temporary when every edge is evaluated on its own: 32 MiB of float32.
_EDGE_ELEMENTS = 1 << 23


class EdgeCurve(NamedTuple):
    """One edge's function at ``num_points`` places, for plotting."""

    x: npt.NDArray[np.float32]  # from the first knot to the last
    base: npt.NDArray[np.float32]  # the base branch, weight included
    spline: npt.NDArray[np.float32]  # the spline, scaler included
    total: npt.NDArray[np.float32]
    knots: npt.NDArray[np.float32]  # (G + 2k + 1,); splines are complete from knot k to G + k


@torch.no_grad()
def edge_curve(layer: KANLinear, input: int, output: int, num_points: int = 200) -> EdgeCurve:
    """Sample the function on one edge, from its first knot to its last.

    Raises:
        ConfigError: for an edge that does not exist, or fewer than two points.
    """
    if not (0 <= input < layer.in_features and 0 <= output < layer.out_features):
        raise ConfigError(
            f"Edge (input {input}, output {output}) does not exist; the layer has "
            f"{layer.in_features} inputs and {layer.out_features} outputs, counted from 0."
        )
    if num_points < 2:
        raise ConfigError(f"num_points is {num_points}; a curve needs at least 2.")
    knots = layer.grid[input]
    share = torch.linspace(0, 1, num_points, dtype=knots.dtype, device=knots.device)
    x = torch.lerp(knots[0], knots[-1], share)
    base = layer.activate(x) * layer.base_weight[output, input]
    basis = spline_basis(x.unsqueeze(1), knots.unsqueeze(0), layer.spline_order)
    spline = basis.squeeze(1) @ layer.scaled_spline_weight(x.dtype)[output, input]
    arrays = (part.float().cpu().numpy() for part in (x, base, spline, base + spline, knots))
    return EdgeCurve(*arrays)


class EdgeNorms(NamedTuple):
    """Mean sizes of all edges' functions over some inputs, (O, I) each."""

    total: Tensor  # mean |phi|
    spline: Tensor  # mean |spline|: how far the splines alone move the inputs


@torch.no_grad()
def norms_by_part(layer: KANLinear, x: Tensor) -> EdgeNorms:
    """Average every edge's |phi| and |spline| over inputs (..., I); none give zeros."""
    rows = x.reshape(-1, layer.in_features).to(layer.compute_dtype(x))
    total = rows.new_zeros(layer.out_features, layer.in_features)
    spline = total.clone()
    edges = (layer.in_features, -1)
    with full_precision(x):
        weight = layer.edge_weight().to(rows.dtype).unflatten(1, edges).permute(1, 2, 0)
        # In pieces, because the edges are not summed: each row gives I * O numbers.
        for part in rows.split(max(1, _EDGE_ELEMENTS // total.numel())):
            features = layer.edge_features(part).unflatten(1, edges).transpose(0, 1)
            # The splines on their own first, (I, n, P) @ (I, P, O): taken off the whole they would
            # drown in its rounding where they are idle. The base is one feature, an outer product.
            phi = features[..., 1:] @ weight[:, 1:]
            spline += phi.abs().sum(dim=1).T
            phi += features[..., :1] * weight[:, :1]
            total += phi.abs().sum(dim=1).T
    count = max(1, len(rows))
    return EdgeNorms(total / count, spline / count)


def activation_norms(layer: KANLinear, x: Tensor) -> Tensor:
    """Average every edge's |phi| over inputs (..., I) of the layer; none give zeros.

    Returns:
        (O, I).
    """
    return norms_by_part(layer, x).total


def edge_norms(layer: KANLinear, num_points: int = 200) -> Tensor:
    """Average every edge's |phi| over the inner grid, evenly sampled: its size without data.

    Returns:
        (O, I).
    """
    low = layer.grid[:, layer.spline_order]
    high = layer.grid[:, -1 - layer.spline_order]
    share = torch.linspace(0, 1, num_points, dtype=low.dtype, device=low.device).unsqueeze(1)
    return activation_norms(layer, torch.lerp(low, high, share))
