"""Compute means of shares with confidence intervals, and paired comparisons over seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over n runs and its 95 % confidence interval, NaN for one run."""

    mean: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class PairedDifference(Mean):
    """Mean of first − second over pairs, the paired t-test's p, and in how many the first wins."""

    p: float
    wins: int
    losses: int


def mean_of(values: Sequence[float]) -> Mean:
    """Compute mean and interval of shares in [0, 1]: Student's t on the logit scale.

    The standard error is carried to that scale by the delta method, error / (mean (1 − mean)). Far
    from 0 and 1 this is the plain t interval.
    """
    data = np.asarray(values, np.float64)
    mean, n = float(data.mean()), len(data)
    low = high = mean if n > 1 else math.nan
    error = stats.sem(data) if n > 1 else 0.0
    if error > 0:  # so the mean is neither 0 nor 1
        centre, scale = special.logit(mean), error / (mean * (1 - mean))
        low, high = special.expit(stats.t.interval(CONFIDENCE, n - 1, centre, scale))
    return Mean(mean, float(low), float(high), n)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Compare two conditions by one share per seed each, in the same order.

    The interval is Student's t, cut at −1 and 1, which no difference of shares exceeds; it excludes
    0 exactly where the t-test's p is below 5 %.
    """
    data = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    mean, n = float(data.mean()), len(data)
    low = high = mean if n > 1 else math.nan
    p = math.nan
    if n > 1 and data.std() > 0:
        test = stats.ttest_1samp(data, 0.0)
        low, high = np.clip(test.confidence_interval(CONFIDENCE), -1.0, 1.0)
        p = float(test.pvalue)
    wins, losses = int((data > 0).sum()), int((data < 0).sum())
    return PairedDifference(mean, float(low), float(high), n, p, wins, losses)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm, 1979); NaN stays NaN and does not count."""
    adjusted = [math.nan] * len(p_values)
    valid = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    largest = 0.0
    for rank, index in enumerate(sorted(valid, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(valid) - rank)))
        adjusted[index] = largest
    return adjusted
