"""Checkpoints of Mask2Former, Mask2KAN and Mask2Anomaly as detectron2 saves them.

Source of the names: the modules of facebookresearch/Mask2Former and shyam671/Mask2Anomaly; older
files lack ``pixel_decoder.`` or say ``static_query`` for ``query_feat``.
"""

from __future__ import annotations

import math
import re
from typing import Any

from mask2kan.checkpoints.infer_config import Checkpoint, StateDict, infer_config, rename_keys
from mask2kan.errors import CheckpointError

# Not weights of the model: the loss's, a layer Mask2Anomaly never calls, and what Swin computes
LEFTOVER = re.compile(
    r"^criterion\.|\.fusion_layer\.|\.relative_position_index$|\.attn_mask$|^pixel_(mean|std)$"
)

_HEAD = r"^sem_seg_head\."
_ATTENTION = r"transformer_(self|cross)_attention_layers\.(\d+)\."
RENAMED: tuple[tuple[str, str], ...] = (
    (r"^backbone\.stem\.conv1\.norm\.", "backbone.bn1."),
    (r"^backbone\.stem\.conv1\.", "backbone.conv1."),
    (r"^backbone\.res(\d)\.(\d+)\.conv(\d)\.norm\.", r"backbone.layer<\1>.\2.bn\3."),
    (r"^backbone\.res(\d)\.(\d+)\.shortcut\.norm\.", r"backbone.layer<\1>.\2.downsample.1."),
    (r"^backbone\.res(\d)\.(\d+)\.shortcut\.", r"backbone.layer<\1>.\2.downsample.0."),
    (r"^backbone\.res(\d)\.", r"backbone.layer<\1>."),
    (_HEAD + r"(?!predictor\.|pixel_decoder\.)", "sem_seg_head.pixel_decoder."),
    (_HEAD + r"pixel_decoder\.", "pixel_decoder."),
    (r"^pixel_decoder\.transformer\.level_embed$", "pixel_decoder.level_embed"),
    (r"^pixel_decoder\.transformer\.encoder\.layers\.", "pixel_decoder.encoder_layers."),
    (r"^pixel_decoder\.adapter_1\.norm\.", "pixel_decoder.lateral_conv.1."),
    (r"^pixel_decoder\.adapter_1\.", "pixel_decoder.lateral_conv.0."),
    (r"^pixel_decoder\.layer_1\.norm\.", "pixel_decoder.output_conv.1."),
    (r"^pixel_decoder\.layer_1\.", "pixel_decoder.output_conv.0."),
    (_HEAD + r"predictor\.", "transformer_decoder."),
    (_ATTENTION + r"norm\.", r"layers.\2.\1_attn_norm."),
    (_ATTENTION + r"self_attn\.", r"layers.\2.self_attn."),
    (_ATTENTION + r"multihead_attn(?:_foreground)?\.", r"layers.\2.cross_attn.foreground."),
    (_ATTENTION + r"multihead_attn_background\.", r"layers.\2.cross_attn.background."),
    (r"transformer_ffn_layers\.(\d+)\.norm\.", r"layers.\1.ffn_norm."),
    (r"transformer_ffn_layers\.(\d+)\.", r"layers.\1."),
    (r"^transformer_decoder\.static_query\.", "transformer_decoder.query_feat."),
    *((f"layer<{stage}>", f"layer{stage - 1}") for stage in range(2, 6)),  # res2 is layer1
)


def read_detectron2(state: StateDict, origin: str) -> Checkpoint:
    """Translate a state dict and infer its architecture.

    Raises:
        CheckpointError: for another architecture, or two keys that mean the same.
    """
    if not any(
        "transformer_cross_attention_layers." in key or "query_feat" in key or "static_query" in key
        for key in state
    ):
        raise CheckpointError(
            "It is another detectron2 model (a MaskFormer or a per-pixel one): it has no "
            "Mask2Former decoder (transformer_cross_attention_layers). Only Mask2Former, Mask2KAN "
            "and Mask2Anomaly are read."
        )
    names = rename_keys(state, RENAMED, LEFTOVER)
    translated = {ours: state[key] for ours, key in names.items()}
    normalization: dict[str, Any] = {
        name: _channels(state, name) for name in ("pixel_mean", "pixel_std") if name in state
    }
    config = infer_config(translated, **normalization)
    return Checkpoint(origin, "detectron2", translated, config, names)


def _channels(state: StateDict, name: str) -> tuple[float, ...]:
    shape = tuple(state[name].shape)
    if math.prod(shape) != 3:
        raise CheckpointError(f"Its {name} has shape {shape!s:.80}; three values were expected.")
    return tuple(float(value) for value in state[name].read().flatten())
