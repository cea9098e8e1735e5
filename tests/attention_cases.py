"""Cases of multi-scale deformable attention that tests and benchmarks share."""

from __future__ import annotations

import torch
from torch import Tensor

from mask2kan.ops import ms_deform_attn

Case = tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]
"""value, spatial_shapes, locations, weights."""

SHAPES = {
    "pyramid": [(4, 5), (8, 10), (16, 20)],
    "odd": [(1, 7), (5, 3), (2, 1)],
    "one": [(6, 9)],
}


def make_case(
    shapes: list[tuple[int, int]],
    where: str = "mixed",
    *,
    batch: int = 2,
    queries: int = 37,
    heads: int = 3,
    channels: int = 5,
    points: int = 4,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    """Random tensors; ``where`` the locations lie: random, border, outside or mixed."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        drawn = torch.rand(*size, generator=generator, dtype=torch.float64)
        return low + (high - low) * drawn

    size = (batch, queries, heads, len(shapes), points, 2)
    extent = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float64)[:, None]
    inside = uniform(0, 1, *size)
    border = (uniform(0, 1, *size) < 0.5).double() + uniform(-1.2, 1.2, *size) / extent
    kinds = {"random": inside, "border": border, "outside": uniform(-3, 4, *size)}
    if where == "mixed":
        pick = uniform(0, 1, *size[:-1], 1)
        locations = torch.where(pick < 0.7, border, kinds["outside"])
        locations = torch.where(pick < 0.4, inside, locations)
    else:
        locations = kinds[where]
    positions = sum(h * w for h, w in shapes)
    value = uniform(-1, 1, batch, positions, heads, channels)
    weights = uniform(0, 1, *size[:-1])
    return value.to(dtype), shapes, locations.to(dtype), weights.to(dtype)


def run(case: Case, backend: str) -> tuple[Tensor, ...]:
    """Output, and gradients of value, locations and weights for a fixed output gradient."""
    value, shapes, locations, weights = case
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn(leaves[0], shapes, leaves[1], leaves[2], backend=backend)
    generator = torch.Generator().manual_seed(7)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, leaves, grad)


def errors(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[float]:
    """Largest difference of each tensor, relative to the expected one's largest magnitude."""
    return [
        float((got.double() - want.double()).abs().max() / want.abs().max().clamp(min=1e-30))
        for got, want in zip(found, expected, strict=True)
    ]
