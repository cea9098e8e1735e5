"""Per-pixel anomaly scores read off the queries, their ranges and thresholds.

All are higher where a pixel is more anomalous. With p_qc the probability of class c for query q
(softmax over K+1, the no-object class then dropped), m_q the query's mask probability and
S_c = sum_q p_qc m_q the class scores:

- ``msp``      1 - max_c S_c (thesis, eq. 2.1). S is not normalised, so this may be negative.
- ``entropy``  entropy of S / sum S, divided by log K; 1 where no query claims the pixel at all.
- ``energy``   -log sum_c exp S_c (Liu et al., NeurIPS 2020, applied to class scores).
- ``rba``      -sum_c tanh S_c (Nayal et al., ICCV 2023, "RbA", on the summed class scores).
- ``eam``      1 - sum_q m_q max_c p_qc (Grcic et al., CVPRW 2023, "EAM").

Values are as published: never clipped or rescaled. Only pictures of them use a range.

Legend: K classes, Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from mask2kan.errors import ConfigError, unknown

REFINE_PROBABILITY = 0.95  # a query must be this sure of its class to veto anomalies
REFINE_MASK = 0.5
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)

# Mask2Anomaly keeps Cityscapes' classes 2 to 10: background that is neither drivable nor an
# object. By name, so that other label sets of roads can be refined too.
_CITYSCAPES_BACKGROUND = (
    *("building", "wall", "fence", "pole", "traffic light"),
    *("traffic sign", "vegetation", "terrain", "sky"),
)
BACKGROUND_NAMES = frozenset({*_CITYSCAPES_BACKGROUND, "tree", "sign symbol"})


def msp(class_scores: Tensor) -> Tensor:
    """One minus the largest class score: (K, ...) to (...)."""
    return 1 - class_scores.amax(dim=0)


def entropy(class_scores: Tensor) -> Tensor:
    """Normalised entropy of the class scores: (K, ...) to (...), in [0, 1]."""
    total = class_scores.sum(dim=0)
    share = class_scores / torch.where(total > 0, total, 1)
    # 0 log 0 is 0; clamping is several times faster than torch.special.entr
    surprise = -torch.log(share.clamp(min=torch.finfo(share.dtype).tiny))
    largest = math.log(max(class_scores.shape[0], 2))
    return torch.where(total > 0, (share * surprise).sum(dim=0) / largest, 1)


def energy(class_scores: Tensor) -> Tensor:
    """Minus the log-sum-exp of the class scores: (K, ...) to (...)."""
    return -torch.logsumexp(class_scores, dim=0)


def rba(class_scores: Tensor) -> Tensor:
    """Minus the sum of the squashed class scores, "rejected by all": (K, ...) to (...)."""
    return -torch.tanh(class_scores).sum(dim=0)


def eam(claimed: Tensor) -> Tensor:
    """One minus how much the queries claim a pixel, whatever their class.

    Args:
        claimed: (...), sum over queries of mask probability times largest class probability.
    """
    return 1 - claimed


FROM_CLASS_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "msp": msp,
    "entropy": entropy,
    "energy": energy,
    "rba": rba,
}
SCORES = (*FROM_CLASS_SCORES, "eam")


def smoothed(score: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """A score map blurred by a Gaussian, edges mirrored.

    Args:
        score: (H, W).
        sigma: in pixels.
    """
    blurred = cv2.GaussianBlur(score, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float32)


def check_score(score: str) -> None:
    """Refuse a name that is not in ``SCORES``.

    Raises:
        ConfigError: naming the nearest.
    """
    if score not in SCORES:
        raise ConfigError(unknown("anomaly score", score, SCORES))


def nominal_range(score: str, num_classes: int) -> tuple[float, float]:
    """The range a score covers when one class is certain (low) to when none is claimed (high)."""
    check_score(score)
    if score == "energy":
        return -math.log(num_classes - 1 + math.e), -math.log(num_classes)
    if score == "rba":
        return -math.tanh(1), 0.0
    return 0.0, 1.0


def score_range(
    model_calibration: Mapping[str, Mapping[str, Any]], score: str, num_classes: int
) -> tuple[float, float, bool]:
    """The fixed range a picture of the score maps to [0, 1].

    Args:
        model_calibration: ``model.calibration``; empty when the checkpoint carries none.
        score: one of ``SCORES``.
        num_classes: K.

    Returns:
        low, high, and whether they were measured (else they are nominal: "uncalibrated").
    """
    low, high = nominal_range(score, num_classes)
    measured = model_calibration.get(score, {}).get("range")
    if measured is None:
        return low, high, False
    return float(measured[0]), float(measured[1]), True


def default_threshold(
    model_calibration: Mapping[str, Mapping[str, Any]], score: str, num_classes: int
) -> tuple[float, str]:
    """Where a pixel counts as anomalous (score >= threshold) unless the user says otherwise.

    Returns:
        The threshold and where it comes from: ``"fpr05"`` (5 % of the known pixels of the
        calibration pictures lie above) or ``"middle of the range"``.
    """
    low, high, _ = score_range(model_calibration, score, num_classes)
    measured = model_calibration.get(score, {}).get("fpr05")
    if measured is None:
        return (low + high) / 2, "middle of the range"
    return float(measured), "fpr05"


def refining_queries(
    probabilities: Tensor, class_names: Sequence[str]
) -> tuple[Tensor, Tensor] | None:
    """Queries whose masks veto anomalies: Mask2Anomaly's refinement.

    Where a query that is over 95 % sure to be background (building, sky, ...) covers a pixel with
    probability x mask >= 0.5, the pixel is not an anomaly: its score becomes 0 (for scores whose
    lowest nominal value is not 0, that value). It applies when at least two such queries exist.

    The published script means the anomaly score to be one minus the maximum over the 19 class
    scores, but slices the batch axis instead of the class axis, so these masks enter the maximum
    too. Here the maximum is over the classes alone, as the paper has it.

    Args:
        probabilities: (Q, K+1), softmax over the last axis.
        class_names: K names.

    Returns:
        Indices (n,) and probabilities (n,) of the queries, or None when fewer than two qualify.

    Raises:
        ConfigError: when the label set has no background class known by name.
    """
    background = [index for index, name in enumerate(class_names) if name in BACKGROUND_NAMES]
    if not background:
        raise ConfigError(
            "Refinement needs background classes known by name "
            f"({', '.join(sorted(BACKGROUND_NAMES))}); this model has none. Turn it off."
        )
    best, label = probabilities.max(dim=-1)
    known = torch.tensor(background, device=label.device)
    kept = torch.nonzero((best > REFINE_PROBABILITY) & torch.isin(label, known)).flatten()
    return (kept, best[kept]) if len(kept) >= 2 else None


def anomalous_regions(
    mask: NDArray[np.bool_], min_pixels: int = 0
) -> tuple[NDArray[np.int32], int]:
    """8-connected regions of a mask.

    Args:
        mask: (H, W), True where the score reached the threshold.
        min_pixels: smaller regions are dropped.

    Returns:
        (H, W) labels, 0 outside and 1...n inside, and n.
    """
    labels, count = ndimage.label(mask, structure=_EIGHT_CONNECTED)
    if min_pixels > 1 and count:
        kept = np.bincount(labels.ravel(), minlength=count + 1) >= min_pixels
        kept[0] = False
        count = int(kept.sum())
        renumbered = np.zeros(len(kept), dtype=np.int32)
        renumbered[kept] = np.arange(1, count + 1)
        labels = renumbered[labels]
    return labels.astype(np.int32, copy=False), int(count)
