"""Batch norm and ReLU6 in training on a CPU, as one operator.

Eight passes over the maps, forward and backward, where PyTorch needs fourteen. The loops are in
``fused_kernels.py`` and run where ``mask2kan.ops.uses_numba`` says.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mask2kan.ops.fused import run


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, *, epsilon: float, high: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise with the batch's statistics; scale and shift; clip.

    Args:
        x: (B, C, H, W), float32 or float64, on the CPU, channels last in memory.
        weight: (C,), of the same dtype.
        bias: (C,), of the same dtype.
        epsilon: added to the variance.
        high: 6 for a ReLU6 after the norm, 0 for none.

    Returns:
        The result (B, C, H, W), channels last; mean and biased variance (C,), float64, without
        gradients.
    """
    return cast(tuple[Tensor, Tensor, Tensor], _BatchNorm.apply(x, weight, bias, epsilon, high))


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, high: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.empty_like(x)
        mean, variance = x.new_empty((2, x.shape[1]), dtype=torch.float64)
        arrays = _arrays(x, weight, bias)
        limit = arrays[0].dtype.type(high)  # of the map's dtype: a float64 would widen the loops
        run("norm_forward", *arrays, epsilon, limit, *_arrays(y, mean, variance))
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.epsilon, ctx.limit = epsilon, limit
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, variance = ctx.saved_tensors
        grads = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        run(
            "norm_backward",
            *_arrays(x, weight, bias),
            ctx.epsilon,
            ctx.limit,
            *_arrays(mean, variance, grad.contiguous(memory_format=torch.channels_last), *grads),
        )
        return (*grads, None, None)


def _arrays(*tensors: Tensor) -> list[Any]:
    """View tensors as NumPy arrays, maps as (B * H * W, C): no copy, as channels come last."""
    flat = (t.permute(0, 2, 3, 1).flatten(0, 2) if t.dim() == 4 else t for t in tensors)
    return [tensor.detach().numpy() for tensor in flat]
