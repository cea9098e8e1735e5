"""Register the op with ``torch.library``: schema, shapes without data, and gradient.

``mask2kan::ms_deform_attn`` and its backward, and a second pair for the kernels of ``fused``, are
opaque to ``torch.compile``, autocast and autograd. Kernels come from ``cpu``, ``fused`` and
``cuda``. Only the reference backend has second derivatives.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor

FORWARD = "mask2kan::ms_deform_attn"
BACKWARD = "mask2kan::ms_deform_attn_backward"
FUSED_FORWARD = "mask2kan::ms_deform_attn_fused"
FUSED_BACKWARD = "mask2kan::ms_deform_attn_fused_backward"


def _forward_fake(
    value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty((batch, locations.shape[1], heads * channels))


def _backward_fake(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: list[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = (tensor.new_empty(tensor.shape) for tensor in (value, locations, weights))
    return cast(tuple[Tensor, Tensor, Tensor], tuple(grads))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, spatial_shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)
    ctx.spatial_shapes = spatial_shapes


def _backward(operator: str, ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    backward = getattr(torch.ops.mask2kan, operator.removeprefix("mask2kan::"))
    grads = backward(grad_output, value, ctx.spatial_shapes, locations, weights)
    return grads[0], None, grads[1], grads[2]


# Two pairs, because a dispatch key (CPU) takes one kernel per operator.
for _pair in ((FORWARD, BACKWARD), (FUSED_FORWARD, FUSED_BACKWARD)):
    _inputs = (
        "Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights"
    )
    torch.library.define(_pair[0], f"({_inputs}) -> Tensor")
    torch.library.define(_pair[1], f"(Tensor grad_output, {_inputs}) -> (Tensor, Tensor, Tensor)")
    torch.library.register_fake(_pair[0], _forward_fake)
    torch.library.register_fake(_pair[1], _backward_fake)
    torch.library.register_autograd(
        _pair[0], functools.partial(_backward, _pair[1]), setup_context=_setup_context
    )


def ms_deform_attn_operator(
    value: Tensor,
    spatial_shapes: list[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    fused: bool = False,
) -> Tensor:
    """Call a registered operator on flattened (H, W) pairs.

    Raises:
        NotImplementedError: no kernel is registered for the device of ``value``.
    """
    operators = torch.ops.mask2kan
    operator = operators.ms_deform_attn_fused if fused else operators.ms_deform_attn
    return cast(Tensor, operator(value, spatial_shapes, sampling_locations, attention_weights))
