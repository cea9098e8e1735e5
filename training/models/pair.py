"""A KAN model and an MLP model that share backbone and pixel decoder.

Their decoders differ in ``mask_embed`` alone: equal weights elsewhere at the start, the same crops
and points, and averaged losses, so the trunk favours neither. Training both costs about a tenth
more than one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from mask2kan.checkpoints import load_model
from mask2kan.errors import CheckpointError
from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.kan.layers import KAN
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.modeling.transformer_decoder import DecoderOutput, TransformerDecoder

KAN_HEAD, MLP_HEAD = HEADS = ("kan", "mlp")
KAN_OPTIONS = (
    *("grid_size", "spline_order", "grid_range", "base_activation"),
    *("standalone_spline_scale", "scale_noise", "scale_base", "kan_bias"),
)


class HeadPair(nn.Module):
    """A trunk with a KAN and an MLP decoder; by default a new one with the KAN's common weights."""

    def __init__(self, kan: Mask2KAN, mlp_decoder: TransformerDecoder | None = None) -> None:
        super().__init__()
        self.kan = kan
        self.mlp_config = as_mlp(kan.config)
        if mlp_decoder is None:
            mlp_decoder = TransformerDecoder(self.mlp_config)
            common = {
                key: value
                for key, value in kan.transformer_decoder.state_dict().items()
                if not key.startswith("mask_embed.")
            }
            mlp_decoder.load_state_dict(common, strict=False)
        self.mlp_decoder = mlp_decoder

    def forward(self, images: Tensor) -> dict[str, DecoderOutput]:
        """Predict (B, 3, H, W) images with both heads; the trunk runs once."""
        features = self.kan.trunk(images)
        return {KAN_HEAD: self.kan.decode(features), MLP_HEAD: self.mlp_decoder(features)}

    def mlp(self) -> Mask2KAN:
        """Assemble the MLP model from this one's own modules."""
        with torch.device("meta"):
            model = Mask2KAN(self.mlp_config)
        model.backbone, model.pixel_decoder = self.kan.backbone, self.kan.pixel_decoder
        model.transformer_decoder = self.mlp_decoder
        model.pixel_mean, model.pixel_std = self.kan.pixel_mean, self.kan.pixel_std
        return model.train(self.training)


Trained = Mask2KAN | HeadPair
"""A model or a pair, as a run trains it."""


def members(model: Trained) -> dict[str, Mask2KAN]:
    """Return the models by subfolder of the run; a single one lies in the run folder itself."""
    if isinstance(model, HeadPair):
        return {KAN_HEAD: model.kan, MLP_HEAD: model.mlp()}
    return {"": model}


def lead(model: Trained) -> Mask2KAN:
    """Return the model whose trunk is trained."""
    return model.kan if isinstance(model, HeadPair) else model


def decoders(model: Trained) -> dict[str, TransformerDecoder]:
    """Return the decoders, by the names of ``members``."""
    if isinstance(model, HeadPair):
        return {KAN_HEAD: model.kan.transformer_decoder, MLP_HEAD: model.mlp_decoder}
    return {"": model.transformer_decoder}


def kan_head(model: Trained) -> tuple[str, KAN] | None:
    """Return the KAN ``mask_embed`` and its module name; None where there is none."""
    for name, module in model.named_modules():
        if isinstance(module, KAN):
            return name, module
    return None


def as_mlp(config: ModelConfig) -> ModelConfig:
    """Return the configuration that differs from a KAN model's in ``mask_embed`` alone."""
    return dataclasses.replace(config, mask_embed="mlp")


def load_pair(folder: str | Path) -> HeadPair:
    """Load ``kan`` and ``mlp`` models of a run's or any folder, or two checkpoints (``a + b``).

    Raises:
        CheckpointError: when one is missing, or they differ in more than ``mask_embed``.
    """
    sources: list[str | Path] = list(str(folder).split(" + "))
    if len(sources) != len(HEADS):
        files = [Path(folder) / f"{name}.safetensors" for name in HEADS]
        sources = [file if file.is_file() else file.with_suffix("") for file in files]
    kan, mlp = (load_model(source, device="cpu") for source in sources)
    if (kan.config.mask_embed, mlp.config.mask_embed) != HEADS:
        raise CheckpointError(
            f"{folder} names models with mask heads {kan.config.mask_embed} and "
            f"{mlp.config.mask_embed}; expected the KAN model first and the MLP model second."
        )
    kan_options = {name: getattr(kan.config, name) for name in KAN_OPTIONS}  # an MLP reads none
    if as_mlp(kan.config) != dataclasses.replace(as_mlp(mlp.config), **kan_options):
        raise CheckpointError(
            f"{folder} names models that differ in more than mask_embed; expected a pair as a "
            "joint run leaves it."
        )
    for part in ("backbone", "pixel_decoder"):
        ours, theirs = (model.get_submodule(part).state_dict() for model in (kan, mlp))
        same = ours.keys() == theirs.keys()
        if not same or any(not torch.equal(ours[key], theirs[key]) for key in ours):
            raise CheckpointError(
                f"{folder} holds two models whose {part} differs; expected a pair with one trunk, "
                "as a joint run leaves it."
            )
    return HeadPair(kan, mlp.transformer_decoder)
