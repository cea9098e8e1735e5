"""Per-pixel anomaly scores read off the queries, their ranges and thresholds.

All are higher where a pixel is more anomalous. With p_qc the probability of class c for query q
(softmax over K+1, the no-object class then dropped), m_q the query's mask probability and
S_c = sum_q p_qc m_q the class scores:

- ``msp``      1 - max_c S_c (thesis, eq. 2.1). S is not normalised, so this may be negative.
- ``entropy``  entropy of S / sum S, divided by log K; 1 where no query claims the pixel at all.
- ``energy``   -log sum_c exp S_c (Liu et al., NeurIPS 2020, applied to class scores).
- ``rba``      -sum_c tanh S_c (Nayal et al., ICCV 2023, "RbA", on the summed class scores).
- ``eam``      1 - sum_q m_q max_c p_qc (Grcic et al., CVPRW 2023, "EAM").

Values are as published: never clipped or rescaled. Only drawings of them use a range.

Legend: K classes, Q queries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError

REFINE_PROBABILITY = 0.95  # a query must be this sure of its class to veto anomalies
REFINE_MASK = 0.5  # of class probability times mask
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)

# Cityscapes' train ids 2 to 10, as in Mask2Anomaly's refinement: background that is neither
# drivable nor an object. By name, so that other label sets of roads can be refined too (CamVid's
# last two).
_CITYSCAPES_BACKGROUND = (
    *("building", "wall", "fence", "pole", "traffic light"),
    *("traffic sign", "vegetation", "terrain", "sky"),
)
BACKGROUND_NAMES = frozenset({*_CITYSCAPES_BACKGROUND, "tree", "sign symbol"})


class PixelClaims(NamedTuple):
    """The queries' numbers at one pixel, averaged over the views (sizes, flips); float64."""

    class_scores: Tensor  # (K,)
    best: Tensor  # (Q,) int64, the most probable class of the averaged probabilities
    certainty: Tensor  # (Q,), the probability of that class
    masks: Tensor  # (Q,) mask probabilities
    claims: Tensor  # (Q,), certainty times mask, multiplied before it is averaged


class Terms(NamedTuple):
    """The parts of a score of one pixel."""

    value: Tensor
    steps: dict[str, Tensor]  # named numbers on the way to it; ``index`` is of a class
    columns: dict[str, Tensor]  # per class or query, the ``term`` that is summed and its factors
    rows: Literal["classes", "queries"] = "classes"  # of the columns


@dataclasses.dataclass(frozen=True)
class Score:
    """An anomaly score, registered in ``SCORES`` under its name.

    ``compute`` maps class scores (K, ...) to (...), or the claims (...), the sum over queries of
    mask probability times largest class probability.
    """

    name: str
    title: str  # for pages and plots
    compute: Callable[[Tensor], Tensor]
    terms: Callable[[PixelClaims], Terms]
    # From K: the score where one class score is 1, and where all are 0. Not bounds of the score.
    nominal_range: Callable[[int], tuple[float, float]]
    reads: Literal["class_scores", "claims"] = "class_scores"


def msp(class_scores: Tensor) -> Tensor:
    """Subtract the largest class score from 1: (K, ...) to (...)."""
    return 1 - class_scores.amax(dim=0)


def _msp_terms(pixel: PixelClaims) -> Terms:
    largest, index = pixel.class_scores.max(dim=0)
    return Terms(1 - largest, {"index": index, "largest_class_score": largest}, {})


def entropy(class_scores: Tensor) -> Tensor:
    """Compute the normalised entropy of the class scores: (K, ...) to (...), in [0, 1]."""
    total, share, surprise, log_classes = _surprises(class_scores)
    return torch.where(total > 0, (share * surprise).sum(dim=0) / log_classes, 1)


