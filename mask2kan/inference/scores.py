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
REFINE_MASK = 0.5
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)

# Mask2Anomaly keeps Cityscapes' classes 2 to 10: background that is neither drivable nor an
# object. By name, so that other label sets of roads can be refined too.
_CITYSCAPES_BACKGROUND = (
    *("building", "wall", "fence", "pole", "traffic light"),
    *("traffic sign", "vegetation", "terrain", "sky"),
)
BACKGROUND_NAMES = frozenset({*_CITYSCAPES_BACKGROUND, "tree", "sign symbol"})


class PixelClaims(NamedTuple):
    """What the queries say of one pixel, averaged over the views; float64.

    Attributes:
        class_scores: (K,).
        best: (Q,) int64, the most probable class.
        certainty: (Q,), the probability of that class.
        masks: (Q,) mask probabilities.
        claims: (Q,), certainty times mask, multiplied before it is averaged.
    """

    class_scores: Tensor
    best: Tensor
    certainty: Tensor
    masks: Tensor
    claims: Tensor


class Terms(NamedTuple):
    """How a score of one pixel comes about.

    Attributes:
        value: the score.
        steps: named numbers on the way to it; ``index`` is of a class.
        columns: per class or query, the ``term`` that is summed and what it is made of.
        of: what the columns count.
    """

    value: Tensor
    steps: dict[str, Tensor]
    columns: dict[str, Tensor]
    of: Literal["classes", "queries"] = "classes"


@dataclasses.dataclass(frozen=True)
class Score:
    """An anomaly score, registered in ``SCORES`` under its name.

    Attributes:
        name: as users write it.
        title: as pages and plots write it.
        compute: from class scores (K, ...) to (...); for a score that ``reads`` claims, from
            (...) the sum over queries of mask probability times largest class probability.
        terms: the same for one pixel, taken apart.
        nominal_range: from K to the values where one class is certain and where none is claimed.
        reads: what ``compute`` is given.
    """

    name: str
    title: str
    compute: Callable[[Tensor], Tensor]
    terms: Callable[[PixelClaims], Terms]
    nominal_range: Callable[[int], tuple[float, float]]
    reads: Literal["class_scores", "claims"] = "class_scores"


def msp(class_scores: Tensor) -> Tensor:
    """One minus the largest class score: (K, ...) to (...)."""
    return 1 - class_scores.amax(dim=0)


def _msp_terms(pixel: PixelClaims) -> Terms:
    largest, index = pixel.class_scores.max(dim=0)
    return Terms(1 - largest, {"index": index, "largest_class_score": largest}, {})


def entropy(class_scores: Tensor) -> Tensor:
    """Normalised entropy of the class scores: (K, ...) to (...), in [0, 1]."""
    total, share, surprise, largest = _surprises(class_scores)
    return torch.where(total > 0, (share * surprise).sum(dim=0) / largest, 1)


def _surprises(class_scores: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Sum of the class scores, their shares of it, -log of these, and log K."""
    total = class_scores.sum(dim=0)
    share = class_scores / torch.where(total > 0, total, 1)
    # 0 log 0 is 0; clamping is several times faster than torch.special.entr
    surprise = -torch.log(share.clamp(min=torch.finfo(torch.float32).tiny))
    return total, share, surprise, math.log(max(class_scores.shape[0], 2))


def _entropy_terms(pixel: PixelClaims) -> Terms:
    total, share, surprise, largest = _surprises(pixel.class_scores)
    steps = {"total": total, "log_num_classes": total.new_tensor(largest)}
    columns = {"share": share, "surprise": surprise, "term": share * surprise}
    return Terms(entropy(pixel.class_scores), steps, columns)


def energy(class_scores: Tensor) -> Tensor:
    """Minus the log-sum-exp of the class scores: (K, ...) to (...)."""
    return -torch.logsumexp(class_scores, dim=0)


def _energy_terms(pixel: PixelClaims) -> Terms:
    value = energy(pixel.class_scores)
    columns = {"class_score": pixel.class_scores, "term": pixel.class_scores.exp()}
    return Terms(value, {"logsumexp": -value}, columns)


def rba(class_scores: Tensor) -> Tensor:
    """Minus the sum of the squashed class scores, "rejected by all": (K, ...) to (...)."""
    return -torch.tanh(class_scores).sum(dim=0)


def _rba_terms(pixel: PixelClaims) -> Terms:
    columns = {"class_score": pixel.class_scores, "term": pixel.class_scores.tanh()}
    return Terms(rba(pixel.class_scores), {}, columns)


def eam(claims: Tensor) -> Tensor:
    """One minus how much the queries claim a pixel, whatever their class: (...) to (...)."""
    return 1 - claims


def _eam_terms(pixel: PixelClaims) -> Terms:
    columns = {
        "index": pixel.best,
        "class_probability": pixel.certainty,
        "mask_probability": pixel.masks,
        "term": pixel.claims,
    }
    return Terms(eam(pixel.claims.sum()), {}, columns, of="queries")


SCORES: Mapping[str, Score] = {
    score.name: score
    for score in (
        Score("msp", "Max softmax (MSP)", msp, _msp_terms, lambda _: (0.0, 1.0)),
        Score("entropy", "Entropy", entropy, _entropy_terms, lambda _: (0.0, 1.0)),
        Score(
            *("energy", "Energy", energy, _energy_terms),
            lambda num_classes: (-math.log(num_classes - 1 + math.e), -math.log(num_classes)),
        ),
        Score("rba", "Rejected by all (RbA)", rba, _rba_terms, lambda _: (-math.tanh(1), 0.0)),
        Score("eam", "Mask score (EAM)", eam, _eam_terms, lambda _: (0.0, 1.0), reads="claims"),
    )
}
FROM_CLASS_SCORES = tuple(name for name in SCORES if SCORES[name].reads == "class_scores")


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
    require_choice("anomaly score", score, SCORES)


def score_range(
    model_calibration: Mapping[str, Mapping[str, Any]], score: str, num_classes: int
) -> tuple[float, float, bool]:
    """The fixed range that drawings of the score map to [0, 1].

    Args:
        model_calibration: ``model.calibration``; empty when the checkpoint carries none.
        score: one of ``SCORES``.
        num_classes: K.

    Returns:
        low, high, and whether they were measured (else they are nominal: "uncalibrated").
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
    """The threshold from which a pixel counts as anomalous unless the user says otherwise.

    Returns:
        The threshold and where it comes from: ``"fpr05"`` (5 % of the known pixels of the
        calibration images lie above) or ``"middle of the range"``.
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
