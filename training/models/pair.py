"""One trunk, two heads: a KAN model and an MLP model that share backbone and pixel decoder.

Trained together, the two transformer decoders differ in ``mask_embed`` alone: they start from equal
weights everywhere else, see the same crops and points, and their losses are averaged, so the trunk
favours neither. It costs about a tenth more than training one of them. Each is an ordinary model
with an ordinary checkpoint; a comparison of the two computes the trunk once.
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
    """A trunk with a KAN and an MLP decoder.

    Args:
        kan: the model with the KAN head; its trunk is the common one.
        mlp_decoder: the other decoder; None for a new one with the first's weights outside
            ``mask_embed``.

    Attributes:
        kan: the KAN model, whole.
        mlp_decoder: the MLP model's decoder.
        mlp_config: the MLP model's configuration.
    """

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
        """Both heads' predictions of (B, 3, H, W) images; the trunk runs once."""
        features = self.kan.trunk(images)
        return {KAN_HEAD: self.kan.decode(features), MLP_HEAD: self.mlp_decoder(features)}

    def mlp(self) -> Mask2KAN:
        """The MLP model, made of the very modules of this one."""
        with torch.device("meta"):
            model = Mask2KAN(self.mlp_config)
        model.backbone, model.pixel_decoder = self.kan.backbone, self.kan.pixel_decoder
        model.transformer_decoder = self.mlp_decoder
        model.pixel_mean, model.pixel_std = self.kan.pixel_mean, self.kan.pixel_std
        return model.train(self.training)


Trained = Mask2KAN | HeadPair
"""What a run trains."""


def members(model: Trained) -> dict[str, Mask2KAN]:
    """The models in it by the folder they are saved in; one alone lies in the run's own."""
    if isinstance(model, HeadPair):
        return {KAN_HEAD: model.kan, MLP_HEAD: model.mlp()}
    return {"": model}


def lead(model: Trained) -> Mask2KAN:
    """The model whose trunk is trained."""
    return model.kan if isinstance(model, HeadPair) else model


def decoders(model: Trained) -> dict[str, TransformerDecoder]:
    """The decoders, by the names of ``members``."""
    if isinstance(model, HeadPair):
        return {KAN_HEAD: model.kan.transformer_decoder, MLP_HEAD: model.mlp_decoder}
    return {"": model.transformer_decoder}


def kan_head(model: Trained) -> tuple[str, KAN] | None:
    """The KAN ``mask_embed`` and its name among the modules; None where there is none."""
    for name, module in model.named_modules():
        if isinstance(module, KAN):
            return name, module
    return None


def as_mlp(config: ModelConfig) -> ModelConfig:
    """The configuration of the model that differs from a KAN model in ``mask_embed`` alone."""
    return dataclasses.replace(config, mask_embed="mlp")


def load_pair(folder: str | Path) -> HeadPair:
    """The pair of a joint run's folder, or of any folder with ``kan`` and ``mlp`` models or files.

    Args:
        folder: of the two, or two checkpoints: ``mask2kan_road + mask2former_road``.

    Raises:
        CheckpointError: when one is missing, they are no KAN and MLP model that differ in nothing
            else, or their trunks are not the same.
    """
    sources: list[str | Path] = list(str(folder).split(" + "))
    if len(sources) != len(HEADS):
        files = [Path(folder) / f"{name}.safetensors" for name in HEADS]
        sources = [file if file.is_file() else file.with_suffix("") for file in files]
    kan, mlp = (load_model(source, device="cpu") for source in sources)
    mask_heads = (kan.config.mask_embed, mlp.config.mask_embed)
    if mask_heads != HEADS:
        raise CheckpointError(
            f"{folder} names models with mask heads {mask_heads[0]} and {mask_heads[1]}; expected "
            "the KAN model first and the MLP model second."
        )
    if as_mlp(kan.config) != as_mlp(_with_kan_options_of(kan.config, mlp.config)):
        raise CheckpointError(
            f"{folder} names models that differ in more than mask_embed; expected a pair as a "
            "joint run leaves it."
        )
    for part in ("backbone", "pixel_decoder"):
        ours, others = (model.get_submodule(part).state_dict() for model in (kan, mlp))
        same = ours.keys() == others.keys()
        if not same or any(not torch.equal(ours[key], others[key]) for key in ours):
            raise CheckpointError(
                f"{folder} holds two models whose {part} differs; expected a pair with one trunk, "
                "as a joint run leaves it."
            )
    return HeadPair(kan, mlp.transformer_decoder)


def _with_kan_options_of(kan: ModelConfig, mlp: ModelConfig) -> ModelConfig:
    """The MLP model's configuration with what only a KAN reads taken from the other."""
    return dataclasses.replace(mlp, **{name: getattr(kan, name) for name in KAN_OPTIONS})
