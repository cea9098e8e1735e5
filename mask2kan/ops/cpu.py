"""CPU kernels of multi-scale deformable attention, built from PyTorch's own fast loops.

The op sums L * P * 4 weighted rows of ``value`` for every query and head, as ``embedding_bag`` with
per-sample weights does. Three ideas make it quick:

* A head's maps are copied, with margins of zeros, into one table of rows (a canvas). Locations are
  clamped into the margin, so there are no border masks, and a point's four corners are four views
  of the table under two lists of row numbers.
* Work goes piece by piece (some images, or some heads of one): temporaries stay in the cache.
* The gradient of ``value`` is the transposed sum. Points are sorted by cell, the square between
  four pixel centres; each corner's sum over its cell is again an ``embedding_bag``, and four
  shifted maps of cells add up to the gradient, without atomic additions, so deterministic.

A NaN location gives NaN; its share of the gradient of ``value`` goes to an arbitrary pixel.

Dimensions: B batch, S positions of all levels, Q queries, M heads, D channels of a head, L levels,
P points, G tables (an image's head each) in a piece, K = L * P, R rows of a canvas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2kan.ops.operator import BACKWARD, FORWARD

# Points in a piece and elements gathered at a time: sizes at which temporaries stay in the cache.
_PIECE_POINTS = 1 << 18
_GATHERED_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class _Level:
    """A map inside the canvas: from row ``start`` on, lines of ``width + 2`` rows.

    Two zero rows before each line and two zero lines before and after the map: on every side there
    is a cell with corners on the map's edge, and one with none, for points to be clamped to.
    """

    height: int
    width: int
    start: int

    @property
    def stride(self) -> int:
        return self.width + 2

    @property
    def rows(self) -> int:
        return (self.height + 4) * self.stride + 2

    def corner(self, table: Tensor, dy: int, dx: int) -> Tensor:
        """View a (G, R, D) table as (G, H, W, D): the cell whose corner (dy, dx) a pixel is."""
        lines = table.narrow(1, self.start, (self.height + 2) * self.stride)
        square: Tensor = lines.unflatten(1, (self.height + 2, self.stride))
        return square.narrow(1, 2 - dy, self.height).narrow(2, 2 - dx, self.width)


@dataclass(frozen=True)
class _Canvas:
    """The layout of one head's levels, spread over the points: each step loops contiguously."""

    levels: tuple[_Level, ...]
    rows: int
    extent: tuple[Tensor, Tensor]  # x, y: (Q, K) map size
    stride: Tensor  # (Q, K) int
    start: Tensor  # (G, Q, K) int
    query: Tensor  # (G, Q, K) int: which of the G * Q outputs a point belongs to

    @classmethod
    def of(
        cls, shapes: list[int], points: int, queries: int, tables: int, dtype: torch.dtype
    ) -> _Canvas:
        levels: list[_Level] = []
        rows = 0
        for height, width in zip(shapes[::2], shapes[1::2], strict=True):
            levels.append(_Level(height, width, rows))
            rows += levels[-1].rows
        index = torch.int32 if rows * tables < 2**31 else torch.int64  # half the memory to read

        def per_point(per_level: list[int], kind: torch.dtype) -> Tensor:
            row = torch.tensor(per_level, dtype=kind).repeat_interleave(points)
            return row.expand(queries, -1).contiguous()

        start = per_point([level.start for level in levels], index)
        first = torch.arange(tables, dtype=index).mul_(rows)
        widths = per_point([level.width for level in levels], dtype)
        heights = per_point([level.height for level in levels], dtype)
        query = torch.arange(tables * queries, dtype=index).view(tables, queries, 1)
        return cls(
            levels=tuple(levels),
            rows=rows,
            extent=(widths, heights),
            stride=per_point([level.stride for level in levels], index),
            start=start + first[:, None, None],
            query=query.repeat(1, 1, start.shape[1]),
        )

    @property
    def sizes(self) -> list[int]:
        """Count the pixels of each level."""
        return [level.height * level.width for level in self.levels]

    def draw(self, value: Tensor) -> Tensor:
        """Copy ``value``, (images, heads, S, D), into a new table (G * R, D) with zero margins."""
        images, heads, _, channels = value.shape
        table = self.extent[0].new_zeros((images * heads, self.rows, channels))
        for level, rows in zip(self.levels, value.split(self.sizes, dim=2), strict=True):
            feature = rows.unflatten(2, (level.height, level.width))
            level.corner(table, 0, 0).unflatten(0, (images, heads)).copy_(feature)
        return table.flatten(0, 1)


