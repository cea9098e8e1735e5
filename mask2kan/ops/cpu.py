"""CPU kernels of multi-scale deformable attention, built from PyTorch's own fast loops.

The op is a sum of L * P * 4 weighted rows of ``value`` for every query and head: exactly what
``embedding_bag`` with per-sample weights computes. Three ideas make it quick:

* A head's maps are first copied, each with a margin of zeros, into one table of rows (a canvas).
  Locations are clamped to where the margin is all they can see, so there are no border masks, and
  the four corners of a point are four views of the table under two lists of row numbers.
* Work goes piece by piece (some images, or some heads of one), so what it passes on stays in
  cache and large temporaries are not asked of the system again and again.
* The gradient of ``value`` is the transposed sum. Points are sorted by the cell, the square
  between four pixel centres, in which they fall; each corner's sum over its cell is again an
  ``embedding_bag``, and four shifted pictures of cells add up to the gradient. Without atomic
  additions it is the same in every run.

A NaN location gives NaN, and its attention weight's share of the gradient of ``value`` goes to an
arbitrary pixel.

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

# Points in a piece and rows gathered at a time: sizes at which temporaries stay in cache.
_PIECE_POINTS = 1 << 18
_GATHERED_FLOATS = 1 << 19


@dataclass(frozen=True)
class _Level:
    """A map inside the canvas: from row ``start`` on, lines of ``width + 2`` rows.

    Two zero rows before each line (and so after the one before it) and two zero lines before and
    after the map: a cell with a corner inside, and one with none, exist on every side.
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
        """(G, H, W, D) view of a (G, R, D) table: per pixel, the cell whose (dy, dx) it is."""
        lines = table.narrow(1, self.start, (self.height + 2) * self.stride)
        square: Tensor = lines.unflatten(1, (self.height + 2, self.stride))
        return square.narrow(1, 2 - dy, self.height).narrow(2, 2 - dx, self.width)


@dataclass(frozen=True)
class _Canvas:
    """The levels of one head in one table, and what every point has to know about its level."""

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
        index = torch.int32 if rows * tables < 2**31 else torch.int64

        def per_point(numbers: list[int], kind: torch.dtype) -> Tensor:
            row = torch.tensor(numbers, dtype=kind).repeat_interleave(points)
            return row.expand(queries, -1).contiguous()

        start = per_point([level.start for level in levels], index)
        first = torch.arange(tables, dtype=index).mul_(rows)
        return cls(
            levels=tuple(levels),
            rows=rows,
            extent=(
                per_point([level.width for level in levels], dtype),
                per_point([level.height for level in levels], dtype),
            ),
            stride=per_point([level.stride for level in levels], index),
            start=start + first[:, None, None],
            query=torch.arange(tables * queries, dtype=index)
            .view(tables, queries, 1)
            .repeat(1, 1, start.shape[1]),
        )

    @property
    def sizes(self) -> list[int]:
        """Pixels of each level."""
        return [level.height * level.width for level in self.levels]

    def draw(self, value: Tensor) -> Tensor:
        """(G * R, D): the maps of ``value``, (images, heads, S, D), with their margins."""
        images, heads, _, channels = value.shape
        table = self.extent[0].new_zeros((images * heads, self.rows, channels))
        for level, rows in zip(self.levels, value.split(self.sizes, dim=2), strict=True):
            picture = rows.unflatten(2, (level.height, level.width))
            level.corner(table, 0, 0).unflatten(0, (images, heads)).copy_(picture)
        return table.flatten(0, 1)


