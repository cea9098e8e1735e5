"""The model a run trains: built or loaded, with new parts, and only some of it learning."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mask2kan.checkpoints import load_model
from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import are_unnamed, class_names_for, meanings_of
from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.heads import build_mask_embed
from mask2kan.modeling.mask2kan import Mask2KAN, create_model

from ..config.train_config import PARTS, TrainConfig
from ..data import LabelledImages, open_split
from ..data.label_space import require_classes
from ..data.mixture import Mixture
from ..data.unlabelled import PREFIX, UnlabelledImages
from .backbone_weights import backbone_weights
from .pair import KAN_OPTIONS, HeadPair, Trained, lead, load_pair

HEAD = "transformer_decoder.mask_embed"
HEADS = tuple(f"transformer_decoder.{part}" for part in PARTS)
STATED = "model.class_names"
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
    stated = config.model_options.get("class_names")
    if stated and config.objective == "segmentation":
        _require_classes(tuple(stated), images, config, holder=STATED)
    if config.heads and (config.fresh or config.own_classes):
        fresh = ", ".join(config.fresh) or "class_embed (own_classes)"
        raise ConfigError(
            f"Recipe {config.name} trains two heads and fresh is {fresh}; a pair starts whole from "
            "--init, or without it from the beginning."
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
    needs = config.trainable == "heads" or config.objective == "distillation"
    if needs or config.fresh or config.own_classes:
        raise ConfigError(
            f"Recipe {config.name} starts from a checkpoint; name it with --init (a file, a "
            "bundled name or a Hub repository)."
        )
    options = _with_classes(config.model_options, images)
    names = tuple(options.get("class_names") or class_names_for(int(options["num_classes"])))
    _require_classes(names, images, config, holder="the new model")
    weights = backbone_weights(config) if pretrained and config.pretrained else False
    return create_model(config.model, pretrained_backbone=weights, **options)


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
    segmentation = config.objective == "segmentation"
    other_classes = config.own_classes and model.class_names != tuple(images.class_names)
    asked = {*config.fresh, *(["class_embed"] if other_classes else [])}
    fresh = [part for part in PARTS if part in asked]
    if segmentation and "class_embed" not in fresh:
        _require_classes(model.class_names, images, config, holder=config.init)
    unnamed = are_unnamed(model.class_names) and len(model.class_names) == images.num_classes
    if "class_embed" in fresh or (segmentation and unnamed):
        changed = dataclasses.replace(changed, **_classes_of(images))
    model.config = changed
    decoder = model.transformer_decoder
    if "mask_embed" in fresh:
        decoder.mask_embed = build_mask_embed(changed)
    if "class_embed" in fresh:
        decoder.class_embed = nn.Linear(changed.hidden_dim, changed.num_classes + 1)
    model.calibration = {}  # measured on weights that are about to change
    model.card = {}
    if other_classes:
        model.settings = None  # sizes and smoothing that suited the other classes
    logger.info("starting from %s; made anew: %s", config.init, ", ".join(fresh) or "nothing")
    return model


def _with_classes(options: Mapping[str, Any], images: LabelledImages) -> dict[str, Any]:
    """Complete a new model's options: its classes are the data's unless they are stated."""
    stated = options.get("class_names")
    count = options.get("num_classes") or len(stated or images.class_names)
    if stated or count != images.num_classes:
        return {**options, "num_classes": count}
    return {**_classes_of(images), **options}


def _classes_of(images: LabelledImages) -> dict[str, Any]:
    return {
        "num_classes": images.num_classes,
        "class_names": tuple(images.class_names),
        "palette": tuple(images.palette),
    }


def _require_classes(
    names: tuple[str, ...],
    images: LabelledImages,
    config: TrainConfig,
    holder: str = "the checkpoint",
) -> None:
    if config.init and config.heads:
        advice = "Start the pair without --init, or train on other data."
    elif config.init and holder != STATED:
        advice = "Make class_embed anew (--set own_classes=true), or train on other data."
    else:
        advice = (
            "Leave the classes to the data (--set model.num_classes=none "
            "--set model.class_names=none), or train on other data."
        )
    data = tuple(images.class_names)
    require_classes(names, data, holder=holder, data=config.data, advice=advice)


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
