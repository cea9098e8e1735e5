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
                    for corner in range(4):
                        row, column = top + corner // 2, left + corner % 2
                        if row < 0 or column < 0 or row >= height or column >= width:
                            continue
                        share = weight
                        share *= low if corner // 2 else 1 - low
                        share *= right if corner % 2 else 1 - right
                        read = value[image, start + row * width + column, head]
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
                    by_weight = by_x = by_y = weight * 0
                    for corner in range(4):
                        row, column = top + corner // 2, left + corner % 2
                        if row < 0 or column < 0 or row >= height or column >= width:
                            continue
                        vertical = low if corner // 2 else 1 - low
                        horizontal = right if corner % 2 else 1 - right
                        position = start + row * width + column
                        read = value[image, position, head]
                        written = grad_value[image, position, head]
                        share = weight * vertical * horizontal
                        dot = weight * 0
                        for channel in range(channels):
                            dot += read[channel] * arrived[channel]
                            written[channel] += share * arrived[channel]
                        by_weight += vertical * horizontal * dot
                        by_x += (vertical if corner % 2 else -vertical) * dot
                        by_y += (horizontal if corner // 2 else -horizontal) * dot
                    grad_weights[image, query, head, level, point] = by_weight
                    grad_locations[image, query, head, level, point, 0] = by_x * weight * width
                    grad_locations[image, query, head, level, point, 1] = by_y * weight * height
