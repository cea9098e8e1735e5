"""Refuse numbers that are not finite, before they change or replace anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from mask2kan.errors import NumericsError

from .resume import tensors_in

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


def require_finite_moments(model: nn.Module, optimizer: Optimizer, where: str) -> None:
    """Raise NumericsError on a moment of the optimizer that would spoil the weights."""
    moments = {
        (name, key): value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value.dim()
    }
    # One reduction: a tenth of the time of clipping the gradient
    if not moments or torch.isfinite(get_total_norm(list(moments.values()))):
        return
    broken = [" of ".join(reversed(key)) for key, value in moments.items() if not _is_finite(value)]
    raise NumericsError(
        f"Stopped before the update at {where}: the optimizer's moments are not finite "
        f"({len(broken)} of {len(moments)}, first {', '.join(broken[:3])}); continue from the last "
        "checkpoint with --resume."
    )


def require_finite_state(state: dict[str, Any], where: str) -> None:
    """Raise NumericsError when what is about to be saved holds a tensor that is not finite."""
    for name, value in tensors_in(state):
        if not _is_finite(value):
            raise NumericsError(
                f"Nothing is saved at {where}: {name} is not finite; continue from the "
                "last checkpoint with --resume, with a lower lr or in float32 if it happens again."
            )


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())
