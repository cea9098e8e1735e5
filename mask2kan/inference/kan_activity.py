"""Measure how much of a KAN head is a KAN, on the queries it reads.

A KAN layer is a base branch, as an MLP has, plus splines, which careless training leaves idle.
Every model card therefore states:

* the **spline share** of a layer, Var(spline) / (Var(base) + Var(spline)): variances over queries,
  summed over outputs, without the branches' covariance, so in [0, 1];
* the **curvature** of a head (KAN or MLP): the share of its output's variance that the best affine
  map of its input leaves, corrected for the fit's parameters: rows / (rows - inputs - 1).

Legend: N queries, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mask2kan.errors import ConfigError
from mask2kan.modeling.kan.layers import KAN, KANLinear
from mask2kan.modeling.mask2kan import Mask2KAN


@dataclasses.dataclass(frozen=True)
class Activity:
    """Measures of a ``mask_embed``, both in [0, 1], and the number of queries behind them."""

    spline_shares: tuple[float, ...]  # per layer; empty for an MLP
    curvature: float
    queries: int


@torch.no_grad()
def head_activity(mask_embed: nn.Module, queries: Tensor) -> Activity:
    """Measure a head on (..., C) queries, as it reads them; see ``collect_queries``.

    Raises:
        ConfigError: for too few queries to fit an affine map to.
    """
    rows = queries.flatten(0, -2).float()
    if len(rows) < 2 * (rows.shape[1] + 1):
        raise ConfigError(
            f"{len(rows)} queries of {rows.shape[1]} channels; at least twice as many queries as "
            "channels are needed."
        )
    shares: list[float] = []
    if isinstance(mask_embed, KAN):
        x = rows
        for layer in mask_embed.layers:
            assert isinstance(layer, KANLinear)
            shares.append(spline_share(layer, x))
            x = layer(x)
    return Activity(tuple(shares), curvature(rows, mask_embed(rows)), len(rows))


@torch.no_grad()
def spline_share(layer: KANLinear, x: Tensor) -> float:
    """Compute Var(spline) / (Var(base) + Var(spline)) of a layer on inputs (N, I)."""
    total = layer(x)
    base = F.linear(layer.activate(x), layer.base_weight.to(x.dtype))
    spline = total - base  # and the bias, which has no variance
    parts = [float(part.double().var(0).sum()) for part in (base, spline)]
    return parts[1] / max(sum(parts), torch.finfo(torch.float64).tiny)


@torch.no_grad()
def curvature(inputs: Tensor, outputs: Tensor) -> float:
    """Compute the share of the outputs' variance that no affine map of the inputs explains."""
    x, y = (part.cpu().double() for part in (inputs, outputs))
    x, y = x - x.mean(0), y - y.mean(0)
    residual = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    freedom = len(x) - x.shape[1] - 1
    unexplained = float(residual.square().sum()) / freedom
    variance = float(y.square().sum()) / (len(x) - 1)
    return min(unexplained / max(variance, torch.finfo(torch.float64).tiny), 1.0)


@torch.no_grad()
def collect_queries(model: Mask2KAN, images: Iterable[Tensor]) -> Tensor:
    """Collect the queries ``mask_embed`` reads after every decoder layer: (N, C) float32, CPU.

    The learnable queries, equal for all images, are left out.

    Args:
        model: in evaluation mode.
        images: (3, H, W) float32 RGB in [0, 1] each.
    """
    collected: list[Tensor] = []
    for image in images:
        states = model.transformer_decoder.refine(model.trunk(image[None].to(model.device)))
        collected += [queries[0].float().cpu() for queries, _ in states[1:] or states]
    return torch.cat(collected)
