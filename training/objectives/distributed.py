"""What a loss needs to be the same on one process and on many.

Shared counts, and random numbers that belong to an image instead of a process.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """The value averaged over all processes, without gradient; itself where there is one.

    Dividing a local sum by the average count gives, after the gradients' average, the loss of the
    whole batch.
    """
    value = value.detach()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value


class PointDraws:
    """Uniform points of the images of a batch, each image with a stream of its own.

    Crop n of a run draws the same points whatever batch or process it is in.

    Args:
        seed: of the run.
        numbers: of the crops, one per image of the batch.
        device: where the points are wanted.
    """

    def __init__(self, seed: int, numbers: Sequence[int], device: torch.device) -> None:
        self._device = device
        self._streams = [
            torch.Generator(device).manual_seed((seed * 1_000_003 + number) % 2**63)
            for number in numbers
        ]

    def __call__(self, num_points: int) -> Tensor:
        """(B, P, 2) new points in [0, 1]."""
        return torch.stack(
            [
                torch.rand(num_points, 2, generator=stream, device=self._device)
                for stream in self._streams
            ]
        )
