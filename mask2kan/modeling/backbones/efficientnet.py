"""EfficientNet-Lite0 and MobileNetV2: timm's, at any width and depth.

Imports timm, which takes seconds; ``build.py`` imports this module where one is asked for.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from mask2kan import ops
from mask2kan.ops.batch_norm import batch_norm

STEM = 32  # channels of either stem


def build(
    stages: tuple[str, ...], depths: tuple[int, ...], width: int, epsilon: float
) -> tuple[nn.Module, list[int]]:
    """Build with random weights.

    Args:
        stages: block arguments in timm's notation, with a place for the number of blocks.
        depths: that number, for every stage.
        width: channels of the stem; those of the stages are in proportion.
        epsilon: of the batch norms.

    Returns:
        As ``build_backbone``.
    """
    backbone = EfficientNetFeatures(
        block_args=decode_arch_def(
            [[stage.format(depth)] for stage, depth in zip(stages, depths, strict=True)]
        ),
        out_indices=(1, 2, 3, 4),
        stem_size=STEM,
        # A stride-2 convolution pads right and below only, as the pretrained weights expect.
        pad_type="same",
        act_layer=ReLU6,
        norm_layer=lambda channels, **options: NormReLU6(channels, **options, eps=epsilon),
        round_chs_fn=partial(round_channels, multiplier=width / STEM),
    )
    return backbone, list(backbone.feature_info.channels())


class ReLU6(nn.ReLU6):
    """In place only where no gradient is wanted: autograd would copy the input beforehand."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return nn.functional.relu6(x, inplace=self.inplace and not x.requires_grad)


class NormReLU6(BatchNormAct2d):
    """Batch norm and the ReLU6 behind it, if any; in training on a CPU one fused kernel."""

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, act_layer=ReLU6, **options)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of the norm's number of channels."""
        if not self._can_fuse(x):
            result: Tensor = super().forward(x)
            return result
        clipped = not isinstance(self.act, nn.Identity)
        y, mean, variance = batch_norm(
            x, self.weight, self.bias, epsilon=self.eps, high=6.0 if clipped else 0.0
        )
        count = x.numel() / x.shape[1]
        unbiased = variance * (count / (count - 1))
        assert self.momentum is not None  # timm's blocks never choose a cumulative average
        with torch.no_grad():
            for kept, measured in ((self.running_mean, mean), (self.running_var, unbiased)):
                assert kept is not None
                kept.lerp_(measured.to(kept.dtype), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return y

    def _can_fuse(self, x: Tensor) -> bool:
        return (
            self.training
            and torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype
            and x.dtype in (torch.float32, torch.float64)
            and x.is_contiguous(memory_format=torch.channels_last)
            and x.numel() > x.shape[1]
            and not torch.compiler.is_compiling()
            and ops.uses_numba(x.device)
        )
