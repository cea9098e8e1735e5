"""Means with confidence intervals, and paired comparisons over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over n runs and its 95 % confidence interval (Student's t; NaN for one run)."""

    mean: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Mean of first − second over pairs, its 95 % interval, and the paired t-test's p.

    Attributes:
        wins: pairs in which the first is larger.
        losses: pairs in which it is smaller.
    """

    mean: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    n: int


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and interval.

    Args:
        values: one per run, at least one.
    """
    data = np.asarray(values, np.float64)
    centre, half = float(data.mean()), _half_width(data)
    return Mean(centre, centre - half, centre + half, len(data))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Compare two conditions run under the same seeds.

    Args:
        first: one value per seed.
        second: the other condition's, in the same order.
    """
    data = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    centre, half = float(data.mean()), _half_width(data)
    p = float("nan")
    if len(data) > 1 and data.std() > 0:
        p = float(stats.ttest_1samp(data, 0.0).pvalue)
    wins, losses = int((data > 0).sum()), int((data < 0).sum())
    return PairedDifference(centre, centre - half, centre + half, p, wins, losses, len(data))


def _half_width(data: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    if len(data) < 2:
        return float("nan")
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, len(data) - 1)
    return float(quantile * data.std(ddof=1) / np.sqrt(len(data)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm, 1979); NaN stays NaN and does not count."""
    adjusted = [float("nan")] * len(p_values)
    known = [index for index, p in enumerate(p_values) if not np.isnan(p)]
    largest = 0.0
    for rank, index in enumerate(sorted(known, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(known) - rank)))
        adjusted[index] = largest
    return adjusted
