"""The contrastive loss of outlier exposure (thesis, eq. 2.10 and 2.11).

    L_CL = 1/2 l_CL²,   l_CL = l_N where the pixel is known, max(0, m − l_N) where it is an outlier

averaged over the pixels of either kind, and the two averages added, as Mask2Anomaly's code does
(Rai et al., ICCV 2023). What l_N is decides whether this works:

- ``published``: l_N = −max_c S_c, the negative likelihood as that code computes it. A known pixel
  then costs (max_c S_c)²/2, so the loss pushes the likelihood of *known* pixels to 0 as well. Void
  pixels count as known there.
- ``well_posed``: l_N = 1 − max_c S_c, the anomaly score. A known pixel costs nothing when one
  class is certain, an outlier nothing when the score reaches the margin. Void pixels are left out.

S_c = Σ_q p_qc m_q are the class scores (see ``mask2kan.inference.scores``). Departs from that code:
S is computed at the masks' own size and its maximum enlarged to the image's with the corners'
edges, not their centres, aligned, like every other mask here.

Legend: B batch, Q queries, K classes, H W label size, h w mask size.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2kan.inference.postprocess import MASK_STRIDE

from ..data.augmentation import IGNORED, OUTLIER, VOID
from .distributed import mean_over_processes

Form = Literal["published", "well_posed"]


def negative_likelihood(pred_logits: Tensor, pred_masks: Tensor, form: Form) -> Tensor:
    """l_N at the masks' size.

    Args:
        pred_logits: (B, Q, K+1).
        pred_masks: (B, Q, h, w) logits.
        form: see the module.

    Returns:
        (B, h, w).
    """
    classes = pred_logits.float().softmax(-1)[..., :-1]
    scores = torch.einsum("bqk,bqhw->bkhw", classes, pred_masks.float().sigmoid())
    likelihood = scores.amax(1)
    return -likelihood if form == "published" else 1 - likelihood


def at_pixels(l_n: Tensor, size: tuple[int, int]) -> Tensor:
    """l_n enlarged to the images, without what the model padded them by.

    Args:
        l_n: (B, h, w) over the padded images.
        size: (H, W) of the images.

    Returns:
        (B, H, W).
    """
    enlarged = F.interpolate(
        l_n[:, None], scale_factor=MASK_STRIDE, mode="bilinear", align_corners=False
    )
    return enlarged[:, 0, : size[0], : size[1]]


def contrastive_loss(
    l_n: Tensor, labels: Tensor, *, margin: float = 1.0, form: Form = "well_posed"
) -> Tensor:
    """Eq. 2.10 and 2.11.

    Args:
        l_n: (B, H, W), from ``negative_likelihood`` and ``at_pixels``.
        labels: (B, H, W): 253 says nothing, 254 is an outlier, 255 void, everything else known.
        margin: m.
        form: whether void counts as known (``published``) or not.

    Returns:
        A scalar; a kind of pixel that does not occur contributes 0.
    """
    outlier = labels == OUTLIER
    known = labels < IGNORED
    if form == "published":
        known = known | (labels == VOID)
    counts = mean_over_processes(torch.stack([known.sum(), outlier.sum()]).float()).clamp(min=1.0)
    cost = torch.where(outlier, (margin - l_n).clamp(min=0.0), l_n).square()
    return 0.5 * ((cost * known).sum() / counts[0] + (cost * outlier).sum() / counts[1])
