"""Start a backbone from published ImageNet weights.

Layouts: torchvision's MobileNetV2, timm's names, and the official Swin releases (without the four
output norms, which keep their initial values).
"""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mask2kan.errors import CheckpointError
from mask2kan.modeling.config import ModelConfig

logger = logging.getLogger(__name__)

_UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError)

# timm's names of the weights that ``pretrained_backbone=True`` downloads
TIMM_WEIGHTS = {
    "efficientnet_lite0": "tf_efficientnet_lite0.in1k",
    "mobilenetv2": "mobilenetv2_100.ra_in1k",
    "r50": "resnet50.tv_in1k",
    "swin_t": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin_s": "swin_small_patch4_window7_224.ms_in1k",
    "swin_b": "swin_base_patch4_window12_384.ms_in22k",
    "swin_l": "swin_large_patch4_window12_384.ms_in22k",
}

# Parameters that only a classifier has, and buffers that Swin computes by itself
LEFTOVER = re.compile(
    r"^(head|fc|classifier|conv_head|bn2|norm|features\.18)\.|relative_position_index$|attn_mask$"
)
# Parameters that only a backbone has
OWN = re.compile(r"^norm[0-3]\.|num_batches_tracked$")


def load_pretrained_backbone(
    backbone: nn.Module, config: ModelConfig, source: str | Path | bool
) -> None:
    """Load a .safetensors or .pth file, or timm's weights for True, into a backbone.

    Raises:
        CheckpointError: when the file cannot be read or is of another backbone.
    """
    if source is True:
        import timm

        name = TIMM_WEIGHTS[config.backbone]
        state = timm.create_model(name, pretrained=True).state_dict()
        origin = f"timm's {name}"
    else:
        state = _read(Path(str(source)))
        origin = str(source)
    if "features.0.0.weight" in state:
        state = {_from_torchvision(key, config): value for key, value in state.items()}
    elif config.backbone.startswith("swin") and "layers.0.downsample.norm.weight" not in state:
        state = {_from_timm_swin(key): value for key, value in state.items()}
    target = backbone.state_dict()
    missing = [key for key in target if key not in state and not OWN.search(key)]
    unknown = [key for key in state if key not in target and not LEFTOVER.search(key)]
    misshaped = [key for key in state if key in target and state[key].shape != target[key].shape]
    if missing or unknown or misshaped:
        raise CheckpointError(
            f"{origin} does not fit backbone {config.backbone}: {len(missing)} keys missing "
            f"{missing[:3]}, {len(unknown)} unknown {unknown[:3]}, {len(misshaped)} of another "
            f"shape {misshaped[:3]}."
        )
    backbone.load_state_dict(state, strict=False)
    logger.info("backbone %s starts from %s", config.backbone, origin)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"No backbone weights at {path}: the file does not exist.")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(f"Can't read backbone weights {path}: {error}.") from error
    state: dict[str, Tensor] = loaded.get("model", loaded.get("state_dict", loaded))
    return {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }


def _from_torchvision(key: str, config: ModelConfig) -> str:
    """Rename MobileNetV2's ``features.{i}.conv.…`` to timm's ``blocks.{stage}.{block}.…``."""
    for old, new in (("features.0.0.", "conv_stem."), ("features.0.1.", "bn1.")):
        if key.startswith(old):
            return new + key[len(old) :]
    match = re.match(r"features\.(\d+)\.conv\.(\d+\.\d+|\d+)\.(\w+)$", key)
    if match is None:
        return key
    stage, block = 0, int(match[1]) - 1
    while stage < len(config.backbone_depths) and block >= config.backbone_depths[stage]:
        block -= config.backbone_depths[stage]
        stage += 1
    if stage == 0:
        names = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    else:
        names = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2"}
        names |= {"2": "conv_pwl", "3": "bn3"}
    return f"blocks.{stage}.{block}.{names.get(match[2], match[2])}.{match[3]}"


def _from_timm_swin(key: str) -> str:
    """Move patch merging from the start of a stage (timm) to the end of the one before."""
    match = re.match(r"layers\.(\d)\.downsample\.(.*)$", key)
    return f"layers.{int(match[1]) - 1}.downsample.{match[2]}" if match else key
