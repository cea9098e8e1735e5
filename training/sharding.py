"""Weights that FSDP spreads over processes, seen whole or as this process's share.

Without FSDP every function here returns or writes the tensor as it is.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mask2kan.kan import KAN


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
