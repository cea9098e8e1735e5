"""Loops of multi-scale deformable attention and of batch norm, compiled by numba.

Attention. A point at (x, y) pixels reads the corners of its cell; corners outside the map are zero,
and a NaN makes its query's head NaN. An image's head is first copied, channels side by side and
every level within a border of zeros, so that no corner has to be checked. ``levels`` holds height,
width and first bordered position of every level, ``places`` those of every position in ``value``.

Batch norm. Rows are summed in pieces that fit the cache, the pieces in float64, in the same order
whatever the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

# Vector units and fused multiply-adds need sums reordered and contracted. Not nnan and ninf, which
# let a compiler take NaN and infinity for impossible.
FLAGS = {"contract", "reassoc", "nsz", "arcp"}
PIECE = 65536  # elements of a map that are summed together: a core's cache holds them


def _compile(function: Any) -> Any:
    """Compile a loop; keep the code on disk where there is a folder for it."""
    options: Any = {"parallel": True, "fastmath": FLAGS, "nogil": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return numba.njit(**options)(function)


@_compile
def attention_forward(  # noqa: PLR0917 - arrays, which numba takes by position
    levels: Any, places: Any, value: Any, locations: Any, weights: Any, output: Any
) -> None:
    """Add to ``output`` (B, Q, M, D), zero before."""
    batch, queries, heads, channels = output.shape
    count, points = weights.shape[3], weights.shape[4]
    size = places[-1] + levels[-1, 1] + 4  # behind the last: its row's border, a row of border
    for piece in numba.prange(batch * heads):
        image, head = piece // heads, piece % heads
        maps = np.zeros((size, channels), dtype=value.dtype)
        for position in range(len(places)):
            maps[places[position]] = value[image, position, head]
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
                    right, low = x - left, y - top  # fractions: how far right of, below the corner
                    corner = start + (top + 1) * (width + 2) + left + 1
                    below = corner + width + 2
                    # Upper left, upper right, lower left, lower right.
                    a, b, c, d = maps[corner], maps[corner + 1], maps[below], maps[below + 1]
                    share_a = weight * (1 - low) * (1 - right)
                    share_b = weight * (1 - low) * right
                    share_c = weight * low * (1 - right)
                    share_d = weight * low * right
                    # All four corners in one loop: the total is read and written once.
                    for channel in range(channels):
                        total[channel] += (
                            share_a * a[channel]
                            + share_b * b[channel]
                            + share_c * c[channel]
                            + share_d * d[channel]
                        )


@_compile
def attention_backward(  # noqa: PLR0917 - arrays, which numba takes by position
    levels: Any,
    places: Any,
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
    size = places[-1] + levels[-1, 1] + 4  # behind the last: its row's border, a row of border
    for piece in numba.prange(batch * heads):
        image, head = piece // heads, piece % heads
        maps = np.zeros((size, channels), dtype=value.dtype)
        # The gradient of the bordered maps. Its border takes what falls outside and is dropped.
        grad_maps = np.zeros((size, channels), dtype=value.dtype)
        for position in range(len(places)):
            maps[places[position]] = value[image, position, head]
        for query in range(queries):
            grad_head = grad[image, query, head]
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
                    corner = start + (top + 1) * (width + 2) + left + 1
                    below = corner + width + 2
                    a, b, c, d = maps[corner], maps[corner + 1], maps[below], maps[below + 1]
                    dot_a = dot_b = dot_c = dot_d = weight * 0  # typed; a literal is float64
                    for channel in range(channels):
                        dot_a += a[channel] * grad_head[channel]
                        dot_b += b[channel] * grad_head[channel]
                        dot_c += c[channel] * grad_head[channel]
                        dot_d += d[channel] * grad_head[channel]
                    # A loop per corner: the compiler cannot know that no two of them overlap, and
                    # would not vectorise a common one.
                    a, b = grad_maps[corner], grad_maps[corner + 1]
                    c, d = grad_maps[below], grad_maps[below + 1]
                    share_a = weight * (1 - low) * (1 - right)
                    share_b = weight * (1 - low) * right
                    share_c = weight * low * (1 - right)
                    share_d = weight * low * right
                    for channel in range(channels):
                        a[channel] += share_a * grad_head[channel]
                    for channel in range(channels):
                        b[channel] += share_b * grad_head[channel]
                    for channel in range(channels):
                        c[channel] += share_c * grad_head[channel]
                    for channel in range(channels):
                        d[channel] += share_d * grad_head[channel]
                    upper = dot_a + right * (dot_b - dot_a)
                    lower = dot_c + right * (dot_d - dot_c)
                    across = (1 - low) * (dot_b - dot_a) + low * (dot_d - dot_c)
                    grad_weights[image, query, head, level, point] = upper + low * (lower - upper)
                    grad_locations[image, query, head, level, point, 0] = across * weight * width
                    grad_locations[image, query, head, level, point, 1] = (
                        (lower - upper) * weight * height
                    )
        for position in range(len(places)):
            grad_value[image, position, head] = grad_maps[places[position]]


@numba.njit
def _pieces(count: int, channels: int) -> Any:
    """Return where pieces of rows begin, and where the last one ends."""
    rows = max(1, PIECE // channels)
    return np.append(np.arange(0, count, rows), count)


@_compile
def norm_forward(  # noqa: PLR0917
    x: Any, weight: Any, bias: Any, epsilon: float, high: Any, y: Any, mean: Any, variance: Any
) -> None:
    """Normalise ``x`` (N, C) over N into ``y``, clipped to [0, high] where high > 0."""
    count, channels = x.shape
    ends = _pieces(count, channels)
    pieces = len(ends) - 1
    means = np.empty((pieces, channels))
    squares = np.empty((pieces, channels), dtype=x.dtype)
    for piece in numba.prange(pieces):
        first, last = ends[piece], ends[piece + 1]
        middle = np.zeros(channels, dtype=x.dtype)
        for row in range(first, last):
            for channel in range(channels):
                middle[channel] += x[row, channel]
        for channel in range(channels):
            middle[channel] /= last - first
        drift, spread = np.zeros(channels, dtype=x.dtype), np.zeros(channels, dtype=x.dtype)
        for row in range(first, last):
            for channel in range(channels):
                distance = x[row, channel] - middle[channel]
                drift[channel] += distance
                spread[channel] += distance**2
        for channel in range(channels):  # the drift is what the first sum rounded away
            means[piece, channel] = middle[channel] + np.float64(drift[channel]) / (last - first)
            squares[piece, channel] = spread[channel] - drift[channel] ** 2 / (last - first)
    # Merge the pieces (Chan et al.): squares around a piece's own mean do not cancel, which sums of
    # x**2 would.
    factor, shift = np.empty(channels, dtype=x.dtype), np.empty(channels, dtype=x.dtype)
    for channel in range(channels):
        total = 0.0
        for piece in range(pieces):
            total += means[piece, channel] * (ends[piece + 1] - ends[piece])
        mean[channel] = total / count
        total = 0.0
        for piece in range(pieces):
            size = ends[piece + 1] - ends[piece]
            total += squares[piece, channel] + size * (means[piece, channel] - mean[channel]) ** 2
        variance[channel] = total / count
        scale = weight[channel] / math.sqrt(variance[channel] + epsilon)
        factor[channel] = scale
        shift[channel] = bias[channel] - mean[channel] * scale
    for piece in numba.prange(pieces):
        for row in range(ends[piece], ends[piece + 1]):
            if high > 0:  # outside the loop over channels, which vectorises without it
                for channel in range(channels):
                    number = x[row, channel] * factor[channel] + shift[channel]
                    number = high * 0 if number < 0 else number  # a NaN stays one
                    y[row, channel] = high if number > high else number
            else:
                for channel in range(channels):
                    y[row, channel] = x[row, channel] * factor[channel] + shift[channel]


@_compile
def norm_backward(  # noqa: PLR0917
    x: Any,
    weight: Any,
    bias: Any,
    epsilon: float,
    high: Any,
    mean: Any,
    variance: Any,
    grad: Any,
    grad_x: Any,
    grad_weight: Any,
    grad_bias: Any,
) -> None:
    """Compute the three gradients, from inputs and results of ``norm_forward``."""
    count, channels = x.shape
    ends = _pieces(count, channels)
    pieces = len(ends) - 1
    middle = mean.astype(x.dtype)
    inverse = 1 / np.sqrt(variance + epsilon)
    factor = (weight * inverse).astype(x.dtype)
    shift = (bias - mean * weight * inverse).astype(x.dtype)
    low = high * 0
    sums = np.empty((pieces, channels), dtype=x.dtype)
    dots = np.empty((pieces, channels), dtype=x.dtype)
    for piece in numba.prange(pieces):
        total, dot = np.zeros(channels, dtype=x.dtype), np.zeros(channels, dtype=x.dtype)
        for row in range(ends[piece], ends[piece + 1]):
            for channel in range(channels):
                number = x[row, channel] * factor[channel] + shift[channel]
                # y is computed again: reading x costs less than storing y or a mask would.
                cut = high > 0 and (number <= low or number >= high)
                passed = low if cut else grad[row, channel]
                total[channel] += passed
                dot[channel] += passed * (x[row, channel] - middle[channel])
        sums[piece] = total
        dots[piece] = dot
    # The gradient of x is linear in x per channel: passed * factor + x * slope + level. So the last
    # pass is one multiply-add per element, without the mean.
    slope, level = np.empty(channels, dtype=x.dtype), np.empty(channels, dtype=x.dtype)
    for channel in range(channels):
        total_sum, total_dot = 0.0, 0.0
        for piece in range(pieces):
            total_sum += sums[piece, channel]
            total_dot += dots[piece, channel]
        grad_bias[channel] = total_sum
        grad_weight[channel] = total_dot * inverse[channel]
        scale = weight[channel] * inverse[channel] / count
        steepness = -total_dot * inverse[channel] ** 2 * scale
        slope[channel] = steepness
        level[channel] = -total_sum * scale - mean[channel] * steepness
    for piece in numba.prange(pieces):
        for row in range(ends[piece], ends[piece + 1]):
            for channel in range(channels):
                number = x[row, channel] * factor[channel] + shift[channel]
                cut = high > 0 and (number <= low or number >= high)
                passed = low if cut else grad[row, channel]
                grad_x[row, channel] = (
                    passed * factor[channel] + x[row, channel] * slope[channel] + level[channel]
                )
