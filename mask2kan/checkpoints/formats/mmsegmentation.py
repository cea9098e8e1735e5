"""Checkpoints of the Mask2Former of mmsegmentation and mmdetection.

Source of the names: ``Mask2FormerHead``, ``MSDeformAttnPixelDecoder`` and ``SwinTransformer`` there
(versions 1 and 3; older ones say ``attentions.0``, ``attentions.1`` and ``ffns.0``). Its Swin
unfolds 2x2 patches channel by channel, the original position by position.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mask2kan.checkpoints.files.stored import Computed, Stored
from mask2kan.checkpoints.infer_config import Checkpoint, StateDict, infer_config, rename_keys
from mask2kan.errors import CheckpointError, plain_line
from mask2kan.modeling.config import LONGEST_NAME

LEFTOVER = re.compile(r"\.relative_position_index$|^data_preprocessor\.|\.loss_\w+\.|\.conv_seg\.")

_BLOCK = r"^backbone\.stages\.(\d)\.blocks\.(\d+)\."
_OURS = r"backbone.layers.\1.blocks.\2."
_ENCODER = r"^pixel_decoder\.encoder\.layers\.(\d+)\."
_ENCODER_LAYER = r"pixel_decoder.encoder_layers.\1."
_DECODER = r"^transformer_decoder\.layers\.(\d+)\."
_LAYER = r"transformer_decoder.layers.\1."
RENAMED: tuple[tuple[str, str], ...] = (
    (r"^backbone\.patch_embed\.projection\.", "backbone.patch_embed.proj."),
    (_BLOCK + r"attn\.w_msa\.", _OURS + "attn."),
    (_BLOCK + r"ffn\.layers\.0\.0\.", _OURS + "mlp.fc1."),
    (_BLOCK + r"ffn\.layers\.1\.", _OURS + "mlp.fc2."),
    (r"^backbone\.stages\.", "backbone.layers."),
    (r"^(?:decode|panoptic)_head\.", ""),
    (_ENCODER + r"(?:attentions\.0|self_attn)\.", _ENCODER_LAYER + "self_attn."),
    (_ENCODER + r"(?:ffns\.0|ffn)\.layers\.0\.0\.", _ENCODER_LAYER + "linear1."),
    (_ENCODER + r"(?:ffns\.0|ffn)\.layers\.1\.", _ENCODER_LAYER + "linear2."),
    (_ENCODER + r"norms\.0\.", _ENCODER_LAYER + "norm1."),
    (_ENCODER + r"norms\.1\.", _ENCODER_LAYER + "norm2."),
    (r"^pixel_decoder\.input_convs\.(\d)\.conv\.", r"pixel_decoder.input_proj.\1.0."),
    (r"^pixel_decoder\.input_convs\.(\d)\.gn\.", r"pixel_decoder.input_proj.\1.1."),
    (r"^pixel_decoder\.level_encoding\.weight$", "pixel_decoder.level_embed"),
    (r"^pixel_decoder\.lateral_convs\.0\.conv\.", "pixel_decoder.lateral_conv.0."),
    (r"^pixel_decoder\.lateral_convs\.0\.gn\.", "pixel_decoder.lateral_conv.1."),
    (r"^pixel_decoder\.output_convs\.0\.conv\.", "pixel_decoder.output_conv.0."),
    (r"^pixel_decoder\.output_convs\.0\.gn\.", "pixel_decoder.output_conv.1."),
    (r"^pixel_decoder\.mask_feature\.", "pixel_decoder.mask_features."),
    (_DECODER + r"(?:attentions\.0|cross_attn)\.attn\.", _LAYER + "cross_attn.foreground."),
    (_DECODER + r"(?:attentions\.1|self_attn)\.attn\.", _LAYER + "self_attn."),
    (_DECODER + r"(?:ffns\.0|ffn)\.layers\.0\.0\.", _LAYER + "linear1."),
    (_DECODER + r"(?:ffns\.0|ffn)\.layers\.1\.", _LAYER + "linear2."),
    (_DECODER + r"norms\.0\.", _LAYER + "cross_attn_norm."),
    (_DECODER + r"norms\.1\.", _LAYER + "self_attn_norm."),
    (_DECODER + r"norms\.2\.", _LAYER + "ffn_norm."),
    (r"^transformer_decoder\.post_norm\.", "transformer_decoder.decoder_norm."),
    (r"^(query_feat|query_embed|level_embed)\.", r"transformer_decoder.\1."),
    (r"^cls_embed\.", "transformer_decoder.class_embed."),
    (r"^mask_embed\.0\.", "transformer_decoder.mask_embed.layers.0."),
    (r"^mask_embed\.2\.", "transformer_decoder.mask_embed.layers.1."),
    (r"^mask_embed\.4\.", "transformer_decoder.mask_embed.layers.2."),
)
_UNFOLDED = re.compile(r"^backbone\.layers\.\d\.downsample\.(norm|reduction)\.")


def read_mmsegmentation(state: StateDict, origin: str, classes: tuple[str, ...]) -> Checkpoint:
    """Translate a state dict and infer its architecture; ``classes`` are its class names or none.

    Raises:
        CheckpointError: for another architecture, or two keys that mean the same.
    """
    if not any(".query_feat." in key for key in state):
        raise CheckpointError(
            "It is another model of mmsegmentation or mmdetection (a MaskFormer?): it has no "
            "query_feat. Only their Mask2Former is read."
        )
    names = rename_keys(state, RENAMED, LEFTOVER)
    translated = {
        ours: _reordered(state[key]) if _UNFOLDED.match(ours) else state[key]
        for ours, key in names.items()
    }
    config = infer_config(translated)
    if len(classes) == config.num_classes:
        names_of_classes = tuple(plain_line(name, LONGEST_NAME - 1) for name in classes)
        config = infer_config(translated, class_names=names_of_classes)
    return Checkpoint(origin, "mmsegmentation", translated, config, names)


def _reordered(stored: Stored) -> Stored:
    return Computed((stored,), tuple(stored.shape), by_position)


def by_position(weight: Tensor) -> Tensor:
    """Reorder (…, C x 4) patches of 2x2: theirs row by row per channel, ours column by column."""
    if weight.shape[-1] % 4:
        raise CheckpointError(f"Its patch merging has {weight.shape[-1]} inputs, not 4 x channels.")
    patches: Tensor = weight.unflatten(-1, (-1, 4))[..., torch.tensor([0, 2, 1, 3])]
    return patches.transpose(-1, -2).flatten(-2).contiguous()