@dataclass(frozen=True)
class _Points:
    """The sampling points of one piece, each tensor (G, Q, K)."""

    x: Tensor  # from the cell's left corners (0) to its right ones (1)
    y: Tensor  # from its upper corners to its lower ones
    attention: Tensor
    upper: Tensor  # row of the upper left corner; the upper right one is the next row
    lower: Tensor

    @classmethod
    def of(cls, canvas: _Canvas, locations: Tensor, weights: Tensor) -> _Points:
        """Locate points, from (images, heads, Q, K, 2) and (images, heads, Q, K) of any strides."""
        tables = weights.shape[0] * weights.shape[1]
        fractions, corners = [], []
        for axis, extent in enumerate(canvas.extent):
            pixel = torch.empty_like(canvas.start[:tables], dtype=extent.dtype)
            # Moved by the margin of two: location * size - 0.5 + 2, between 0 and size + 2. In
            # place from here on: each fresh temporary would cost page faults.
            torch.mul(locations[..., axis], extent, out=pixel.view(weights.shape))
            pixel.add_(1.5).clamp_(min=0)
            torch.minimum(pixel, extent + 2, out=pixel)
            corner = pixel.floor()
            fractions.append(pixel.sub_(corner))
            corners.append(corner.to(canvas.start.dtype))
        last = tables * canvas.rows - 2  # NaN became an arbitrary integer: keep it in the table
        upper = corners[1].mul_(canvas.stride).add_(corners[0]).add_(canvas.start[:tables])
        upper.clamp_(0, last)
        attention = torch.empty_like(fractions[0])
        attention.view(weights.shape).copy_(weights)
        return cls(
            x=fractions[0],
            y=fractions[1],
            attention=attention,
            upper=upper,
            lower=(upper + canvas.stride).clamp_(0, last),
        )

    def corner_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bilinear times attention weight: upper left, upper right, lower left, lower right."""
        # by subtraction: three products, and the four add up to the attention weight
        low = self.attention * self.y
        high = self.attention - low
        high_right = high * self.x
        low_right = low * self.x
        return high.sub_(high_right), high_right, low.sub_(low_right), low_right


def _pieces(value: Tensor, locations: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slice images and heads into pieces of at most ``_PIECE_POINTS`` points, where possible."""
    batch, _, heads, _ = value.shape
    points = locations.shape[1] * locations.shape[3] * locations.shape[4]
    tables = max(1, _PIECE_POINTS // points)
    piece_heads = min(heads, tables)
    piece_images = min(batch, max(1, tables // heads))
    for image in range(0, batch, piece_images):
        images = slice(image, min(image + piece_images, batch))
        for head in range(0, heads, piece_heads):
            yield images, slice(head, min(head + piece_heads, heads))


def _canvas_for(value: Tensor, spatial_shapes: list[int], locations: Tensor) -> _Canvas:
    images, heads = next(_pieces(value, locations))  # the largest: a later one uses part of it
    tables = images.stop * heads.stop
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    return _Canvas.of(spatial_shapes, locations.shape[4], locations.shape[1], tables, dtype)


def _part(tensor: Tensor, piece: tuple[slice, slice]) -> Tensor:
    """View a (B, Q or S, M, ...) tensor's piece as (images, heads, Q or S, ...)."""
    images, heads = piece
    return tensor[images, :, heads].transpose(1, 2)


def _points_part(tensor: Tensor, piece: tuple[slice, slice]) -> Tensor:
    """View a (B, Q, M, L, P, ...) tensor's piece as (images, heads, Q, K, ...)."""
    return _part(tensor, piece).flatten(3, 4)


@torch.library.impl(FORWARD, "cpu")
def _forward(
    value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, channels = value.shape
    output = value.new_empty((batch, locations.shape[1], heads, channels))
    if 0 in (*value.shape, *locations.shape):
        return output.zero_().flatten(2)
    canvas = _canvas_for(value, spatial_shapes, locations)
    for piece in _pieces(value, locations):
        table = canvas.draw(_part(value, piece))
        points = _Points.of(canvas, _points_part(locations, piece), _points_part(weights, piece))
        total: Tensor | None = None
        rows = (points.upper.flatten(0, 1), points.lower.flatten(0, 1))
        # A right corner is the row after its left one: the same numbers, the table moved by one.
        for corner, weight in enumerate(points.corner_weights()):
            part = F.embedding_bag(
                rows[corner // 2],
                table[corner % 2 :],
                mode="sum",
                per_sample_weights=weight.flatten(0, 1),
            )
            total = part if total is None else total.add_(part)
        assert total is not None
        target = _part(output, piece)
        target.copy_(total.view(target.shape))
    return output.flatten(2)


@torch.library.impl(BACKWARD, "cpu")
def _backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: list[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_value = torch.zeros_like(value, memory_format=torch.contiguous_format)
    grad_locations = torch.zeros_like(locations, memory_format=torch.contiguous_format)
    grad_weights = torch.zeros_like(weights, memory_format=torch.contiguous_format)
    if 0 in (*value.shape, *locations.shape):
        return grad_value, grad_locations, grad_weights
    canvas = _canvas_for(value, spatial_shapes, locations)
    grads = grad_output.unflatten(2, value.shape[2:])
    for piece in _pieces(value, locations):
        points = _Points.of(canvas, _points_part(locations, piece), _points_part(weights, piece))
        grad_part = _part(grads, piece)
        grad = points.x.new_empty(grad_part.shape).copy_(grad_part).flatten(0, 1)
        dots = _dots(canvas.draw(_part(value, piece)), grad, points)
        _write_point_gradients(
            canvas,
            points,
            dots,
            _points_part(grad_locations, piece),
            _points_part(grad_weights, piece),
        )
        _write_value_gradient(canvas, points, grad, _part(grad_value, piece))
    return grad_value, grad_locations, grad_weights


def _dots(table: Tensor, grad: Tensor, points: _Points) -> Tensor:
    """Dot the four corners' rows with the output's gradient: (2, 2, G, Q, K), y before x."""
    heads, queries, count = points.upper.shape
    channels = grad.shape[2]
    # Left and right corners are neighbouring rows: one read gathers both, as overlapping pairs.
    pairs = table.as_strided((table.shape[0] - 1, 2 * channels), (channels, 1))
    upper, lower = points.upper.flatten(0, 1), points.lower.flatten(0, 1)
    grad = grad.view(-1, 1, channels)
    dots = grad.new_empty((heads * queries, 1, 4 * count))
    step = max(1, _GATHERED_ELEMENTS // (4 * count * channels))
    for start in range(0, heads * queries, step):
        piece = slice(start, start + step)
        index = torch.cat([upper[piece], lower[piece]], dim=1).flatten()
        gathered = pairs.index_select(0, index).view(-1, 4 * count, channels)
        torch.bmm(grad[piece], gathered.transpose(1, 2), out=dots[piece])
    return dots.view(heads, queries, 2, count, 2).permute(2, 4, 0, 1, 3)


def _write_point_gradients(
    canvas: _Canvas, points: _Points, dots: Tensor, grad_locations: Tensor, grad_weights: Tensor
) -> None:
    """Fill (images, heads, Q, K, 2) and (images, heads, Q, K) views from the corners' dots.

    The bilinear form's value is the weight's gradient, its slopes times attention and map size the
    location's. In place, as each dot is used once more at most.
    """
    (upper_left, upper_right), (lower_left, lower_right) = dots
    upper_step = upper_right - upper_left
    lower_step = lower_right - lower_left
    upper = torch.addcmul(upper_left, upper_step, points.x)
    lower = torch.addcmul(lower_left, lower_step, points.x)
    right = upper_step.lerp_(lower_step, points.y).mul_(points.attention)
    down = lower.sub_(upper)
    torch.addcmul(upper, down, points.y, out=upper)
    down.mul_(points.attention)
    shape = grad_weights.shape
    grad_weights.copy_(upper.view(shape))
    grad_locations[..., 0].copy_(right.mul_(canvas.extent[0]).view(shape))
    grad_locations[..., 1].copy_(down.mul_(canvas.extent[1]).view(shape))


def _write_value_gradient(
    canvas: _Canvas, points: _Points, grad: Tensor, grad_value: Tensor
) -> None:
    """Fill an (images, heads, S, D) view: the output's gradient, spread over the sampled rows."""
    tables, channels = grad.shape[0], grad.shape[2]
    cells = points.upper.flatten()
    rows = tables * canvas.rows
    counts = torch.bincount(cells, minlength=rows)
    offsets = counts.cumsum(0).sub_(counts).to(cells.dtype)
    # A radix sort of 16 bits takes half as many passes over half as many bytes. Stable, so that the
    # order of the sums, and with it the last bit, is the same in every run.
    keys = (cells - 2**15).to(torch.int16) if rows <= 2**16 else cells
    order = keys.sort(stable=True).indices
    sources = canvas.query[:tables].flatten().index_select(0, order)
    total: Tensor | None = None
    for corner, weight in enumerate(points.corner_weights()):
        sums = F.embedding_bag(
            sources,
            grad.flatten(0, 1),
            offsets,
            mode="sum",
            per_sample_weights=weight.flatten().index_select(0, order),
        ).view(tables, canvas.rows, channels)
        if total is None:
            total = sums  # the upper left corner is the cell's own row: nothing to shift
            continue
        for level in canvas.levels:
            level.corner(total, 0, 0).add_(level.corner(sums, corner // 2, corner % 2))
    assert total is not None
    for level, rows in zip(canvas.levels, grad_value.split(canvas.sizes, dim=2), strict=True):
        feature = rows.unflatten(2, (level.height, level.width))
        feature.copy_(level.corner(total, 0, 0).view_as(feature))
