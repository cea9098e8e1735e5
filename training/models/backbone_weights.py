"""ImageNet weights of a new backbone: a file on this machine, or timm's on the Hub."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from mask2kan.checkpoints.hub import fetch
from mask2kan.errors import CheckpointError, ConfigError
from mask2kan.modeling.backbones.pretrained import TIMM_WEIGHTS

from ..config.train_config import TrainConfig
from ..data.folders import data_places, find_data

TIMM = "timm"
# What recipes name, looked up like data; without the file, timm's weights do as well.
FILES = {
    "efficientnet_lite0": "backbones/tf_efficientnet_lite0_imagenet.safetensors",
    "mobilenetv2": "backbones/mobilenet_v2_imagenet.safetensors",
}

logger = logging.getLogger(__name__)


def with_weights_found(config: TrainConfig) -> TrainConfig:
    """Replace a recipe's file of backbone weights by ``timm`` where it is not on this machine."""
    name = config.pretrained_backbone
    if config.init or name != FILES.get(_backbone(config)):
        return config
    try:
        find_data(name)
    except ConfigError:
        return dataclasses.replace(config, pretrained_backbone=TIMM)
    return config


def backbone_weights(config: TrainConfig) -> Path:
    """Return the file of ImageNet weights, fetched first where it is timm's.

    Raises:
        ConfigError: when it is not there and cannot be fetched.
    """
    backbone, name = _backbone(config), config.pretrained_backbone
    if name != TIMM:
        try:
            return find_data(name)
        except ConfigError as error:
            raise ConfigError(
                f"The backbone's ImageNet weights are not here. {error} Or choose "
                "--set pretrained_backbone=timm, which downloads timm's, or none for random ones."
            ) from error
    repo = f"timm/{TIMM_WEIGHTS[backbone]}"
    file = FILES.get(backbone)
    try:
        logger.info("the backbone's ImageNet weights: %s, from the Hugging Face Hub", repo)
        folder, weights = fetch(repo, None, None)
    except CheckpointError as error:
        places = ", ".join(map(str, data_places()))
        absent = f"{file} is in none of {places} and " if file else ""
        reason = str(error.__cause__ or error).partition(". ")[0]
        raise ConfigError(
            f"The backbone's ImageNet weights are missing: {absent}{repo} of the Hugging Face Hub "
            f"cannot be fetched ({reason[:1].lower()}{reason[1:]}); connect to the network, or "
            "start from random weights with --set pretrained_backbone=none."
        ) from error
    return folder / weights


def _backbone(config: TrainConfig) -> str:
    return config.model.partition("_")[2]
