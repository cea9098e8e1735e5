"""Build the backbone of a configuration.

ResNet, MobileNetV2 and EfficientNet-Lite0 are timm's, with the reference's arithmetic (ResNet
strides in the 3x3 convolution, like detectron2's with ``STRIDE_IN_1X1: False``). Swin is our own:
timm's rolls before it pads, Mask2Former's pads before it rolls.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from mask2kan.errors import ConfigError
from mask2kan.modeling.backbones.swin import SwinTransformer
from mask2kan.modeling.config import ModelConfig

# Seven stages: kernel, stride, expansion, channels.
# MobileNetV2: Sandler et al., CVPR 2018, table 2.
MOBILENETV2_STAGES = (
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (3, 2, 6, 32),
    (3, 2, 6, 64),
    (3, 1, 6, 96),
    (3, 2, 6, 160),
    (3, 1, 6, 320),
)
# EfficientNet-Lite0: Tan and Le, ICML 2019, table 1; Lite has no squeeze and excitation, and ReLU6.
EFFICIENTNET_LITE0_STAGES = (
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (5, 2, 6, 40),
    (3, 2, 6, 80),
    (5, 1, 6, 112),
    (5, 2, 6, 192),
    (3, 1, 6, 320),
)
EFFICIENTNETS = {
    "efficientnet_lite0": (EFFICIENTNET_LITE0_STAGES, 1e-3),  # stages, epsilon of batch norms
    "mobilenetv2": (MOBILENETV2_STAGES, 1e-5),
}

# Depthwise convolutions gain nothing from bfloat16, and narrow bottlenecks lose the most accuracy.
FULL_PRECISION_BACKBONES = tuple(EFFICIENTNETS)


def build_backbone(config: ModelConfig) -> tuple[nn.Module, list[int]]:
    """Build the backbone with random weights.

    Returns:
        The module, (B, 3, H, W) to a list of four (B, C_l, H_l, W_l) maps, and the four C_l.

    Raises:
        ConfigError: for depths, heads or a window that do not fit the backbone.
    """
    stages = 7 if config.backbone in EFFICIENTNETS else 4
    if len(config.backbone_depths) != stages:
        raise ConfigError(
            f"backbone_depths has {len(config.backbone_depths)} entries; "
            f"{config.backbone} has {stages} stages."
        )
    if config.backbone == "r50":
        return _resnet(config)
    if config.backbone not in EFFICIENTNETS:
        return _swin(config)
    # Imported here, because timm takes seconds to import and the app's page need not wait for it.
    from mask2kan.modeling.backbones import efficientnet

    blocks, epsilon = EFFICIENTNETS[config.backbone]
    return efficientnet.build(blocks, config.backbone_depths, config.backbone_width, epsilon)


def _resnet(config: ModelConfig) -> tuple[nn.Module, list[int]]:
    import timm

    backbone: Any = timm.create_model(
        "resnet50",
        features_only=True,
        out_indices=(1, 2, 3, 4),
        layers=config.backbone_depths,
        channels=tuple(config.backbone_width * 2**stage for stage in range(4)),
    )
    return backbone, list(backbone.feature_info.channels())


def _swin(config: ModelConfig) -> tuple[nn.Module, list[int]]:
    if len(config.backbone_num_heads) != 4 or config.backbone_window_size < 1:
        raise ConfigError(
            f"{config.backbone} needs four backbone_num_heads and a backbone_window_size; "
            f"found {config.backbone_num_heads} and {config.backbone_window_size}."
        )
    backbone = SwinTransformer(
        embed_dim=config.backbone_width,
        depths=config.backbone_depths,
        num_heads=config.backbone_num_heads,
        window_size=config.backbone_window_size,
        drop_path=config.backbone_drop_path,
    )
    return backbone, backbone.channels
