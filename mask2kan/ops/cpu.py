"""CPU kernels of multi-scale deformable attention, built from PyTorch's own fast loops.

The op is a sum of L * P * 4 weighted rows of ``value`` for every query and head: exactly what
``embedding_bag`` with per-sample weights computes, without the copies to picture layout and back
that ``grid_sample`` needs.

The backward pass has two halves. The gradient of the row weights is a dot product of gathered
rows with the output's gradient, taken in pieces that stay in cache. The gradient of ``value`` is
the transposed sum: points are sorted by the cell (the square between four pixel centres) they fall
in, each corner's sum over a cell is again an ``embedding_bag``, and four shifted pictures of cells
add up to the gradient. It has no atomic additions, so it is the same in every run.

Departure: a row that lies outside the map counts with weight zero instead of being skipped, so
non-finite numbers in ``value`` at a map's border also reach samples just beyond that border.

Dimensions: B batch, S positions of all levels, Q queries, M heads, D channels of a head, L levels,
P points, N = B * Q * M, K = L * P.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2kan.ops.operator import BACKWARD, FORWARD

# Rows gathered at a time in the backward pass: a few hundred kilobytes, which stays in cache.
_GATHERED_FLOATS = 1 << 18


@dataclass(frozen=True)
class _Axis:
    """Where points lie along one axis of their level; every tensor but ``size`` is (N, K)-shaped.

    ``low`` and ``high`` are the weights of the two neighbouring pixel centres, stacked in dim 1
    as (N, 2, K), zero where ``inside`` is not set; ``index`` are those neighbours, moved into the
    map; ``cell`` is 0 left of the first centre and ``size`` right of the last.
    """

    cell: Tensor
    index: Tensor
    weight: Tensor
    inside: Tensor
    size: Tensor


def _axis(location: Tensor, size: Tensor) -> _Axis:
    # The clamp leaves NaN alone; as an integer NaN is arbitrary, so integers are clamped again.
    pixel = location.clamp(-1, 2).mul_(size).sub_(0.5)
    base = pixel.floor()
    high = pixel.sub_(base)
    corner = (base + 1).to(torch.int32)
    extent = size.to(torch.int32)
    cell = corner.clamp(min=0).minimum(extent)
    known = corner == cell
    inside = torch.stack([known & (cell > 0), known & (cell < extent)], dim=1)
    weight = torch.stack([1 - high, high], dim=1).mul_(inside)
    index = torch.stack([(cell - 1).clamp_(min=0), torch.minimum(cell, extent - 1)], dim=1)
    return _Axis(cell, index, weight, inside, size)


@dataclass(frozen=True)
class _Points:
    """Every sampling point, in the dtype of the computation."""

    x: _Axis
    y: _Axis
    attention: Tensor  # (N, K)

    def corner_weights(self) -> Tensor:
        """(N, 2, 2, K): bilinear times attention weight of each corner, y before x."""
        rows = self.y.weight * self.attention[:, None]
        return rows[:, :, None] * self.x.weight[:, None]


@dataclass(frozen=True)
class _Layout:
    """Sizes, and where each level's rows begin."""

    value_shape: tuple[int, int, int, int]
    queries: int
    points: int
    shapes: list[tuple[int, int]]
    dtype: torch.dtype

    @classmethod
    def of(cls, value: Tensor, spatial_shapes: list[int], locations: Tensor) -> _Layout:
        batch, positions, heads, channels = value.shape
        return cls(
            value_shape=(batch, positions, heads, channels),
            queries=locations.shape[1],
            points=locations.shape[4],
            shapes=list(zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True)),
            dtype=torch.float64 if value.dtype == torch.float64 else torch.float32,
        )

    def per_point(self, numbers: list[int], dtype: torch.dtype) -> Tensor:
        """One number per level, repeated to (K,)."""
        return torch.tensor(numbers, dtype=dtype).repeat_interleave(self.points)

    def per_query_head(self, batch_stride: int) -> Tensor:
        """(N, 1): head + image * batch_stride, the part of a row number that levels share."""
        batch, _, heads, _ = self.value_shape
        dtype = self.index_dtype
        image = torch.arange(batch, dtype=dtype)[:, None, None] * batch_stride
        rows = image + torch.arange(heads, dtype=dtype)
        return rows.expand(batch, self.queries, heads).reshape(-1, 1)

    @property
    def index_dtype(self) -> torch.dtype:
        """int32 is faster wherever it can count the rows."""
        batch, positions, heads, _ = self.value_shape
        cells = sum((height + 1) * (width + 1) for height, width in self.shapes)
        entries = batch * self.queries * heads * len(self.shapes) * self.points * 4
        most = max(batch * max(positions, cells) * heads, entries)
        return torch.int32 if most < 2**31 else torch.int64

    def sampled(self, locations: Tensor, weights: Tensor) -> _Points:
        heights = self.per_point([height for height, _ in self.shapes], self.dtype)
        widths = self.per_point([width for _, width in self.shapes], self.dtype)
        columns = len(self.shapes) * self.points
        flat = locations.to(self.dtype).reshape(-1, columns, 2)
        attention = weights.to(self.dtype).reshape(-1, columns)
        return _Points(_axis(flat[..., 0], widths), _axis(flat[..., 1], heights), attention)

    def corner_rows(self, sampled: _Points) -> Tensor:
        """(N, 2, 2, K): row of ``value`` seen as (B * S * M, D) for each corner, y before x."""
        _, positions, heads, _ = self.value_shape
        dtype = self.index_dtype
        starts, total = [], 0
        for height, width in self.shapes:
            starts.append(total * heads)
            total += height * width
        strides = self.per_point([width * heads for _, width in self.shapes], dtype)
        y = sampled.y.index.to(dtype) * strides + self.per_point(starts, dtype)
        x = sampled.x.index.to(dtype) * heads + self.per_query_head(positions * heads)[:, None]
        return y[:, :, None] + x[:, None]

    def cells(self, sampled: _Points) -> Tensor:
        """(N * K,): the number of the cell a point falls in, of B * cells * M."""
        heads = self.value_shape[2]
        dtype = self.index_dtype
        starts, total = [], 0
        for height, width in self.shapes:
            starts.append(total * heads)
            total += (height + 1) * (width + 1)
        strides = self.per_point([(width + 1) * heads for _, width in self.shapes], dtype)
        cell = sampled.y.cell.to(dtype) * strides + self.per_point(starts, dtype)
        cell += sampled.x.cell.to(dtype) * heads
        cell += self.per_query_head(total * heads)
        return cell.reshape(-1)


