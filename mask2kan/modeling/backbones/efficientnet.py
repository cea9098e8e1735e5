"""EfficientNet-Lite0 and MobileNetV2: timm's, at any width and depth.

Imports timm, which takes seconds; ``build.py`` imports this module only when it builds one.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.layers.helpers import make_divisible
from timm.layers.norm_act import BatchNormAct2d
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from mask2kan import ops
from mask2kan.ops.batch_norm import batch_norm

STEM = 32  # channels of the stem at full width


def build(
    stages: tuple[tuple[int, int, int, int], ...],
    depths: tuple[int, ...],
    width: int,
    epsilon: float,
) -> tuple[nn.Module, list[int]]:
    """Build with random weights and any depths (timm's ``create_model`` has fixed ones).

    Args:
        stages: kernel, stride, expansion and channels of every stage.
        depths: blocks of every stage.
        width: channels of the stem; those of the stages are in proportion.
        epsilon: of the batch norms.

    Returns:
        As ``build_backbone``.
    """
    backbone = EfficientNetFeatures(
        block_args=[_stage(depth, *stage) for stage, depth in zip(stages, depths, strict=True)],
        out_indices=(1, 2, 3, 4),
        stem_size=STEM,
        # A stride-2 convolution pads right and below only, as the pretrained weights expect.
        pad_type="same",
        act_layer=ReLU6,
        norm_layer=lambda channels, **options: NormReLU6(channels, **options, eps=epsilon),
        round_chs_fn=lambda channels: make_divisible(channels * width / STEM),
    )
    return backbone, list(backbone.feature_info.channels())


def _stage(
    depth: int, kernel: int, stride: int, expansion: int, channels: int
) -> list[dict[str, Any]]:
    """Describe the blocks of a stage to timm, which changes the dictionaries it gets."""
    block = {"dw_kernel_size": kernel, "stride": stride, "out_chs": channels, "act_layer": None}
    if expansion == 1:
        return [{"block_type": "ds", **block} for _ in range(depth)]
    return [{"block_type": "ir", "exp_ratio": float(expansion), **block} for _ in range(depth)]


class ReLU6(nn.ReLU6):
    """In place only without gradients: autograd would copy the input beforehand."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return nn.functional.relu6(x, inplace=self.inplace and not x.requires_grad)


class NormReLU6(BatchNormAct2d):
    """Batch norm and the ReLU6 after it, if any; one fused kernel in training on a CPU."""

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, act_layer=ReLU6, **options)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if not self._can_fuse(x):
            return cast(Tensor, super().forward(x))
        clipped = not isinstance(self.act, nn.Identity)
        y, mean, variance = batch_norm(
            x, self.weight, self.bias, epsilon=self.eps, high=6.0 if clipped else 0.0
        )
        count = x.numel() / x.shape[1]
        unbiased = variance * (count / (count - 1))
        assert self.momentum is not None  # timm's blocks never choose a cumulative average
        with torch.no_grad():
            for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
                assert running is not None
                running.lerp_(batch.to(running.dtype), self.momentum)
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
