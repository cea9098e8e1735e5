"""Points at which masks are compared, instead of at every pixel.

Losses and matching costs of mask classification are computed on a few thousand points per mask:
uniform ones for the matching, and mostly uncertain ones for the losses (PointRend, Kirillov et
al., CVPR 2020, as Mask2Former uses it). A point is (x, y) in [0, 1] over the whole image, so
predictions and ground truth of different sizes are read at the same place without resizing.

Departs from the original in one way: where many maps are read at the same points, they are read
together (``MapTable``), and ground-truth masks straight from the boolean tensor
(``sample_masks``). The numbers are those of ``point_sample``.

Shapes: B images, N masks, P points, H W mask size.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    grid = (points[:, None] - 0.5).mul_(2.0)
    return F.grid_sample(features, grid.to(features.dtype), align_corners=False)[:, :, 0]


class MapTable:
    """Many maps of several images, to be read at points that an image's maps share.

    A point is a weighted sum of four rows of a table with one column per map, so that memory is
    read in rows, which is several times as fast as reading every map at every point by itself.
    No gradient passes through.

    Args:
        maps: at least one (B, c_i, H, W), all of one size; C is the sum of the c_i.
    """

    def __init__(self, maps: Sequence[Tensor]) -> None:
        images = len(maps[0])
        self.height, self.width = maps[0].shape[-2:]
        columns = [some.shape[1] for some in maps]
        padded = torch.zeros(
            images, self.height + 3, self.width + 3, sum(columns), device=maps[0].device
        )  # float32: what the maps of half types are compared in
        inside = padded[:, 1 : self.height + 1, 1 : self.width + 1]
        for place, some in zip(inside.split(columns, dim=-1), maps, strict=True):
            place.copy_(some.detach().permute(0, 2, 3, 1))
        self._rows = padded.flatten(0, 2)
        area = (self.height + 3) * (self.width + 3)
        self._first = torch.arange(images, device=padded.device)[:, None] * area
        self._corners = torch.tensor([0, 1, self.width + 3, self.width + 4], device=padded.device)

    def at(self, points: Tensor) -> Tensor:
        """Every map at (B, P, 2) points, (x, y) in [0, 1]: (B, P, C) float32, zero outside."""
        corner, right, down = _cells(points, self.height, self.width)
        weight = torch.stack(
            [(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], -1
        )
        rows = (corner + self._first).flatten()
        found = F.embedding_bag(
            rows[:, None] + self._corners,
            self._rows,
            per_sample_weights=weight.flatten(0, 1).to(self._rows.dtype),
            mode="sum",
        )
        return found.view(*corner.shape, found.shape[-1])


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """Boolean masks at points they share: ``point_sample`` without a float copy of the masks.

    Args:
        masks: (B, T, H, W) bool.
        points: (B, P, 2), (x, y) in [0, 1].

    Returns:
        (B, T, P) float32 in [0, 1].
    """
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
    if len(flat) == 1:  # one copy of whole columns, where gather looks every number up by itself
        return flat[0].index_select(1, index[0])[None]
    return flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))


def _cells(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where points lie on maps that have one more row and column of zeros before and two after.

    Returns:
        The flat index of the upper left of the four pixels around a point, and the weights of the
        right and of the lower pixels.
    """
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
    """Of points drawn uniformly, some where the mask logit is nearest to zero, and some as drawn.

    Args:
        mask_logits: (B, N, H, W), N at least 1.
        drawn: (B, R, 2) uniform points in [0, 1]; the last ``num_points - important`` are taken as
            they are, all others are candidates.
        num_points: P, points per mask wanted.
        important: how many of them are the most uncertain candidates.
        weights: (B, R), 0 for points that do not count and so come last.

    Returns:
        (B, N, P) indices into ``drawn``, the uncertain points first.
    """
    candidates = drawn.shape[1] - (num_points - important)
    certainty = MapTable([mask_logits]).at(drawn[:, :candidates]).abs_()
    if weights is not None:
        certainty.masked_fill_(weights[:, :candidates, None] == 0, torch.inf)
    picked = certainty.transpose(1, 2).contiguous()
    picked = picked.topk(important, dim=2, largest=False, sorted=False).indices
    rest = torch.arange(candidates, drawn.shape[1], device=drawn.device)
    return torch.cat([picked, rest.expand(*picked.shape[:2], -1)], dim=2)
