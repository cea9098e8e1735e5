"""Checkpoints of the ``transformers`` library's Mask2Former.

Source of the names: files of ``save_pretrained``, and its modules in memory (as in a
``pytorch_model.bin`` written by hand). Queries, keys and values are separate there and one matrix
here. Only Swin backbones were ever published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mask2kan.checkpoints.files.stored import Computed
from mask2kan.checkpoints.infer_config import (
    USUAL_HEADS,
    Checkpoint,
    StateDict,
    assumed_classes,
    infer_config,
    rename_keys,
)
from mask2kan.errors import CheckpointError, plain_line
from mask2kan.modeling.config import LONGEST_NAME

# The loss's weights, an index Swin computes, and a norm and pooler whose output nothing uses
LEFTOVER = re.compile(
    r"^criterion\.|\.relative_position_index$|^model\.pixel_level_module\.encoder\.(\w+\.)?layernorm\."
)

_BLOCK = r"^backbone\.layers\.(\d)\.blocks\.(\d+)\."
_OURS = r"backbone.layers.\1.blocks.\2."
_DECODER = r"^transformer_decoder\.layers\.(\d+)\."
_LAYER = r"transformer_decoder.layers.\1."
# ``#0``, ``#1``, ``#2`` mark the parts of one matrix
RENAMED: tuple[tuple[str, str], ...] = (
    (r"^model\.pixel_level_module\.encoder\.(?:swin\.|model\.)?", "backbone."),
    (r"^backbone\.embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
    (r"^backbone\.embeddings\.norm\.", "backbone.patch_embed.norm."),
    (r"^backbone\.encoder\.", "backbone."),
    (r"^backbone\.hidden_states_norms\.stage1\.", "backbone.norm0."),
    (r"^backbone\.hidden_states_norms\.stage2\.", "backbone.norm1."),
    (r"^backbone\.hidden_states_norms\.stage3\.", "backbone.norm2."),
    (r"^backbone\.hidden_states_norms\.stage4\.", "backbone.norm3."),
    (_BLOCK + r"layernorm_before\.", _OURS + "norm1."),
    (_BLOCK + r"layernorm_after\.", _OURS + "norm2."),
    (_BLOCK + r"attention\.(?:self|relative_position_bias)\.relative", _OURS + "attn.relative"),
    (_BLOCK + r"attention\.(?:self\.query|q_proj)\.(\w+)$", _OURS + r"attn.qkv.\3#0"),
    (_BLOCK + r"attention\.(?:self\.key|k_proj)\.(\w+)$", _OURS + r"attn.qkv.\3#1"),
    (_BLOCK + r"attention\.(?:self\.value|v_proj)\.(\w+)$", _OURS + r"attn.qkv.\3#2"),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)\.", _OURS + "attn.proj."),
    (_BLOCK + r"intermediate\.dense\.", _OURS + "mlp.fc1."),
    (_BLOCK + r"output\.dense\.", _OURS + "mlp.fc2."),
    (r"^model\.pixel_level_module\.decoder\.", "pixel_decoder."),
    (r"^pixel_decoder\.input_projections\.", "pixel_decoder.input_proj."),
    (r"^pixel_decoder\.adapter_1\.", "pixel_decoder.lateral_conv."),
    (r"^pixel_decoder\.layer_1\.", "pixel_decoder.output_conv."),
    (r"^pixel_decoder\.mask_projection\.", "pixel_decoder.mask_features."),
    (r"^pixel_decoder\.encoder\.layers\.", "pixel_decoder.encoder_layers."),
    (r"^(pixel_decoder\.encoder_layers\.\d+\.)self_attn_layer_norm\.", r"\1norm1."),
    (r"^(pixel_decoder\.encoder_layers\.\d+\.)final_layer_norm\.", r"\1norm2."),
    (r"^(pixel_decoder\.encoder_layers\.\d+\.)fc(\d)\.", r"\1linear\2."),
    (r"^model\.transformer_module\.queries_embedder\.", "transformer_decoder.query_embed."),
    (r"^model\.transformer_module\.queries_features\.", "transformer_decoder.query_feat."),
    (r"^model\.transformer_module\.level_embed\.", "transformer_decoder.level_embed."),
    (r"^model\.transformer_module\.decoder\.layernorm\.", "transformer_decoder.decoder_norm."),
    (
        r"^model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d+)\.0\.",
        r"transformer_decoder.mask_embed.layers.\1.",
    ),
    (r"^class_predictor\.", "transformer_decoder.class_embed."),
    (r"^model\.transformer_module\.decoder\.", "transformer_decoder."),
    (_DECODER + r"cross_attn\.", _LAYER + r"cross_attn.foreground."),
    (_DECODER + r"self_attn\.q_proj\.(\w+)$", _LAYER + r"self_attn.in_proj_\2#0"),
    (_DECODER + r"self_attn\.k_proj\.(\w+)$", _LAYER + r"self_attn.in_proj_\2#1"),
    (_DECODER + r"self_attn\.v_proj\.(\w+)$", _LAYER + r"self_attn.in_proj_\2#2"),
    (_DECODER + r"self_attn\.o_proj\.", _LAYER + r"self_attn.out_proj."),
    (_DECODER + r"self_attn_layer_norm\.", _LAYER + r"self_attn_norm."),
    (_DECODER + r"cross_attn_layer_norm\.", _LAYER + r"cross_attn_norm."),
    (_DECODER + r"final_layer_norm\.", _LAYER + r"ffn_norm."),
    (_DECODER + r"fc(\d)\.", _LAYER + r"linear\2."),
)


def read_transformers(
    state: StateDict, origin: str, config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> Checkpoint:
    """Translate a transformers state dict and read the architecture off it.

    ``config`` and ``preprocessor`` hold their JSON files, or nothing.

    Raises:
        CheckpointError: for another architecture or an option this model does not have.
    """
    _require_supported(config)
    if "model.transformer_module.queries_features.weight" not in state:
        raise CheckpointError(
            "It is another transformers model (a MaskFormer, a OneFormer or one without its head):"
            " it has no model.transformer_module.queries_features. Only "
            "Mask2FormerForUniversalSegmentation is read."
        )
    translated, names = _translate(state)
    heads = config.get("num_attention_heads", USUAL_HEADS if config else None)
    if config and (type(heads) is not int or heads < 1):
        raise CheckpointError(f"Its config.json has num_attention_heads {heads!r:.40}.")
    others = {**_class_names(config, translated), **_normalization(preprocessor)}
    ours = infer_config(translated, num_heads=heads, **others)
    return Checkpoint(
        origin,
        "transformers",
        translated,
        ours,
        names,
        notes=_assumed(config, preprocessor, ours.num_classes),
    )


def _assumed(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], num_classes: int
) -> tuple[str, ...]:
    """Say what the weights do not show and no file beside them says."""
    notes = []
    if not config:
        notes.append(
            "There is no config.json beside it: 4 sampling points a head and the arithmetic of "
            f"the published models are assumed, and its {assumed_classes(num_classes)}."
        )
    if "image_mean" not in preprocessor and preprocessor.get("do_normalize") is not False:
        notes.append(
            "There is no preprocessor_config.json beside it that says its mean and std: "
            "ImageNet's are assumed."
        )
    return tuple(notes)


def _require_supported(config: Mapping[str, Any]) -> None:
    """Refuse options that change the arithmetic and leave no trace in the weights."""
    backbone = config.get("backbone_config") or {}
    if not isinstance(backbone, dict):
        raise CheckpointError(
            f"Its config.json has backbone_config {backbone!r:.60}; an object was expected."
        )
    supported: tuple[tuple[str, Mapping[str, Any], str, Any], ...] = (
        ("", config, "model_type", "mask2former"),
        ("", config, "activation_function", "relu"),
        ("", config, "pre_norm", False),
        ("", config, "common_stride", 4),
        ("backbone_config.", backbone, "model_type", "swin"),
        ("backbone_config.", backbone, "hidden_act", "gelu"),
        ("backbone_config.", backbone, "layer_norm_eps", 1e-5),
    )
    for prefix, values, name, expected in supported:
        value = values.get(name, expected)
        if value != expected:
            raise CheckpointError(
                f"Its config.json has {prefix}{name} {value!r:.60}; only {expected!r} is supported."
            )


def _translate(state: StateDict) -> tuple[StateDict, dict[str, str]]:
    names = rename_keys(state, RENAMED, LEFTOVER)
    translated = {ours: state[key] for ours, key in names.items() if "#" not in ours}
    parts: dict[str, dict[int, str]] = {}
    for ours, key in names.items():
        whole, _, part = ours.partition("#")
        if part:
            parts.setdefault(whole, {})[int(part)] = key
        if part and whole in names:
            raise CheckpointError(f"Its keys {names[whole]} and {key} mean the same weight.")
    for whole, keys in parts.items():
        shapes = {tuple(state[key].shape) for key in keys.values()}
        if len(keys) != 3 or len(shapes) != 1:
            raise CheckpointError(
                f"Query, key and value belong together; found {', '.join(sorted(keys.values()))} "
                f"of shapes {sorted(shapes)}."
            )
        [shape] = shapes
        if not shape:
            raise CheckpointError(f"Its {keys[0]} is a single number; a matrix was expected.")
        three = tuple(state[keys[index]] for index in range(3))
        translated[whole] = Computed(three, (3 * shape[0], *shape[1:]), _joined)
        names[whole] = keys[0]
    return translated, names


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _class_names(config: Mapping[str, Any], state: StateDict) -> dict[str, Any]:
    """Read ``id2label``, unless it is missing, of another length or a placeholder."""
    labels = config.get("id2label")
    head = state.get("transformer_decoder.class_embed.weight")
    if not isinstance(labels, dict) or head is None or len(labels) != head.shape[0] - 1:
        return {}
    names = [labels.get(str(index)) for index in range(len(labels))]
    if any(name is None or re.fullmatch(r"LABEL_\d+", str(name)) for name in names):
        return {}
    return {"class_names": tuple(plain_line(str(name), LONGEST_NAME - 1) for name in names)}


def _normalization(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Read mean and std, in 0-255 units, where the file says them."""
    if preprocessor.get("do_normalize") is False:
        return {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (255.0, 255.0, 255.0)}
    normalization = {}
    for ours, theirs in (("pixel_mean", "image_mean"), ("pixel_std", "image_std")):
        values = preprocessor.get(theirs)
        if values is None:
            continue
        if (
            not isinstance(values, list)
            or len(values) != 3
            or not all(isinstance(value, (int, float)) and abs(value) < 1e3 for value in values)
        ):
            raise CheckpointError(
                f"Its preprocessor_config.json has {theirs} {values!r:.60}; expected three numbers."
            )
        normalization[ours] = tuple(value * 255 for value in values)
    return normalization
