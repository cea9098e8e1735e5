"""The pixel decoder: multi-scale deformable attention over 1/32, 1/16 and 1/8, then 1/4 by FPN.

Sources: Zhu et al., ICLR 2021 (deformable attention); Cheng et al., CVPR 2022 (this use of it).
Departure: the originals' validity masks are left out; without padding inside a batch they are
all ones.

Legend: B batch, C channels, S positions of all levels, L levels, M heads, P points.
Axis order: ``spatial_shapes`` (H, W); ``sampling_locations`` (x, y) in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mask2kan.config import ModelConfig
from mask2kan.ops import ms_deform_attn
from mask2kan.position_encoding import sine_position_encoding

NUM_LEVELS = 3
NORM_GROUPS = 32

SpatialShapes = list[tuple[int, int]]


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
        """Start with head m looking in direction m, point p at p + 1 pixels, all weights equal."""
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

    def forward(
        self, query: Tensor, reference_points: Tensor, memory: Tensor, spatial_shapes: SpatialShapes
    ) -> Tensor:
        """Gather from ``memory`` around every query's own position.

        Args:
            query: (B, S, C), what decides where to look and how much.
            reference_points: (S, 2) float32, (x, y) in [0, 1].
            memory: (B, S, C), what is gathered.
            spatial_shapes: (H, W) of each level.

        Returns:
            (B, S, C).
        """
        per_head = (self.num_heads, NUM_LEVELS, self.num_points)
        value = self.value_proj(memory).unflatten(-1, (self.num_heads, -1))
        # Pixels to [0, 1]; in float32 always, bfloat16 locations would be a quarter pixel off.
        size_xy = torch.tensor(
            [(width, height) for height, width in spatial_shapes],
            dtype=torch.float32,
            device=query.device,
        )
        offsets = (
            self.sampling_offsets(query).unflatten(-1, (*per_head, 2)).to(reference_points.dtype)
        )
        sampling_locations = reference_points[:, None, None, None, :] + offsets / size_xy[:, None]
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1))
        attention_weights = weights.softmax(dim=-1).unflatten(-1, per_head[1:])
        gathered = ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights)
        result: Tensor = self.output_proj(gathered)
        return result


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

    def forward(
        self, memory: Tensor, pos: Tensor, reference_points: Tensor, spatial_shapes: SpatialShapes
    ) -> Tensor:
        """(B, S, C) to (B, S, C); ``pos`` is (1, S, C), added to the queries only."""
        gathered = self.self_attn(memory + pos, reference_points, memory, spatial_shapes)
        memory = self.norm1(memory + gathered)
        result: Tensor = self.norm2(memory + self.linear2(F.relu(self.linear1(memory))))
        return result


class PixelDecoder(nn.Module):
    """Backbone maps in, three refined levels and the mask features out."""

    def __init__(self, config: ModelConfig, in_channels: list[int]) -> None:
        """Build.

        Args:
            config: sizes and counts.
            in_channels: of the backbone's maps at 1/4, 1/8, 1/16, 1/32.
        """
        super().__init__()
        channels = config.hidden_dim
        groups = math.gcd(NORM_GROUPS, channels)
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
            nn.ReLU(),
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

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Refine the backbone's maps.

        Args:
            features: four (B, C_l, H_l, W_l) maps at 1/4, 1/8, 1/16, 1/32.

        Returns:
            mask_features (B, C, H/4, W/4), and three (B, C, H_l, W_l) levels at 1/32, 1/16, 1/8.
        """
        quarter, *coarser = features
        maps = [
            project(feature)
            for project, feature in zip(self.input_proj, reversed(coarser), strict=True)
        ]
        levels = self._encode(maps)
        finest = F.interpolate(
            levels[-1], size=quarter.shape[-2:], mode="bilinear", align_corners=False
        )
        merged = self.output_conv(self.lateral_conv(quarter) + finest)
        return self.mask_features(merged), levels

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        """Run the encoder layers over all levels at once."""
        spatial_shapes: SpatialShapes = [(level.shape[-2], level.shape[-1]) for level in maps]
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        pos = torch.cat(
            [
                sine_position_encoding(height, width, memory.shape[-1], memory.device)
                + self.level_embed[index]
                for index, (height, width) in enumerate(spatial_shapes)
            ],
            dim=1,
        )
        reference_points = torch.cat(
            [pixel_centres(height, width, memory.device) for height, width in spatial_shapes]
        )
        for layer in self.encoder_layers:
            memory = layer(memory, pos, reference_points, spatial_shapes)
        sizes = [height * width for height, width in spatial_shapes]
        return [
            level.transpose(1, 2).unflatten(2, shape)
            for level, shape in zip(memory.split(sizes, dim=1), spatial_shapes, strict=True)
        ]


def pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """(H·W, 2) float32: (x, y) of every pixel's centre in [0, 1], row-major."""
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1)
