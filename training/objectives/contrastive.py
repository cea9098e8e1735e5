"""The contrastive loss of outlier exposure (thesis, eq. 2.10 and 2.11).

    L_CL = 1/2 l_CL²,   l_CL = l_N where the pixel is known, max(0, m − l_N) where it is an outlier

averaged over the pixels of either kind and added, as in Mask2Anomaly's code (Rai et al., ICCV
2023), with one of two l_N:

- ``published``: l_N = −max_c S_c, as that code computes it: a known pixel costs (max_c S_c)²/2, so
  the likelihood of *known* pixels is pushed to 0 as well. Void counts as known.
- ``well_posed``: l_N = 1 − max_c S_c, the anomaly score: a known pixel costs nothing when one class
  is certain, an outlier when the score reaches the margin. Void is left out.

S_c = Σ_q p_qc m_q are the class scores. Departs from that code: the maximum is enlarged with the
corners' edges, not centres, aligned, like every mask here.

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
    """Compute l_N (B, h, w) from logits (B, Q, K+1) and mask logits (B, Q, h, w)."""
    classes = pred_logits.float().softmax(-1)[..., :-1]
    scores = torch.einsum("bqk,bqhw->bkhw", classes, pred_masks.float().sigmoid())
    likelihood = scores.amax(1)
    return -likelihood if form == "published" else 1 - likelihood


def at_pixels(l_n: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge l_N (B, h, w) to the images' (H, W) and drop the model's padding: (B, H, W)."""
    enlarged = F.interpolate(
        l_n[:, None], scale_factor=MASK_STRIDE, mode="bilinear", align_corners=False
    )
    return enlarged[:, 0, : size[0], : size[1]]


def contrastive_loss(
    l_n: Tensor, labels: Tensor, *, margin: float = 1.0, form: Form = "well_posed"
) -> Tensor:
    """Compute eq. 2.10 and 2.11; a kind of pixel that does not occur contributes 0.

    Args:
        l_n: (B, H, W), from ``negative_likelihood`` and ``at_pixels``.
        labels: (B, H, W): 253 ignored, 254 outlier, 255 void, everything else known.
        margin: m.
        form: whether void counts as known (``published``).
    """
    outlier = labels == OUTLIER
    known = labels < IGNORED
    if form == "published":
        known = known | (labels == VOID)
    counts = mean_over_processes(torch.stack([known.sum(), outlier.sum()]).float()).clamp(min=1.0)
    cost = torch.where(outlier, (margin - l_n).clamp(min=0.0), l_n).square()
    return 0.5 * ((cost * known).sum() / counts[0] + (cost * outlier).sum() / counts[1])
