"""Multi-scale deformable attention in plain PyTorch: the definition of correct.

Zhu et al., "Deformable DETR" (ICLR 2021), eq. 3, as the Mask2Former pixel decoder uses it. Runs on
every device, and exports (``torch.export``, ONNX).

Departures: half-precision values are sampled and summed in float32, since locations rounded to
bfloat16 move points by whole pixels; locations are clamped to [-1, 2], so that infinities read zero
like any place outside a map. NaN gives NaN.

Dimensions: B batch, S positions of all levels together, Q queries, M heads, D channels of a head,
L levels, P points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Compute :func:`mask2kan.ops.ms_deform_attn` with ``grid_sample``."""
    batch, _, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    compute = torch.float64 if value.dtype == torch.float64 else torch.float32
    # grid_sample takes -1 and 1 as the outer edges, and one map per (image, head).
    grids = 2 * sampling_locations.to(compute).clamp(-1, 2) - 1
    weights = attention_weights.to(compute)
    levels = value.to(compute).split([height * width for height, width in spatial_shapes], dim=1)

    output = value.new_zeros((batch * heads, channels, queries), dtype=compute)
    for level, (height, width) in enumerate(spatial_shapes):
        feature = levels[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        sampled = F.grid_sample(
            feature, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        output = output + (sampled * weight).sum(-1)
    output = output.reshape(batch, heads * channels, queries).transpose(1, 2)
    return output.contiguous().to(value.dtype)
