"""The weights of a model under the names that other code bases save them by."""

from __future__ import annotations

import re


def in_detectron2s_names(model):
    """The same weights as the originals would have saved them."""
    names = {"pixel_decoder": _pixel_decoder_name, "transformer_decoder": _decoder_name}
    if model.config.backbone == "r50":
        names["backbone"] = _resnet_name
    return {
        names.get(key.split(".")[0], str)(key): value.clone()
        for key, value in model.state_dict().items()
    }


def _resnet_name(key):
    parts = key.split(".")
    if parts[1] == "conv1":
        return f"backbone.stem.conv1.{parts[2]}"
    if parts[1] == "bn1":
        return f"backbone.stem.conv1.norm.{parts[2]}"
    stage = f"backbone.res{int(parts[1][-1]) + 1}.{parts[2]}."
    if parts[3] == "downsample":
        return stage + ("shortcut." if parts[4] == "0" else "shortcut.norm.") + parts[5]
    return (
        stage + parts[3].replace("bn", "conv") + (".norm." if "bn" in parts[3] else ".") + parts[4]
    )


def _pixel_decoder_name(key):
    for ours, theirs in (
        ("encoder_layers.", "transformer.encoder.layers."),
        ("pixel_decoder.level_embed", "pixel_decoder.transformer.level_embed"),
        ("lateral_conv.0.", "adapter_1."),
        ("lateral_conv.1.", "adapter_1.norm."),
        ("output_conv.0.", "layer_1."),
        ("output_conv.1.", "layer_1.norm."),
    ):
        key = key.replace(ours, theirs)
    return f"sem_seg_head.{key}"


def _decoder_name(key):
    name = key.removeprefix("transformer_decoder.")
    if name.startswith("layers."):
        _, index, part, *rest = name.split(".")
        rest = ".".join(rest)
        if part in ("cross_attn", "self_attn"):
            kind = part.removesuffix("_attn")
            attention = "self_attn"
            if kind == "cross":
                side, rest = rest.split(".", 1)
                attention = "multihead_attn" + {"foreground": "", "background": "_background"}[side]
            name = f"transformer_{kind}_attention_layers.{index}.{attention}.{rest}"
        elif part in ("cross_attn_norm", "self_attn_norm"):
            kind = part.removesuffix("_attn_norm")
            name = f"transformer_{kind}_attention_layers.{index}.norm.{rest}"
        else:
            name = f"transformer_ffn_layers.{index}.{part.replace('ffn_norm', 'norm')}.{rest}"
    return f"sem_seg_head.predictor.{name}"


MMSEGMENTATION = (
    (r"^backbone\.patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^backbone\.layers\.", "backbone.stages."),
    (r"\.blocks\.(\d+)\.attn\.", r".blocks.\1.attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^pixel_decoder\.input_proj\.(\d)\.0\.", r"pixel_decoder.input_convs.\1.conv."),
    (r"^pixel_decoder\.input_proj\.(\d)\.1\.", r"pixel_decoder.input_convs.\1.gn."),
    (r"^pixel_decoder\.level_embed$", "pixel_decoder.level_encoding.weight"),
    (r"^pixel_decoder\.(lateral|output)_conv\.0\.", r"pixel_decoder.\1_convs.0.conv."),
    (r"^pixel_decoder\.(lateral|output)_conv\.1\.", r"pixel_decoder.\1_convs.0.gn."),
    (r"^pixel_decoder\.mask_features\.", "pixel_decoder.mask_feature."),
    (r"^pixel_decoder\.encoder_layers\.", "pixel_decoder.encoder.layers."),
    (r"^(pixel_decoder\.encoder\.layers\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"^(pixel_decoder\.encoder\.layers\.\d+)\.norm2\.", r"\1.norms.1."),
    (r"\.linear1\.", ".ffn.layers.0.0."),
    (r"\.linear2\.", ".ffn.layers.1."),
    (r"\.cross_attn\.foreground\.", ".cross_attn.attn."),
    (r"^(transformer_decoder.*)\.self_attn\.", r"\1.self_attn.attn."),
    (r"\.cross_attn_norm\.", ".norms.0."),
    (r"\.self_attn_norm\.", ".norms.1."),
    (r"\.ffn_norm\.", ".norms.2."),
    (r"^transformer_decoder\.decoder_norm\.", "transformer_decoder.post_norm."),
    (r"^transformer_decoder\.(query_feat|query_embed|level_embed)\.", r"\1."),
    (r"^transformer_decoder\.class_embed\.", "cls_embed."),
    (r"^transformer_decoder\.mask_embed\.layers\.0\.", "mask_embed.0."),
    (r"^transformer_decoder\.mask_embed\.layers\.1\.", "mask_embed.2."),
    (r"^transformer_decoder\.mask_embed\.layers\.2\.", "mask_embed.4."),
)


def in_mmsegmentations_names(model):
    """The same weights as mmsegmentation's Mask2FormerHead saves them."""
    state = {}
    for ours, value in model.state_dict().items():
        key = ours
        for pattern, replacement in MMSEGMENTATION:
            key = re.sub(pattern, replacement, key)
        if ".downsample." in ours and "backbone.layers." in ours:
            # x of our channel p C + c, position p column by column, is at 4 c + q row by row
            patches = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
            value = patches.transpose(-1, -2).flatten(-2)
        state[key if key.startswith("backbone.") else f"decode_head.{key}"] = value.clone()
    return state
