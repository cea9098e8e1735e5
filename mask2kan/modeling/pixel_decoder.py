"""The pixel decoder: multi-scale deformable attention over 1/32, 1/16 and 1/8, then 1/4 by FPN.

Sources: Zhu et al., ICLR 2021 (deformable attention); Cheng et al., CVPR 2022 (this use of it).
Departure: the originals' validity masks are left out; without padding inside a batch they are
all ones.

Legend: B batch, C channels, S positions of all levels, L levels, M heads, P points.
Axis order: ``spatial_shapes`` (H, W); ``sampling_locations`` (x, y) in [0, 1].
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.position_encoding import sine_position_encoding
from mask2kan.ops import ms_deform_attn
from mask2kan.runtime.chunking import in_strips
from mask2kan.runtime.precision import as_parameters, as_products, full_precision_on_cpu

NUM_LEVELS = 3
NORM_GROUPS = 32

SpatialShapes = list[tuple[int, int]]


class Features(NamedTuple):
    """The trunk's output: what backbone and pixel decoder make of a batch of images."""

    mask_features: Tensor  # (B, C, h, w) at 1/4 of the padded images
    levels: list[Tensor]  # three (B, C, H_l, W_l) maps at 1/32, 1/16 and 1/8


class MSDeformAttn(nn.Module):
    """Each position gathers P points on each of L levels, for each of M heads."""

    def __init__(self, channels: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_points = num_points
        samples = num_heads * NUM_LEVELS * num_points
        self.sampling_offsets = nn.Linear(channels, samples * 2)
        self.attention_weights = nn.Linear(channels, samples)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Start with head m pointing in direction m, point p at p + 1 pixels, weights equal."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.attention_weights.bias)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None, :] * distance[:, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, NUM_LEVELS, -1, -1).flatten())
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, grid: SamplingGrid, memory: Tensor) -> Tensor:
        """Gather from ``memory`` around every query's own position on the grid: all (B, S, C)."""
        per_head = (self.num_heads, NUM_LEVELS, self.num_points)
        value = self.value_proj(memory).unflatten(-1, (self.num_heads, -1))
        with full_precision_on_cpu(query):
            query = as_products(query)
            offsets = self.sampling_offsets(query)
            scores = self.attention_weights(query)
        # In float32 always: bfloat16 locations would be a quarter pixel off.
        locations = torch.addcmul(grid.centres, offsets.to(grid.centres.dtype), grid.pixel)
        weights = softmax_of_few(scores.unflatten(-1, (self.num_heads, -1)))
        gathered = ms_deform_attn(
            value,
            grid.spatial_shapes,
            locations.unflatten(-1, (*per_head, 2)),
            weights.unflatten(-1, per_head[1:]),
        )
        return cast(Tensor, self.output_proj(gathered))


def softmax_of_few(scores: Tensor) -> Tensor:
    """Apply softmax over a short last axis, for which torch's own is slow on a CPU."""
    if scores.device.type != "cpu":
        return scores.softmax(dim=-1)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    powers = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each with residual and norm after."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.hidden_dim
        self.self_attn = MSDeformAttn(channels, config.num_heads, config.num_points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, config.encoder_feedforward_dim)
        self.linear2 = nn.Linear(config.encoder_feedforward_dim, channels)
        self.norm2 = nn.LayerNorm(channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, memory: Tensor, pos: Tensor, grid: SamplingGrid) -> Tensor:
        """(B, S, C) to (B, S, C); ``pos`` is (1, S, C), added to the queries only."""
        gathered = self.self_attn(memory + pos, grid, memory)
        memory = self.norm1(memory + gathered)
        fed = in_strips(self._feed_forward, memory.flatten(0, 1), widest=self.linear1.out_features)
        return fed.view_as(memory)

    def _feed_forward(self, memory: Tensor) -> Tensor:
        return cast(Tensor, self.norm2(memory + self.linear2(self.linear1(memory).relu_())))


