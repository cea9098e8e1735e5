"""The model a run trains: built or loaded, with new parts, and only some of it learning."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mask2kan.checkpoints import load_model
from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import class_names_for, meanings_of
from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.heads import build_mask_embed
from mask2kan.modeling.mask2kan import Mask2KAN, create_model

from ..config.train_config import PARTS, TrainConfig
from ..data import LabelledImages, find_data, open_split
from ..data.mixture import Mixture
from ..data.unlabelled import PREFIX, UnlabelledImages
from .pair import KAN_OPTIONS, HeadPair, Trained, lead, load_pair

HEAD = "transformer_decoder.mask_embed"
HEADS = tuple(f"transformer_decoder.{part}" for part in PARTS)
HEAD_OPTIONS = ("mask_embed", "mask_embed_width", *KAN_OPTIONS)

logger = logging.getLogger(__name__)


def open_images(config: TrainConfig, split: str) -> LabelledImages:
    """Open a split of the run's data.

    Raises:
        ConfigError: when it is missing, or lacks labels it needs.
    """
    if not config.data.startswith(PREFIX):
        return open_split(config.data, split)
    if config.objective != "distillation":
        raise ConfigError(
            f"{config.data} has no labels, and {config.name} learns from labels; only "
            "distillation does without."
        )
    return UnlabelledImages(config.data.removeprefix(PREFIX), split)


def build_model(config: TrainConfig, images: LabelledImages, *, pretrained: bool) -> Trained:
    """Build the model before its first step, on the CPU, with the classes of ``images``.

    Args:
        config: of the run.
        images: the training split.
        pretrained: load ImageNet weights; a resumed run overwrites them anyway.

    Raises:
        ConfigError: when configuration, checkpoint and data do not fit together.
        CheckpointError: when ``init`` or the backbone's weights cannot be read.
    """
    model: Trained
    if config.heads and config.fresh:
        raise ConfigError(
            f"Recipe {config.name} trains two heads and fresh is {', '.join(config.fresh)}; a pair "
            "starts whole from --init, or without it from the beginning."
        )
    if config.heads and config.init:
        model = load_pair(config.init)
        # of the weights it starts from; they would make the KAN run otherwise than the MLP
        model.kan.calibration, model.kan.settings, model.kan.card = {}, None, {}
        _require_classes(lead(model).class_names, images, config)
    elif config.init:
        model = _from_checkpoint(config, images)
    else:
        model = _from_scratch(config, images, pretrained=pretrained)
        model = HeadPair(model) if config.heads else model
    if not config.full_precision_backbone:
        lead(model).full_precision_backbone = False
    choose_trainable(model, config.trainable)
    if not config.train_batch_norm:
        for norm in _batch_norms(model):
            norm.requires_grad_(False)
    if config.objective == "distillation":
        lead(model).transformer_decoder.class_embed.requires_grad_(False)
    return model


def _from_scratch(config: TrainConfig, images: LabelledImages, *, pretrained: bool) -> Mask2KAN:
    if config.trainable == "heads" or config.objective == "distillation" or config.fresh:
        raise ConfigError(
            f"Recipe {config.name} starts from a checkpoint; name it with --init (a file, a "
            "bundled name or a Hub repository)."
        )
    options = dict(config.model_options)
    if "num_classes" not in options:
        options |= _classes_of(images)
    names = tuple(options.get("class_names") or class_names_for(int(options["num_classes"])))
    _require_classes(names, images, config)
    weights: Path | bool = False
    if pretrained and config.pretrained_backbone not in ("", "random"):
        weights = _backbone_weights(config.pretrained_backbone)
    return create_model(config.model, pretrained_backbone=weights, **options)


def _backbone_weights(name: str) -> Path | bool:
    """Return the file of ImageNet weights, or True for timm's."""
    if name == "timm":
        return True
    try:
        return find_data(name)
    except ConfigError as error:
        raise ConfigError(
            f"The backbone's ImageNet weights are not here. {error} Or choose "
            "--set pretrained_backbone=timm, which downloads timm's, or random."
        ) from error


