"""Points at which masks are compared, instead of at every pixel.

Uniform ones for the matching, mostly uncertain ones for the losses (PointRend, Kirillov et al.,
CVPR 2020, as in Mask2Former). A point is (x, y) in [0, 1] over the whole image, outer edge to outer
edge, whatever a mask's size. Departs from the original: maps that share points are read together,
and ground-truth masks as booleans, with the numbers of ``point_sample``.

Shapes: B images, N masks, P points, H W mask size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def point_sample(features: Tensor, points: Tensor) -> Tensor:
    """Read features (N, C, H, W) at (N, P, 2) points, bilinear, zero outside: (N, C, P)."""
    grid = (points[:, None] - 0.5).mul_(2.0)
    return F.grid_sample(features, grid.to(features.dtype), align_corners=False)[:, :, 0]


class MapTable:
    """Maps of several images, read at points that an image's maps share; without gradient.

    A point is a weighted sum of four rows of a table with one column per map: memory is read in
    rows, several times as fast as map by map.

    Args:
        maps: at least one (B, c_i, H, W), all of one size; C is the sum of the c_i.
    """

    def __init__(self, maps: Sequence[Tensor]) -> None:
        images = len(maps[0])
        self.height, self.width = maps[0].shape[-2:]
        columns = [channels.shape[1] for channels in maps]
        # One row and column of zeros before and two after: a point at any edge, clamped, still has
        # four neighbours, and those outside are 0 as in grid_sample.
        padded = torch.zeros(
            images, self.height + 3, self.width + 3, sum(columns), device=maps[0].device
        )  # float32: what the maps of half types are compared in
        inside = padded[:, 1 : self.height + 1, 1 : self.width + 1]
        for target, channels in zip(inside.split(columns, dim=-1), maps, strict=True):
            target.copy_(channels.detach().permute(0, 2, 3, 1))
        self._rows = padded.flatten(0, 2)
        area = (self.height + 3) * (self.width + 3)
        self._first = torch.arange(images, device=padded.device)[:, None] * area
        self._corners = torch.tensor([0, 1, self.width + 3, self.width + 4], device=padded.device)

    def at(self, points: Tensor) -> Tensor:
        """Read every map at (B, P, 2) points: (B, P, C) float32, zero outside."""
        corner, right, down = _cells(points, self.height, self.width)
        weight = torch.stack(
            [(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], -1
        )
        rows = (corner + self._first).flatten()
        # The weighted sum of four rows in one pass; grid_sample would gather number by number.
        values = F.embedding_bag(
            rows[:, None] + self._corners,
            self._rows,
            per_sample_weights=weight.flatten(0, 1).to(self._rows.dtype),
            mode="sum",
        )
        return values.view(*corner.shape, values.shape[-1])


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """Read boolean masks (B, T, H, W) at (B, P, 2) points without a float copy: (B, T, P) float."""
    height, width = masks.shape[-2:]
    corner, right, down = _cells(points, height, width)
    padded = F.pad(masks.to(torch.uint8), (1, 2, 1, 2)).flatten(2)
    right, down = right[:, None], down[:, None]
    rows = []
    for offset in (0, width + 3):
        start, end = (_pick(padded, corner + (offset + step)).to(right.dtype) for step in (0, 1))
        rows.append(torch.lerp(start, end, right))
    return torch.lerp(rows[0], rows[1], down)


def _pick(flat: Tensor, index: Tensor) -> Tensor:
    """Columns of (B, T, N) by (B, P) indices: (B, T, P)."""
    if len(flat) == 1:  # copies whole columns; gather fetches number by number
        return flat[0].index_select(1, index[0])[None]
    return flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))


def _cells(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Locate points on maps padded with one row and column of zeros before and two after.

    Returns the flat index of a point's upper left pixel and the weights of the right and lower
    ones.
    """
    # Pixel i's centre is at i + 0.5, and padding moves it by 1: together + 0.5.
    x = (points[..., 0] * width + 0.5).clamp_(0, width + 1)
    y = (points[..., 1] * height + 0.5).clamp_(0, height + 1)
    corner = y.long() * (width + 3) + x.long()
    return corner, x.frac_(), y.frac_()


@torch.no_grad()
def uncertain_points(
    mask_logits: Tensor,
    drawn: Tensor,
    num_points: int,
    important: int,
    weights: Tensor | None = None,
) -> Tensor:
    """Choose the points where the mask logit is nearest to zero, and some as drawn.

    Args:
        mask_logits: (B, N, H, W), N at least 1.
        drawn: (B, R, 2) uniform points, the last ``num_points - important`` taken as they are.
        num_points: P, per mask.
        important: how many are the most uncertain of the others.
        weights: (B, R), 0 for points that come last.

    Returns:
        (B, N, P) indices into ``drawn``, the uncertain points first.
    """
    candidates = drawn.shape[1] - (num_points - important)
    certainty = MapTable([mask_logits]).at(drawn[:, :candidates]).abs_()
    if weights is not None:
        certainty.masked_fill_(weights[:, :candidates, None] == 0, torch.inf)
    certainty = certainty.transpose(1, 2).contiguous()
    # Unsorted: a mean follows
    picked = certainty.topk(important, dim=2, largest=False, sorted=False).indices
    rest = torch.arange(candidates, drawn.shape[1], device=drawn.device)
    return torch.cat([picked, rest.expand(*picked.shape[:2], -1)], dim=2)
