"""mask_embed: from a decoded query to the vector that is compared with every pixel.

Only here do Mask2KAN and Mask2Former differ: both heads map (…, C) to (…, C), the MLP with three
linear layers (Mask2Former), the KAN with two KAN layers (the thesis).
"""

from __future__ import annotations

import itertools
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.kan.layers import KAN


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, layer_sizes: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(layer_sizes)
        )

    def forward(self, queries: Tensor) -> Tensor:
        """(…, layer_sizes[0]) to (…, layer_sizes[-1])."""
        *hidden, last = self.layers
        for layer in hidden:
            queries = F.relu(layer(queries))
        return cast(Tensor, last(queries))


def build_mask_embed(config: ModelConfig) -> nn.Module:
    """Build the head of a configuration: (B, Q, C) to (B, Q, C)."""
    size = config.hidden_dim
    if config.mask_embed == "mlp":
        width = config.mask_embed_width or size
        return MLP([size, width, width, size])
    return KAN(
        [size] * 3,
        grid_size=config.grid_size,
        spline_order=config.spline_order,
        grid_range=config.grid_range,
        base_activation=config.base_activation,
        standalone_spline_scale=config.standalone_spline_scale,
        scale_noise=config.scale_noise,
        scale_base=config.scale_base,
        bias=config.kan_bias,
    )


def shared_weights(mask_embed: nn.Module) -> dict[str, list[Tensor]]:
    """Compute what depends on a head's weights alone, as arguments for several calls of it."""
    return {"weights": mask_embed.edge_weights()} if isinstance(mask_embed, KAN) else {}