@dataclass(frozen=True)
class _Points:
    """The sampling points of one piece, each tensor (G, Q, K)."""

    x: Tensor  # how far from the cell's left corners to its right ones, 0 to 1
    y: Tensor
    attention: Tensor
    upper: Tensor  # row of the upper left corner; the upper right one is the next row
    lower: Tensor

    @classmethod
    def of(cls, canvas: _Canvas, locations: Tensor, weights: Tensor) -> _Points:
        """From (images, heads, Q, K, 2) locations and weights alike, of any strides."""
        tables = weights.shape[0] * weights.shape[1]
        within, corners = [], []
        for axis, extent in enumerate(canvas.extent):
            pixel = torch.empty_like(canvas.start[:tables], dtype=extent.dtype)
            # Moved by the margin of two: location * size - 0.5 + 2, between 0 and size + 2.
            torch.mul(locations[..., axis], extent, out=pixel.view(weights.shape))
            pixel.add_(1.5).clamp_(min=0)
            torch.minimum(pixel, extent + 2, out=pixel)
            corner = pixel.floor()
            within.append(pixel.sub_(corner))
            corners.append(corner.to(canvas.start.dtype))
        last = tables * canvas.rows - 2  # NaN becomes an arbitrary integer
        upper = corners[1].mul_(canvas.stride).add_(corners[0]).add_(canvas.start[:tables])
        upper.clamp_(0, last)
        attention = torch.empty_like(within[0])
        attention.view(weights.shape).copy_(weights)
        return cls(
            x=within[0],
            y=within[1],
            attention=attention,
            upper=upper,
            lower=(upper + canvas.stride).clamp_(0, last),
        )

    def corner_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bilinear times attention weight: upper left, upper right, lower left, lower right."""
        low = self.attention * self.y
        high = self.attention - low
        high_right = high * self.x
        low_right = low * self.x
        return high.sub_(high_right), high_right, low.sub_(low_right), low_right


def _pieces(value: Tensor, locations: Tensor) -> Iterator[tuple[slice, slice]]:
    """(images, heads) one after another."""
    batch, _, heads, _ = value.shape
    points = locations.shape[1] * locations.shape[3] * locations.shape[4]
    tables = max(1, _PIECE_POINTS // points)
    some_heads = min(heads, tables)
    some_images = min(batch, max(1, tables // heads))
    for image in range(0, batch, some_images):
        for head in range(0, heads, some_heads):
            yield (
                slice(image, min(image + some_images, batch)),
                slice(head, min(head + some_heads, heads)),
            )


def _canvas_for(value: Tensor, spatial_shapes: list[int], locations: Tensor) -> _Canvas:
    images, heads = next(_pieces(value, locations))
    tables = images.stop * heads.stop
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    return _Canvas.of(spatial_shapes, locations.shape[4], locations.shape[1], tables, dtype)


def _part(tensor: Tensor, piece: tuple[slice, slice]) -> Tensor:
    """(images, heads, Q or S, ...) view of a (B, Q or S, M, ...) tensor."""
    images, heads = piece
    return tensor[images, :, heads].transpose(1, 2)


def _points_part(tensor: Tensor, piece: tuple[slice, slice]) -> Tensor:
    """The same of a (B, Q, M, L, P, ...) tensor, L and P as one K."""
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
        for corner, weight in enumerate(points.corner_weights()):
            part = F.embedding_bag(
                rows[corner // 2],
                table[corner % 2 :],
                mode="sum",
                per_sample_weights=weight.flatten(0, 1),
            )
            total = part if total is None else total.add_(part)
        assert total is not None
        place = _part(output, piece)
        place.copy_(total.view(place.shape))
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
        arrived = _part(grads, piece)
        grad = points.x.new_empty(arrived.shape).copy_(arrived).flatten(0, 1)
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
    """(2, 2, G, Q, K): the four corners' rows times the output's gradient, y before x."""
    heads, queries, count = points.upper.shape
    channels = grad.shape[2]
    # Left and right corners are neighbouring rows: one gathers both from overlapping pairs.
    pairs = table.as_strided((table.shape[0] - 1, 2 * channels), (channels, 1))
    upper, lower = points.upper.flatten(0, 1), points.lower.flatten(0, 1)
    grad = grad.view(-1, 1, channels)
    found = grad.new_empty((heads * queries, 1, 4 * count))
    step = max(1, _GATHERED_FLOATS // (4 * count * channels))
    for start in range(0, heads * queries, step):
        piece = slice(start, start + step)
        index = torch.cat([upper[piece], lower[piece]], dim=1).flatten()
        gathered = pairs.index_select(0, index).view(-1, 4 * count, channels)
        torch.bmm(grad[piece], gathered.transpose(1, 2), out=found[piece])
    return found.view(heads, queries, 2, count, 2).permute(2, 4, 0, 1, 3)


def _write_point_gradients(
    canvas: _Canvas, points: _Points, dots: Tensor, grad_locations: Tensor, grad_weights: Tensor
) -> None:
    """Fill (images, heads, Q, K, 2) and (images, heads, Q, K) views from the corners' products."""
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
    """Fill an (images, heads, S, D) view: the gradient spread over the rows that were read."""
    tables, channels = grad.shape[0], grad.shape[2]
    cells = points.upper.flatten()
    rows = tables * canvas.rows
    counts = torch.bincount(cells, minlength=rows)
    offsets = counts.cumsum(0).sub_(counts).to(cells.dtype)
    # Half as many bytes are sorted in half as many passes.
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
            total = sums
            continue
        for level in canvas.levels:
            level.corner(total, 0, 0).add_(level.corner(sums, corner // 2, corner % 2))
    assert total is not None
    for level, rows in zip(canvas.levels, grad_value.split(canvas.sizes, dim=2), strict=True):
        picture = rows.unflatten(2, (level.height, level.width))
        picture.copy_(level.corner(total, 0, 0).view_as(picture))
