"""Grids that follow data, and refitting splines from one grid to another.

The grid is efficient-kan's blend of quantiles and uniform steps. Departures: knots keep a minimum
distance, so that collapsed activations cannot make the basis NaN; the refit is the least-squares
optimum.

Legend: I inputs, O outputs, G grid intervals, k spline order, N rows, P = G + k functions on
G + 2k + 1 knots.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from mask2kan.errors import NumericsError
from mask2kan.modeling.kan.splines import spline_basis

# Smallest distance of knots: in steps of their dtype at the data's magnitude, in uniform grid
# steps, and in absolute terms.
_GAP_RESOLUTION = 256
_GAP_STEPS = 1e-3
_GAP_FLOOR = 1e-6

# Float64 elements of the largest temporary of a refit: 64 MiB.
_REFIT_ELEMENTS = 1 << 23


def quantile_grid(
    rows: Tensor, size: int, order: int, *, uniform_share: float, margin: float, dtype: torch.dtype
) -> Tensor:
    """Place knots that follow the (N, I) data of each feature.

    Inside, G + 1 knots blend the data's quantiles with an even spacing of the range; k even steps
    follow at both ends.

    Args:
        rows: (N, I) data.
        size: G.
        order: k.
        uniform_share: 1 for even spacing, 0 for quantiles.
        margin: by which the even spacing exceeds the data on either side, in its units.
        dtype: of the knots; distances stay well above its resolution.

    Returns:
        (I, G + 2k + 1) knots, strictly increasing, on the CPU.

    Raises:
        NumericsError: for data without rows or with values that are not finite.
    """
    if not len(rows):
        raise NumericsError("The grid update got no data; give it at least one row.")
    if not rows.isfinite().all():
        raise NumericsError(
            f"The grid update got {int((~rows.isfinite()).sum())} values that are not finite "
            f"of {rows.numel()}; check the layers before it."
        )
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
    """Compute ``quantile_grid`` from (I, G + 1) quantiles that include both extremes."""
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


def refit(weight: Tensor, rows: Tensor, grid: Tensor, new_grid: Tensor, order: int) -> Tensor:
    """Put splines on another grid, with the least squared change over the rows.

    The solution, of smallest norm among equals, is linear in the old spline: one matrix serves all
    edges of a feature, and a factor on a spline (the scaler) cancels.

    Args:
        weight: (O, I, P) coefficients.
        rows: (N, I) finite data, N at least 1, on any device.
        grid: (I, P + k + 1) knots.
        new_grid: (I, R + k + 1) knots, not decreasing.
        order: k.

    Returns:
        (O, I, R) like ``weight``.
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
    old_weight = weight.detach().to("cpu", torch.float64)
    return torch.einsum("irp,oip->oir", torch.cat(transfers), old_weight).to(weight)


def least_squares(design: Tensor, target: Tensor, stored: torch.dtype) -> Tensor:
    """Solve a batch of least-squares problems with minimum norm: (I, R, P).

    Args:
        design: (I, N, R) float64 on the CPU, where gelsd, which handles rank deficiency, runs.
        target: (I, N, P) likewise.
        stored: dtype the solution will be stored in. Directions below its resolution count as rank
            deficient: their coefficients would be too large to cancel once rounded.
    """
    tolerance = torch.finfo(stored).eps
    result = torch.linalg.lstsq(design, target, rcond=tolerance, driver="gelsd")
    return cast(Tensor, result.solution)


def _feature_slices(num_features: int, elements_per_feature: int) -> list[slice]:
    """Slice the features so that temporaries stay below ``_REFIT_ELEMENTS``."""
    step = max(1, _REFIT_ELEMENTS // max(1, elements_per_feature))
    return [slice(start, start + step) for start in range(0, num_features, step)]