def _from_checkpoint(config: TrainConfig, images: LabelledImages) -> Mask2KAN:
    model = load_model(config.init, device="cpu")
    options = {key: value for key, value in config.model_options.items() if key in HEAD_OPTIONS}
    changed = model.config
    if "mask_embed" in config.fresh:
        changed = dataclasses.replace(changed, **options)
    elif any(getattr(changed, key) != value for key, value in options.items()):
        raise ConfigError(
            f"{config.init} has mask_embed={changed.mask_embed!r} and the run asks for {options}; "
            "add mask_embed to fresh to make it anew."
        )
    if "class_embed" in config.fresh:
        changed = dataclasses.replace(changed, **_classes_of(images))
    if config.objective == "segmentation":
        names = changed.class_names or class_names_for(changed.num_classes)
        _require_classes(names, images, config)
    model.config = changed
    decoder = model.transformer_decoder
    if "mask_embed" in config.fresh:
        decoder.mask_embed = build_mask_embed(changed)
    if "class_embed" in config.fresh:
        decoder.class_embed = nn.Linear(changed.hidden_dim, changed.num_classes + 1)
    model.calibration = {}  # measured on weights that are about to change
    model.card = {}
    logger.info(
        "starting from %s; made anew: %s", config.init, ", ".join(config.fresh) or "nothing"
    )
    return model


def _classes_of(images: LabelledImages) -> dict[str, Any]:
    return {
        "num_classes": images.num_classes,
        "class_names": tuple(images.class_names),
        "palette": tuple(images.palette),
    }


def _require_classes(names: tuple[str, ...], images: LabelledImages, config: TrainConfig) -> None:
    if len(names) == images.num_classes or meanings_of(tuple(images.class_names), names):
        return
    hint = "add class_embed to fresh" if config.init else "leave model.num_classes unset"
    raise ConfigError(
        f"The model has {len(names)} classes and {config.data} has {images.num_classes}; they "
        f"must be equal: {hint}, or train on other data."
    )


def in_classes_of(model: Trained, images: LabelledImages) -> LabelledImages:
    """Label images in a model's classes, with groups where theirs are coarser."""
    names = lead(model).class_names
    if not meanings_of(tuple(images.class_names), names):
        return images
    palette = tuple((int(r), int(g), int(b)) for r, g, b in lead(model).palette)
    return Mixture([(1.0, images)], (names, palette))


def choose_trainable(model: Trained, which: str) -> None:
    """Set ``requires_grad``: ``which`` is ``all``, ``frozen_backbone`` or ``heads``."""
    model.requires_grad_(which != "heads")
    if which == "frozen_backbone":
        lead(model).backbone.requires_grad_(False)
    if which == "heads":
        for name in HEADS:
            model.get_submodule(name).requires_grad_(True)


def training_mode(model: Trained, which: str, *, batch_norm: bool) -> None:
    """Set train mode on what learns, evaluation mode on the rest.

    Without ``batch_norm`` no batch norm updates its statistics.
    """
    model.train(which != "heads")
    if which == "frozen_backbone":
        lead(model).backbone.eval()
    if which == "heads":
        for name in HEADS:
            model.get_submodule(name).train()
    if not batch_norm:
        for norm in _batch_norms(model):
            norm.eval()


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def head_parameters(config: ModelConfig) -> int:
    """Count the parameters of a configuration's mask head."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_mask_embed(config).parameters())


def equal_width(config: ModelConfig) -> int:
    """Return the hidden width that makes an MLP head as large as the KAN's [C, C, C].

    Of three layers, it has W² + (2C + 2)W + C parameters.
    """
    channels = config.hidden_dim
    parameters = head_parameters(dataclasses.replace(config, mask_embed="kan"))
    root = math.sqrt((channels + 1) ** 2 + parameters - channels)
    return max(1, round(root - (channels + 1)))
