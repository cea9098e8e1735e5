"""The model: backbone, pixel decoder, transformer decoder, as in the thesis's Figure 2.3.

Departure: nothing is frozen here and nothing depends on training.

Legend: B batch, H W image size, Q queries, K classes, C channels.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mask2kan.errors import ConfigError
from mask2kan.modeling.backbones import (
    FULL_PRECISION_BACKBONES,
    build_backbone,
    load_pretrained_backbone,
)
from mask2kan.modeling.backbones.swin import WindowAttention
from mask2kan.modeling.classes import class_names_for, palette_for
from mask2kan.modeling.config import ModelConfig, model_config, model_names
from mask2kan.modeling.pixel_decoder import Features, PixelDecoder
from mask2kan.modeling.settings import InferenceSettings
from mask2kan.modeling.transformer_decoder import DecoderOutput, TransformerDecoder
from mask2kan.runtime.precision import full_precision

STRIDE = 32  # images are padded to a multiple of this


class Mask2KAN(nn.Module):
    """Mask classification: every query is one mask and the class of what is under it.

    Attributes:
        calibration: per anomaly score, its range and thresholds; may be empty.
        settings: how the checkpoint's makers want it run; None where they do not say.
        card: the checkpoint's own account of data, licence and recipe.
        source: of the weights.
        format: of the checkpoint: ``native``, ``detectron2``, ``transformers``,
            ``mmsegmentation`` or empty.
        notes: what a user should know about how the checkpoint was read.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        self.calibration: dict[str, dict[str, Any]] = {}
        self.settings: InferenceSettings | None = None
        self.card: dict[str, Any] = {}
        self.source = ""
        self.format = ""
        self.notes: tuple[str, ...] = ()
        self.backbone, channels = build_backbone(config)
        self.full_precision_backbone = config.backbone in FULL_PRECISION_BACKBONES
        self.pixel_decoder = PixelDecoder(config, channels)
        self.transformer_decoder = TransformerDecoder(config)
        self.reset_constants()

    def reset_constants(self) -> None:
        """Compute what no checkpoint holds, after a construction on the meta device, too."""
        for name in ("pixel_mean", "pixel_std"):
            value = torch.tensor(getattr(self.config, name), dtype=torch.float32) / 255
            self.register_buffer(name, value[:, None, None], persistent=False)
        for module in self.backbone.modules():
            if isinstance(module, WindowAttention):
                module.reset_constants()

    def forward(self, images: Tensor, *, with_aux: bool = True) -> DecoderOutput:
        """Segment a batch of images.

        Args:
            images: (B, 3, H, W) float32 RGB in [0, 1], any H and W.
            with_aux: fill ``aux_outputs``: the learnable queries and every layer but the last.

        Returns:
            ``pred_logits`` (B, Q, K+1), ``pred_masks`` (B, Q, ceil32(H)/4, ceil32(W)/4) as logits,
            ``queries`` (B, Q, C) and ``aux_outputs``, a list of the same.
        """
        return self.decode(self.trunk(images), with_aux=with_aux)

    def trunk(self, images: Tensor) -> Features:
        """Run backbone and pixel decoder, which all heads share."""
        return cast(Features, self.pixel_decoder(self.backbone_maps(images)))

    def decode(self, features: Features, *, with_aux: bool = True) -> DecoderOutput:
        """Run transformer decoder and heads; see ``forward``."""
        return cast(DecoderOutput, self.transformer_decoder(features, with_aux=with_aux))

    def backbone_maps(self, images: Tensor) -> list[Tensor]:
        """Four (B, C_l, H_l, W_l) maps at 1/4, 1/8, 1/16 and 1/32 of the padded images."""
        self.require_full_precision()
        images = self._pad((images - self.pixel_mean) / self.pixel_std)
        with full_precision(images) if self.full_precision_backbone else contextlib.nullcontext():
            return cast(list[Tensor], self.backbone(images))

    def require_full_precision(self) -> None:
        """Refuse a model after ``.half()`` or ``.bfloat16()``, in which a KAN's knots collapse.

        Raises:
            ConfigError: with what to do instead.
        """
        dtype = self.pixel_mean.dtype
        if dtype in (torch.float16, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            raise ConfigError(
                f"The model's weights are {name}, and float32 was expected: half the bits are too "
                "few for a KAN's knots. Load it again without converting it, and choose the dtype "
                f'of the arithmetic with Predictor(dtype="{name}") or torch.autocast.'
            )

    def _pad(self, images: Tensor) -> Tensor:
        """Pad with zeros after normalising, right and below, as the originals do."""
        height, width = images.shape[-2:]
        return F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE))

    @property
    def device(self) -> torch.device:
        """The weights' device."""
        return self.pixel_mean.device

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        return self.config.class_names or class_names_for(self.config.num_classes)

    @property
    def palette(self) -> NDArray[np.uint8]:
        """(K, 3) uint8 RGB."""
        return np.array(self.config.palette or palette_for(self.class_names), dtype=np.uint8)


def list_models() -> list[str]:
    """List the names ``create_model`` takes."""
    return model_names()


def create_model(
    name: str, *, pretrained_backbone: str | Path | bool = False, **overrides: Any
) -> Mask2KAN:
    """Build a model by name, with random weights outside a pretrained backbone.

    Args:
        name: ``<family>_<backbone>``, e.g. ``mask2kan_swin_t``; see ``list_models()``.
        pretrained_backbone: a file of ImageNet weights, or True to download timm's.
        overrides: any field of ``ModelConfig``, e.g. ``num_classes=11, hidden_dim=128``.

    Raises:
        ConfigError: for an unknown name or field, or a value that does not fit.
        CheckpointError: when the backbone's weights cannot be read or do not fit.
    """
    model = Mask2KAN(model_config(name, **overrides))
    if pretrained_backbone:
        load_pretrained_backbone(model.backbone, model.config, pretrained_backbone)
    return model
