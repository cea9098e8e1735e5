"""The dispatcher's view of the op: schema, shapes without data, and gradient.

``mask2kan::ms_deform_attn`` and its backward, and a second pair of the same meaning for the kernels
of ``fused``, are registered with ``torch.library``, so that ``torch.compile``, autocast and
autograd treat them as opaque operators. Kernels come from the backend modules, ``cpu``, ``fused``
and ``cuda``. Second derivatives are not defined; the reference backend has them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FORWARD = "mask2kan::ms_deform_attn"
BACKWARD = "mask2kan::ms_deform_attn_backward"
FUSED_FORWARD = "mask2kan::ms_deform_attn_fused"
FUSED_BACKWARD = "mask2kan::ms_deform_attn_fused_backward"

for _forward_name, _backward_name in ((FORWARD, BACKWARD), (FUSED_FORWARD, FUSED_BACKWARD)):
    torch.library.define(
        _forward_name,
        "(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
        "Tensor attention_weights) -> Tensor",
    )
    torch.library.define(
        _backward_name,
        "(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
        "Tensor attention_weights) -> (Tensor, Tensor, Tensor)",
    )


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
    return (
        value.new_empty(value.shape),
        locations.new_empty(locations.shape),
        weights.new_empty(weights.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, spatial_shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)
    ctx.spatial_shapes = spatial_shapes


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grads = torch.ops.mask2kan.ms_deform_attn_backward(
        grad_output, value, ctx.spatial_shapes, locations, weights
    )
    return grads[0], None, grads[1], grads[2]


def _fused_backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grads = torch.ops.mask2kan.ms_deform_attn_fused_backward(
        grad_output, value, ctx.spatial_shapes, locations, weights
    )
    return grads[0], None, grads[1], grads[2]


torch.library.register_fake(FORWARD, _forward_fake)
torch.library.register_fake(BACKWARD, _backward_fake)
torch.library.register_autograd(FORWARD, _backward, setup_context=_setup_context)
torch.library.register_fake(FUSED_FORWARD, _forward_fake)
torch.library.register_fake(FUSED_BACKWARD, _backward_fake)
torch.library.register_autograd(FUSED_FORWARD, _fused_backward, setup_context=_setup_context)


def ms_deform_attn_operator(
    value: Tensor,
    spatial_shapes: list[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    fused: bool = False,
) -> Tensor:
    """Call the registered operator on flattened (H, W) pairs; ``fused``: the second pair.

    Raises:
        NotImplementedError: no kernel is registered for the device of ``value``.
    """
    operator = (
        torch.ops.mask2kan.ms_deform_attn_fused if fused else torch.ops.mask2kan.ms_deform_attn
    )
    output: Tensor = operator(value, spatial_shapes, sampling_locations, attention_weights)
    return output
