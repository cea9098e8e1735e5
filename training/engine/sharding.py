"""Weights that FSDP spreads over processes, seen whole or as this process's share.

Without FSDP every function here returns or writes the tensor as it is.
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
    """FSDP as this model needs it, when ``accelerate launch --use_fsdp`` asks for FSDP."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("1", "true"):
        return None
    return FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")


def choose_parts(plugin: FullyShardedDataParallelPlugin, model: nn.Module) -> None:
    """Tell FSDP which parts of a model to gather on their own."""
    present = {type(module).__name__ for module in model.modules()}
    plugin.transformer_cls_names_to_wrap = [name for name in SHARDED_PARTS if name in present]


def share(value: Tensor) -> Tensor:
    """This process's part of a weight, sharing its memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, cut as ``like`` is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements).to_local()


def whole(part: Tensor, like: Tensor) -> Tensor:
    """The whole of which ``part`` is this process's share, cut as ``like`` is; a collective."""
    if not isinstance(like, DTensor):
        return part
    spread = DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
    return spread.full_tensor()


@torch.no_grad()
def update_grid(head: KAN, plain: KAN, inputs: Tensor) -> None:
    """``head.update_grid(inputs)``, also where its weights are sharded; a collective.

    Args:
        head: of the model in training.
        plain: any unsharded head of the same shape; not changed.
        inputs: (N, C), the same on every process.
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
