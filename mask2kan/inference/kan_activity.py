"""Measure how much of a KAN head is a KAN, on the queries it reads.

A KAN layer is a base branch, which an MLP has too, plus splines. Trained carelessly, its splines
stay idle: the first heads of this project had .04 % and .31 % of their layers' variance from them,
and nothing changed where they were set to zero. Every model card therefore states:

* the **spline share** of a layer, Var(spline) / (Var(base) + Var(spline)): variances over queries,
  added up over the layer's outputs. The branches' covariance is left out, so the share lies between
  0 and 1;
* the **curvature** of a head, the share of its output's variance that the best affine map of its
  input leaves unexplained. It is defined for an MLP head too. Residuals of a least-squares fit are
  too small by the number of its parameters, which is corrected: rows / (rows - inputs - 1).

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
    """Two measures of a ``mask_embed`` on queries.

    Attributes:
        spline_shares: of its layers, in [0, 1]; empty for an MLP.
        curvature: of the whole head, in [0, 1].
        queries: how many it was measured on.
    """

    spline_shares: tuple[float, ...]
    curvature: float
    queries: int


@torch.no_grad()
def head_activity(mask_embed: nn.Module, queries: Tensor) -> Activity:
    """Measure a head.

    Args:
        mask_embed: of a model.
        queries: (..., C), as the head reads them; see ``collect_queries``.

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
    """Var(spline) / (Var(base) + Var(spline)) of a layer on inputs (N, I)."""
    total = layer(x)
    base = F.linear(layer.activate(x), layer.base_weight.to(x.dtype))
    spline = total - base  # and the bias, which has no variance
    parts = [float(part.double().var(0).sum()) for part in (base, spline)]
    return parts[1] / max(sum(parts), torch.finfo(torch.float64).tiny)


@torch.no_grad()
def curvature(inputs: Tensor, outputs: Tensor) -> float:
    """Share of the outputs' variance that no affine map of the inputs explains.

    Args:
        inputs: (N, C).
        outputs: (N, D).
    """
    x, y = (part.cpu().double() for part in (inputs, outputs))
    x, y = x - x.mean(0), y - y.mean(0)
    residual = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    freedom = len(x) - x.shape[1] - 1
    left = float(residual.square().sum()) / freedom
    whole = float(y.square().sum()) / (len(x) - 1)
    return min(left / max(whole, torch.finfo(torch.float64).tiny), 1.0)


@torch.no_grad()
def collect_queries(model: Mask2KAN, images: Iterable[Tensor]) -> Tensor:
    """The queries ``mask_embed`` reads after every decoder layer.

    Args:
        model: in evaluation mode.
        images: (3, H, W) float32 RGB in [0, 1] each.

    Returns:
        (N, C) float32 on the CPU; the learnable queries, equal for all images, are left out.
    """
    collected: list[Tensor] = []
    for image in images:
        states = model.transformer_decoder.refine(model.trunk(image[None].to(model.device)))
        collected += [queries[0].float().cpu() for queries, _ in states[1:] or states]
    return torch.cat(collected)