class PixelDecoder(nn.Module):
    """Backbone maps in, three refined levels and the mask features out."""

    def __init__(self, config: ModelConfig, in_channels: list[int]) -> None:
        """Build for backbone maps of these channels, at 1/4, 1/8, 1/16 and 1/32."""
        super().__init__()
        channels = config.hidden_dim
        groups = math.gcd(NORM_GROUPS, channels)
        self.num_heads = config.num_heads
        self.num_points = config.num_points
        quarter, *coarser = in_channels
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, channels, 1), nn.GroupNorm(groups, channels))
            for count in reversed(coarser)
        )
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, channels))
        self.encoder_layers = nn.ModuleList(
            EncoderLayer(config) for _ in range(config.num_encoder_layers)
        )
        self.lateral_conv = nn.Sequential(
            nn.Conv2d(quarter, channels, 1, bias=False), nn.GroupNorm(groups, channels)
        )
        self.output_conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, channels),
            nn.ReLU(inplace=True),
        )
        self.mask_features = nn.Conv2d(channels, channels, 1)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for part in (self.input_proj, self.lateral_conv, self.output_conv, self.mask_features):
            for conv in part.modules():
                if not isinstance(conv, nn.Conv2d):
                    continue
                if part is self.input_proj:
                    nn.init.xavier_uniform_(conv.weight)
                else:
                    nn.init.kaiming_uniform_(conv.weight, a=1)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, maps: list[Tensor]) -> Features:
        """Refine the backbone's four (B, C_l, H_l, W_l) maps at 1/4, 1/8, 1/16 and 1/32."""
        quarter, *coarser = maps
        levels = self._encode(self._project(coarser))
        size = quarter.shape[-2:]
        finest = F.interpolate(levels[-1], size=size, mode="bilinear", align_corners=False)
        # in place, like the ReLU after it: these maps are the largest of the forward pass
        merged = self.output_conv(self.lateral_conv(quarter).add_(finest))
        return Features(self.mask_features(merged), levels)

    def _project(self, coarser: list[Tensor]) -> list[Tensor]:
        """Project to (B, C, H_l, W_l) maps, coarse to fine."""
        with full_precision_on_cpu(coarser[0]):
            return [
                project(as_parameters(feature, self.level_embed))
                for project, feature in zip(self.input_proj, reversed(coarser), strict=True)
            ]

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        """Run the encoder layers over all levels at once."""
        spatial_shapes: SpatialShapes = [(level.shape[-2], level.shape[-1]) for level in maps]
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        # under autocast too, what the layers add to is not rounded
        memory = memory.to(self.level_embed.dtype)
        pos = torch.cat(
            [
                sine_position_encoding(height, width, memory.shape[-1], memory.device)
                + self.level_embed[index]
                for index, (height, width) in enumerate(spatial_shapes)
            ],
            dim=1,
        )
        grid = sampling_grid(spatial_shapes, self.num_heads, self.num_points, memory.device)
        for layer in self.encoder_layers:
            memory = layer(memory, pos, grid)
        sizes = [height * width for height, width in spatial_shapes]
        return [
            level.transpose(1, 2).unflatten(2, shape)
            for level, shape in zip(memory.split(sizes, dim=1), spatial_shapes, strict=True)
        ]


class SamplingGrid(NamedTuple):
    """The encoder's queries' positions, laid out like the result of ``sampling_offsets``."""

    spatial_shapes: SpatialShapes
    centres: Tensor  # (S, M·L·P·2) float32, every query's own (x, y) in [0, 1], once per sample
    pixel: Tensor  # (M·L·P·2) float32, one pixel of each sample's level in [0, 1]


def sampling_grid(
    spatial_shapes: SpatialShapes, num_heads: int, num_points: int, device: torch.device
) -> SamplingGrid:
    """Lay out what all encoder layers share; long rows keep their arithmetic vectorised."""
    centres = torch.cat([pixel_centres(height, width, device) for height, width in spatial_shapes])
    # Filled in place: a tensor made of Python numbers would be copied to a GPU, which waits.
    pixel = torch.empty(len(spatial_shapes), 2, dtype=torch.float32, device=device)
    for level, (height, width) in enumerate(spatial_shapes):
        pixel[level, 0].fill_(1 / width)
        pixel[level, 1].fill_(1 / height)
    per_head = pixel[:, None].expand(-1, num_points, -1).flatten()
    samples = num_heads * len(spatial_shapes) * num_points
    return SamplingGrid(spatial_shapes, centres.repeat(1, samples), per_head.repeat(num_heads))


def pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """Return (x, y) of every pixel's centre in [0, 1]: (H·W, 2) float32, row-major."""
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1)
