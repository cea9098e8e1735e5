"""Weights that FSDP spreads over processes, whole or this process's share.

Without FSDP these functions return or write the tensor as it is.
"""

from __future__ import annotations

import copy
import os

import torch
from accelerate import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mask2kan.modeling.kan.layers import KAN

# What FSDP gathers and releases on its own: parts that read their weights in their own forward
# alone. The transformer decoder stays with the objective, whose losses read the head's weights.
SHARDED_PARTS = ("EncoderLayer", "Stage")


def sharding_asked_for() -> FullyShardedDataParallelPlugin | None:
    """Configure FSDP for this model when ``accelerate launch --use_fsdp`` asks for it."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("1", "true"):
        return None
    return FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")


def choose_parts(plugin: FullyShardedDataParallelPlugin, model: nn.Module) -> None:
    """Set which parts FSDP gathers on their own."""
    present = {type(module).__name__ for module in model.modules()}
    plugin.transformer_cls_names_to_wrap = [name for name in SHARDED_PARTS if name in present]


def share(value: Tensor) -> Tensor:
    """Return this process's share of a weight, in the same memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a whole tensor, cut as ``like`` is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements).to_local()


def whole(part: Tensor, like: Tensor) -> Tensor:
    """Return the tensor whose share here is ``part``, cut as ``like`` is; a collective."""
    if not isinstance(like, DTensor):
        return part
    spread = DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
    return spread.full_tensor()


@torch.no_grad()
def update_grid(head: KAN, plain: KAN, inputs: Tensor) -> None:
    """Call ``head.update_grid`` also where weights are sharded; a collective.

    ``plain`` is an unsharded head of the same shape; ``inputs`` (N, C) are the same everywhere.
    """
    live = head.state_dict()
    if not any(isinstance(value, DTensor) for value in live.values()):
        head.update_grid(inputs)
        return
    fitted = copy.deepcopy(plain)
    fitted.load_state_dict({key: whole(share(value), value) for key, value in live.items()})
    fitted.update_grid(inputs)
    for key, value in fitted.state_dict().items():
        share(live[key]).copy_(share_of(value, live[key]))
