"""Backbones: from images to four feature maps, at 1/4, 1/8, 1/16 and 1/32."""

from mask2kan.modeling.backbones.build import FULL_PRECISION_BACKBONES, build_backbone
from mask2kan.modeling.backbones.pretrained import load_pretrained_backbone

__all__ = ["FULL_PRECISION_BACKBONES", "build_backbone", "load_pretrained_backbone"]
