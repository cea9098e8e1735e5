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


def sample_many(maps: Tensor, points: Tensor) -> Tensor:
    """All maps at the same points: ``point_sample`` where the maps are many and the points shared.

    A point is a weighted sum of four rows of a table with one column per map, so that memory is
    read in rows, which is several times as fast as reading every map at every point by itself.

    Args:
        maps: (C, H, W).
        points: (P, 2), (x, y) in [0, 1].

    Returns:
        (P, C).
    """
    height, width = maps.shape[-2:]
    corner, x, y = _corners(points, height, width)
    right, down = x.frac_(), y.frac_()
    weight = torch.stack(
        [(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], -1
    )
    offsets = torch.tensor([0, 1, width + 3, width + 4], device=maps.device)
    table = F.pad(maps, (1, 2, 1, 2)).flatten(1).T.contiguous()
    return F.embedding_bag(
        corner[:, None] + offsets, table, per_sample_weights=weight.to(table.dtype), mode="sum"
    )


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
    corner, x, y = _corners(points, height, width)
    right, down = x.frac_(), y.frac_()
    padded = F.pad(masks.to(torch.uint8), (1, 2, 1, 2))
    corner += index[:, None] * padded[0].numel()
    flat = padded.flatten()
    rows = []
    for offset in (0, width + 3):
        start, end = (flat.take(corner + (offset + step)).to(x.dtype) for step in (0, 1))
        rows.append(torch.lerp(start, end, right))
    return torch.lerp(rows[0], rows[1], down)


def _corners(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where points lie on maps that have one more row and column of zeros before and two after.

    Returns:
        The flat index of the upper left of the four pixels around a point, and x and y in pixels of
        the padded map, whose fractions are the weights of the right and the lower pixels.
    """
    x = (points[..., 0] * width + 0.5).clamp_(0, width + 1)
    y = (points[..., 1] * height + 0.5).clamp_(0, height + 1)
    return y.long() * (width + 3) + x.long(), x, y


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
