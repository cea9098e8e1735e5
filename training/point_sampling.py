"""Points at which masks are compared, instead of at every pixel.

Losses and matching costs of mask classification are computed on a few thousand points per mask:
uniform ones for the matching, and mostly uncertain ones for the losses (PointRend, Kirillov et
al., CVPR 2020, as Mask2Former uses it). A point is (x, y) in [0, 1] over the whole picture, so
predictions and ground truth of different sizes are read at the same place without resizing.

Departs from the original in one way: ground-truth masks are read by index from the boolean
tensor (``sample_masks``), which gives the same numbers as resampling a float copy of every
matched mask and needs a fraction of the memory.

Shapes: N masks, P points, H W mask size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def point_sample(features: Tensor, points: Tensor) -> Tensor:
    """Features at points, bilinear, zero outside.

    Args:
        features: (N, C, H, W).
        points: (N, P, 2), (x, y) in [0, 1]; the corners are the outer edges of the corner pixels.

    Returns:
        (N, C, P).
    """
    grid = 2.0 * points[:, None] - 1.0
    return F.grid_sample(features, grid.to(features.dtype), align_corners=False)[:, :, 0]


def sample_masks(masks: Tensor, index: Tensor, points: Tensor) -> Tensor:
    """Chosen boolean masks at points: ``point_sample`` of ``masks[index]`` without copying them.

    Args:
        masks: (M, H, W) bool.
        index: (N,) which mask each row of points reads.
        points: (N, P, 2), (x, y) in [0, 1].

    Returns:
        (N, P) float32 in [0, 1].
    """
    height, width = masks.shape[-2:]
    x = points[..., 0] * width - 0.5
    y = points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    flat = masks.reshape(-1)
    base = index[:, None] * (height * width)
    out = torch.zeros_like(x)
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = left + dx, top + dy
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            offset = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            value = flat[base + offset.long()] & inside
            out += weight * value
    return out


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, drawn: Tensor, num_points: int, important: int) -> Tensor:
    """Of points drawn uniformly, some where the mask logit is nearest to zero, and some as drawn.

    Args:
        mask_logits: (N, H, W).
        drawn: (N, R, 2) uniform points in [0, 1]; the last ``num_points - important`` are taken as
            they are, all others are candidates.
        num_points: P, points per mask wanted.
        important: how many of them are the most uncertain candidates.

    Returns:
        (N, P, 2) points, (x, y) in [0, 1], float32.
    """
    rest = num_points - important
    candidates, uniform = drawn[:, : drawn.shape[1] - rest], drawn[:, drawn.shape[1] - rest :]
    uncertainty = -point_sample(mask_logits[:, None].float(), candidates)[:, 0].abs()
    chosen = uncertainty.topk(important, dim=1, sorted=False).indices
    picked = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([picked, uniform], dim=1)