def _surprises(class_scores: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return the sum of the class scores, their shares of it, -log of these, and log K."""
    total = class_scores.sum(dim=0)
    share = class_scores / torch.where(total > 0, total, 1)
    # 0 log 0 is 0; clamping is several times faster than torch.special.entr. By float32's smallest
    # number in float64, too, so that explanations agree with the maps.
    surprise = -torch.log(share.clamp(min=torch.finfo(torch.float32).tiny))
    return total, share, surprise, math.log(max(class_scores.shape[0], 2))  # log 1 would be 0


def _entropy_terms(pixel: PixelClaims) -> Terms:
    total, share, surprise, log_classes = _surprises(pixel.class_scores)
    steps = {"total": total, "log_num_classes": total.new_tensor(log_classes)}
    columns = {"share": share, "surprise": surprise, "term": share * surprise}
    return Terms(entropy(pixel.class_scores), steps, columns)


def energy(class_scores: Tensor) -> Tensor:
    """Negate the log-sum-exp of the class scores: (K, ...) to (...)."""
    return -torch.logsumexp(class_scores, dim=0)


def _energy_terms(pixel: PixelClaims) -> Terms:
    value = energy(pixel.class_scores)
    columns = {"class_score": pixel.class_scores, "term": pixel.class_scores.exp()}
    return Terms(value, {"logsumexp": -value}, columns)


def rba(class_scores: Tensor) -> Tensor:
    """Negate the sum of the squashed class scores, "rejected by all": (K, ...) to (...)."""
    return -torch.tanh(class_scores).sum(dim=0)


def _rba_terms(pixel: PixelClaims) -> Terms:
    columns = {"class_score": pixel.class_scores, "term": pixel.class_scores.tanh()}
    return Terms(rba(pixel.class_scores), {}, columns)


def eam(claims: Tensor) -> Tensor:
    """Subtract the queries' claims to a pixel, whatever their class, from 1: (...) to (...)."""
    return 1 - claims


def _eam_terms(pixel: PixelClaims) -> Terms:
    columns = {
        "index": pixel.best,
        "class_probability": pixel.certainty,
        "mask_probability": pixel.masks,
        "term": pixel.claims,
    }
    return Terms(eam(pixel.claims.sum()), {}, columns, rows="queries")


def _energy_range(num_classes: int) -> tuple[float, float]:
    return -math.log(num_classes - 1 + math.e), -math.log(num_classes)


SCORES: Mapping[str, Score] = {
    score.name: score
    for score in (
        Score("msp", "Max softmax (MSP)", msp, _msp_terms, lambda _: (0.0, 1.0)),
        Score("entropy", "Entropy", entropy, _entropy_terms, lambda _: (0.0, 1.0)),
        Score("energy", "Energy", energy, _energy_terms, _energy_range),
        Score("rba", "Rejected by all (RbA)", rba, _rba_terms, lambda _: (-math.tanh(1), 0.0)),
        Score("eam", "Mask score (EAM)", eam, _eam_terms, lambda _: (0.0, 1.0), reads="claims"),
    )
}
FROM_CLASS_SCORES = tuple(name for name in SCORES if SCORES[name].reads == "class_scores")


def smoothed(score: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur an (H, W) map by a Gaussian of ``sigma`` pixels, edges mirrored."""
    blurred = cv2.GaussianBlur(score, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float32)


def check_score(score: str) -> None:
    """Refuse a name that is not in ``SCORES`` with a ConfigError that names the nearest."""
    require_choice("anomaly score", score, SCORES)


def score_range(
    model_calibration: Mapping[str, Mapping[str, Any]], score: str, num_classes: int
) -> tuple[float, float, bool]:
    """Return low and high of the range that drawings use, and whether it was measured.

    Without the score in ``model_calibration`` it is the nominal range: "uncalibrated".
    """
    check_score(score)
    low, high = SCORES[score].nominal_range(num_classes)
    measured = model_calibration.get(score, {}).get("range")
    if measured is None:
        return low, high, False
    return float(measured[0]), float(measured[1]), True


def default_threshold(
    model_calibration: Mapping[str, Mapping[str, Any]], score: str, num_classes: int
) -> tuple[float, str]:
    """Return the threshold from which a pixel counts as anomalous, and its source.

    ``"fpr05"`` (5 % of the calibration images' normal pixels lie above) or
    ``"middle of the range"``.
    """
    low, high, _ = score_range(model_calibration, score, num_classes)
    measured = model_calibration.get(score, {}).get("fpr05")
    if measured is None:
        return (low + high) / 2, "middle of the range"
    return float(measured), "fpr05"


def refining_queries(
    probabilities: Tensor, class_names: Sequence[str]
) -> tuple[Tensor, Tensor] | None:
    """Find the queries whose masks veto anomalies: Mask2Anomaly's refinement.

    Where a query over 95 % sure to be background (building, sky, ...) covers a pixel with
    probability x mask >= 0.5, the score becomes its lowest nominal value.

    Departure: the published script slices the batch axis instead of the class axis, so these masks
    enter its maximum over class scores. Here the maximum is over the classes, as in the paper.

    Args:
        probabilities: (Q, K+1), softmax over the last axis.
        class_names: K names.

    Returns:
        Indices (n,) and probabilities (n,) of the queries, or None when fewer than two qualify.

    Raises:
        ConfigError: when no class has one of ``BACKGROUND_NAMES``.
    """
    background = [index for index, name in enumerate(class_names) if name in BACKGROUND_NAMES]
    if not background:
        raise ConfigError(
            "Refinement needs background classes known by name "
            f"({', '.join(sorted(BACKGROUND_NAMES))}); this model has none. Turn it off."
        )
    best, label = probabilities.max(dim=-1)
    is_background = torch.isin(label, torch.tensor(background, device=label.device))
    queries = torch.nonzero((best > REFINE_PROBABILITY) & is_background).flatten()
    return (queries, best[queries]) if len(queries) >= 2 else None


def anomalous_regions(
    mask: NDArray[np.bool_], min_pixels: int = 0
) -> tuple[NDArray[np.int32], int]:
    """Label the 8-connected regions of an (H, W) mask that have ``min_pixels`` or more.

    Returns:
        (H, W) labels, 0 outside and 1...n inside, and n.
    """
    labels, count = ndimage.label(mask, structure=_EIGHT_CONNECTED)
    if min_pixels > 1 and count:
        large = np.bincount(labels.ravel(), minlength=count + 1) >= min_pixels
        large[0] = False
        count = int(large.sum())
        renumbered = np.zeros(len(large), dtype=np.int32)
        renumbered[large] = np.arange(1, count + 1)
        labels = renumbered[labels]
    return labels.astype(np.int32, copy=False), int(count)
