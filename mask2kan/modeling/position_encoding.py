"""Sine position encoding of DETR, as both decoders of Mask2Former use it.

Each axis is encoded by itself, so the (H, W) map is put together from two short tables.

Legend: C channels, H W height and width of the map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0
EPSILON = 1e-6


def sine_position_encoding(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Encode every position of an (H, W) map, scaled to (0, 2π] along each axis.

    Returns:
        (1, H·W, C) float32, row-major; the first half of C encodes y, the second x.
    """
    along_y = _axis_encoding(height, channels // 2, device)[:, None, :].expand(-1, width, -1)
    along_x = _axis_encoding(width, channels // 2, device)[None, :, :].expand(height, -1, -1)
    return torch.cat((along_y, along_x), dim=-1).reshape(1, height * width, channels)


def _axis_encoding(length: int, channels: int, device: torch.device) -> Tensor:
    """(length, channels): sine on even, cosine on odd channels, frequencies in pairs."""
    # Counted from 1 and divided with an epsilon, as DETR does: checkpoints were trained with it.
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    position = position / (length + EPSILON) * (2 * math.pi)
    channel = torch.arange(channels, dtype=torch.float32, device=device)
    period = TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode="floor") / channels)
    angle = position[:, None] / period
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)
