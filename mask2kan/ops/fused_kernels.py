"""The loops behind ``mask2kan.ops.fused``, compiled by numba and imported only where they run.

A point at (x, y) pixels reads the corners of the cell it lies in. Corners outside the map are zero;
a NaN lies in no cell and makes its query's head NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

# without nnan and ninf, which let a compiler take NaN and infinity for impossible
FLAGS = {"contract", "reassoc", "nsz", "arcp"}


def _compile(function: Any) -> Any:
    """With the code kept on disk, where there is a folder for it."""
    options: Any = {"parallel": True, "fastmath": FLAGS, "nogil": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return numba.njit(**options)(function)


@_compile
def forward(levels: Any, value: Any, locations: Any, weights: Any, output: Any) -> None:
    """Add to ``output`` (B, Q, M, D), zero before."""
    batch, queries, heads, channels = output.shape
    count, points = weights.shape[3], weights.shape[4]
    for piece in numba.prange(batch * heads):
        image, head = piece // heads, piece % heads
        for query in range(queries):
            total = output[image, query, head]
            for level in range(count):
                height, width, start = levels[level]
                for point in range(points):
                    x = locations[image, query, head, level, point, 0] * width - 0.5
                    y = locations[image, query, head, level, point, 1] * height - 0.5
                    weight = weights[image, query, head, level, point]
                    if math.isnan(x) or math.isnan(y):
                        for channel in range(channels):
                            total[channel] = np.nan
                        continue
                    if not (x > -1 and y > -1 and x < width and y < height):
                        continue
                    left, top = math.floor(x), math.floor(y)
                    right, low = x - left, y - top
                    # Corners outside the map are read where the nearest inside is, and count 0.
                    x0, x1 = max(left, 0), min(left + 1, width - 1)
                    y0, y1 = max(top, 0), min(top + 1, height - 1)
                    in_left, in_right = left >= 0, left + 1 < width
                    in_top, in_low = top >= 0, top + 1 < height
                    a = value[image, start + y0 * width + x0, head]
                    b = value[image, start + y0 * width + x1, head]
                    c = value[image, start + y1 * width + x0, head]
                    d = value[image, start + y1 * width + x1, head]
                    if in_left and in_right and in_top and in_low:
                        share_a = weight * (1 - low) * (1 - right)
                        share_b = weight * (1 - low) * right
                        share_c = weight * low * (1 - right)
                        share_d = weight * low * right
                        for channel in range(channels):
                            total[channel] += (
                                share_a * a[channel]
                                + share_b * b[channel]
                                + share_c * c[channel]
                                + share_d * d[channel]
                            )
                        continue
                    for corner in range(4):  # at a border, where 0 times infinity must not appear
                        below, beside = corner // 2 == 1, corner % 2 == 1
                        if not (in_low if below else in_top) or not (
                            in_right if beside else in_left
                        ):
                            continue
                        share = weight * (low if below else 1 - low)
                        share *= right if beside else 1 - right
                        row = top + corner // 2
                        read = value[image, start + row * width + left + corner % 2, head]
                        for channel in range(channels):
                            total[channel] += share * read[channel]


@_compile
def backward(  # noqa: PLR0917 - arrays, which numba takes by position
    levels: Any,
    value: Any,
    locations: Any,
    weights: Any,
    grad: Any,
    grad_value: Any,
    grad_locations: Any,
    grad_weights: Any,
) -> None:
    """Add to the three gradients, zero before."""
    batch, queries, heads, channels = grad.shape
    count, points = weights.shape[3], weights.shape[4]
    for piece in numba.prange(batch * heads):
        image, head = piece // heads, piece % heads
        dots = np.zeros(4, dtype=grad.dtype)
        for query in range(queries):
            arrived = grad[image, query, head]
            for level in range(count):
                height, width, start = levels[level]
                for point in range(points):
                    x = locations[image, query, head, level, point, 0] * width - 0.5
                    y = locations[image, query, head, level, point, 1] * height - 0.5
                    weight = weights[image, query, head, level, point]
                    if math.isnan(x) or math.isnan(y):
                        grad_weights[image, query, head, level, point] = np.nan
                        grad_locations[image, query, head, level, point, 0] = np.nan
                        grad_locations[image, query, head, level, point, 1] = np.nan
                        continue
                    if not (x > -1 and y > -1 and x < width and y < height):
                        continue
                    left, top = math.floor(x), math.floor(y)
                    right, low = x - left, y - top
                    for corner in range(4):
                        dots[corner] = 0
                        row, column = top + corner // 2, left + corner % 2
                        if row < 0 or column < 0 or row >= height or column >= width:
                            continue
                        share = weight * (low if corner // 2 else 1 - low)
                        share *= right if corner % 2 else 1 - right
                        position = start + row * width + column
                        read = value[image, position, head]
                        written = grad_value[image, position, head]
                        dot = weight * 0
                        for channel in range(channels):
                            dot += read[channel] * arrived[channel]
                            written[channel] += share * arrived[channel]
                        dots[corner] = dot
                    upper = dots[0] + right * (dots[1] - dots[0])
                    lower = dots[2] + right * (dots[3] - dots[2])
                    across = (1 - low) * (dots[1] - dots[0]) + low * (dots[3] - dots[2])
                    grad_weights[image, query, head, level, point] = upper + low * (lower - upper)
                    grad_locations[image, query, head, level, point, 0] = across * weight * width
                    grad_locations[image, query, head, level, point, 1] = (
                        (lower - upper) * weight * height
                    )
