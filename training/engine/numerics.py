"""Refuse a loss or gradient that is not finite, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from mask2kan.errors import NumericsError

LOWEST_SCALE = 1.0  # of the float16 loss scale; below it, gradients are not recoverable


def require_finite_losses(losses: Mapping[str, Tensor], where: str) -> None:
    """Raise NumericsError when ``loss`` is not finite."""
    if torch.isfinite(losses["loss"]):
        return
    broken = [name for name, value in losses.items() if not torch.isfinite(value)]
    raise NumericsError(
        f"Stopped before the update at {where}: the loss is {losses['loss'].item()} "
        f"({', '.join(broken)}); lower lr or train in float32."
    )


def require_finite_gradient(
    model: nn.Module, norm: Tensor, scaler: GradScaler | None, where: str
) -> None:
    """Raise NumericsError on a gradient that no smaller float16 loss scale would make finite."""
    if torch.isfinite(norm) or (scaler is not None and scaler.get_scale() > LOWEST_SCALE):
        return
    broken = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    raise NumericsError(
        f"Stopped before the update at {where}: the gradient is not finite "
        f"({len(broken)} parameters, first {', '.join(broken[:3])}); lower lr or train in float32."
    )