@torch.library.impl(FORWARD, "cpu")
def _forward(
    value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> Tensor:
    layout = _Layout.of(value, spatial_shapes, locations)
    batch, _, heads, channels = layout.value_shape
    if 0 in (*value.shape, *locations.shape):
        return value.new_zeros((batch, layout.queries, heads * channels))
    sampled = layout.sampled(locations, weights)
    output = F.embedding_bag(
        layout.corner_rows(sampled).flatten(1),
        value.to(layout.dtype).reshape(-1, channels),
        mode="sum",
        per_sample_weights=sampled.corner_weights().flatten(1),
    )
    return output.reshape(batch, layout.queries, heads * channels).to(value.dtype)


@torch.library.impl(BACKWARD, "cpu")
def _backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: list[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    if 0 in (*value.shape, *locations.shape):
        return (
            value.new_zeros(value.shape),
            locations.new_zeros(locations.shape),
            weights.new_zeros(weights.shape),
        )
    layout = _Layout.of(value, spatial_shapes, locations)
    sampled = layout.sampled(locations, weights)
    grad = grad_output.to(layout.dtype).reshape(-1, value.shape[3])
    dots = _corner_dots(value.to(layout.dtype), grad, layout.corner_rows(sampled))
    grad_locations, grad_weights = _point_gradients(sampled, dots)
    grad_value = _value_gradient(layout, sampled, grad)
    return (
        grad_value.to(value.dtype),
        grad_locations.reshape(locations.shape).to(locations.dtype),
        grad_weights.reshape(weights.shape).to(weights.dtype),
    )


def _corner_dots(value: Tensor, grad: Tensor, rows: Tensor) -> Tensor:
    """(N, 2, 2, K): each corner's row of ``value`` times the output's gradient."""
    table = value.reshape(-1, value.shape[-1])
    corners = rows[0].numel()
    dots = grad.new_empty((*rows.shape, 1))
    step = max(1, _GATHERED_FLOATS // (corners * table.shape[1]))
    for start in range(0, rows.shape[0], step):
        piece = rows[start : start + step]
        gathered = table.index_select(0, piece.reshape(-1)).view(-1, corners, table.shape[1])
        found = torch.bmm(gathered, grad[start : start + step, :, None])
        dots[start : start + step] = found.view(*piece.shape, 1)
    return dots[..., 0]


def _point_gradients(sampled: _Points, dots: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K, 2) gradient of the locations and (N, K) gradient of the attention weights."""
    x, y = sampled.x, sampled.y
    along_y = (dots * x.weight[:, None]).sum(2)  # (N, 2, K): interpolated in x, per row
    along_x = (dots * y.weight[:, :, None]).sum(1)  # (N, 2, K): interpolated in y, per column
    grad_weights = (along_y * y.weight).sum(1)
    steps = [
        torch.where(axis.inside, along, 0).diff(dim=1)[:, 0] * axis.size
        for axis, along in ((x, along_x), (y, along_y))
    ]
    return torch.stack(steps, dim=-1) * sampled.attention[..., None], grad_weights


def _value_gradient(layout: _Layout, sampled: _Points, grad: Tensor) -> Tensor:
    """(B, S, M, D): the output's gradient, spread back over the rows it was read from."""
    batch, positions, heads, channels = layout.value_shape
    columns = sampled.attention.shape[1]
    cells = layout.cells(sampled)
    total = sum((height + 1) * (width + 1) for height, width in layout.shapes)
    ordered, order = cells.sort(stable=True)
    bounds = torch.arange(batch * total * heads, dtype=cells.dtype)
    offsets = torch.searchsorted(ordered, bounds, out_int32=cells.dtype == torch.int32)
    sources = torch.div(order, columns, rounding_mode="floor").to(cells.dtype)
    corners = sampled.corner_weights().permute(1, 2, 0, 3).reshape(2, 2, -1)

    grad_value = grad.new_zeros((batch, positions, heads, channels))
    for dy in (0, 1):
        for dx in (0, 1):
            sums = F.embedding_bag(
                sources,
                grad,
                offsets,
                mode="sum",
                per_sample_weights=corners[dy, dx].index_select(0, order),
            ).view(batch, total, heads, channels)
            _add_shifted(grad_value, sums, layout.shapes, dy, dx)
    return grad_value


def _add_shifted(
    grad_value: Tensor, sums: Tensor, shapes: list[tuple[int, int]], dy: int, dx: int
) -> None:
    """Add what each cell holds for its (dy, dx) corner to the pixel at that corner."""
    cell_sizes = [(height + 1) * (width + 1) for height, width in shapes]
    pixel_sizes = [height * width for height, width in shapes]
    pieces = zip(
        shapes, grad_value.split(pixel_sizes, dim=1), sums.split(cell_sizes, dim=1), strict=True
    )
    for (height, width), pixels, cells in pieces:
        square = cells.unflatten(1, (height + 1, width + 1))
        corner = square[:, 1 - dy : height + 1 - dy, 1 - dx : width + 1 - dx]
        pixels.unflatten(1, (height, width)).add_(corner)
