"""Counts and random numbers that make a loss the same on one process and on many."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """Average over all processes, without gradient.

    A local sum over the average count gives, once gradients are averaged, the whole batch's loss.
    """
    value = value.detach()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value


class PointDraws:
    """Uniform points of a batch: crop ``number`` draws the same in any batch and process."""

    def __init__(self, seed: int, numbers: Sequence[int], device: torch.device) -> None:
        self._device = device
        self._streams = [
            torch.Generator(device).manual_seed((seed * 1_000_003 + number) % 2**63)
            for number in numbers
        ]

    def __call__(self, num_points: int) -> Tensor:
        """Draw (B, P, 2) new points in [0, 1]."""
        draws = [
            torch.rand(num_points, 2, generator=stream, device=self._device)
            for stream in self._streams
        ]
        return torch.stack(draws)
