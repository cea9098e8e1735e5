"""Read a model's configuration off its weights in our key names.

Weights do not reveal the sampling points of an attention head, the KAN's activation, mean and std:
four, SiLU and ImageNet's are assumed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mask2kan.checkpoints.files.opened import OpenedFile
from mask2kan.checkpoints.files.stored import Stored
from mask2kan.checks import require
from mask2kan.errors import CheckpointError, ConfigError, plain_line
from mask2kan.modeling.classes import are_unnamed, class_names_for
from mask2kan.modeling.config import BACKBONES, ModelConfig
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.modeling.pixel_decoder import NUM_LEVELS
from mask2kan.modeling.settings import InferenceSettings

StateDict = dict[str, Stored]

SHOWN_KEYS = 8
USUAL_HEADS = 8
_USUAL_POINTS = 4  # of a head

# Far beyond any published model; larger ones would only exhaust the memory
MAXIMA = {
    "hidden_dim": 4096,
    "num_queries": 10_000,
    "num_classes": 20_000,
    "encoder_feedforward_dim": 32_768,
    "decoder_feedforward_dim": 32_768,
    "mask_embed_width": 32_768,
    "backbone_width": 1024,
    "backbone_window_size": 64,
    "num_heads": 256,
    "num_points": 64,
    "grid_size": 512,
    "spline_order": 16,
    "num_encoder_layers": 48,
    "num_decoder_layers": 48,
}
MOST_BLOCKS = 128  # of all stages of a backbone
MOST_HEADS = 256  # of a stage


@dataclasses.dataclass
class Checkpoint:
    """A checkpoint in our own key names, whatever it was read from.

    Attributes:
        origin: the user's name for it, for messages.
        format: ``native``, ``detectron2``, ``transformers`` or ``mmsegmentation``.
        state: the weights, which stay in their files until they are read.
        names: our key to the key in the file, where they differ.
        calibration: per anomaly score.
        notes: what a user should know about how it was read: choices and assumptions.
        files: which hold the weights; open.
        fitted: its model without weights, if it was built already.
    """

    origin: str
    format: str
    state: StateDict
    config: ModelConfig
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    card: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: InferenceSettings | None = None
    notes: tuple[str, ...] = ()
    files: list[OpenedFile] = dataclasses.field(default_factory=list)
    fitted: Mask2KAN | None = None

    def __post_init__(self) -> None:
        """Put notes, which quote the file, on one line each."""
        self.notes = tuple(plain_line(note) for note in self.notes)

    @property
    def model_bytes(self) -> int:
        """Bytes of the model built from it: float32 and, of Swin, an index for each block."""
        config = self.config
        weights = sum(4 * math.prod(stored.shape) for stored in self.state.values())
        blocks = sum(config.backbone_depths) if config.backbone_num_heads else 0
        return weights + 8 * blocks * config.backbone_window_size**4

    def close(self) -> None:
        """Close its files; no weights can be read any more."""
        for file in self.files:
            file.close()


def infer_config(
    state: Mapping[str, Stored], *, num_heads: int | None = None, **others: Any
) -> ModelConfig:
    """Infer the configuration from weights; ``others`` are fields that they do not show.

    Of the heads, weights show the product with the sampling points: without a number there are
    four points a head, as in every published model.

    Raises:
        CheckpointError: for a missing part or an unsupported shape.
    """
    queries, hidden = _shape(state, "transformer_decoder.query_feat.weight", 2)
    points = _shape(state, "pixel_decoder.encoder_layers.0.self_attn.sampling_offsets.weight", 2)[0]
    if num_heads is None:
        num_heads = points // (_USUAL_POINTS * NUM_LEVELS * 2)
        if points % (_USUAL_POINTS * NUM_LEVELS * 2) or not num_heads or hidden % num_heads:
            num_heads = USUAL_HEADS
    if points % (num_heads * NUM_LEVELS * 2):
        raise CheckpointError(
            f"sampling_offsets has {points} rows, not a multiple of {num_heads} heads x "
            f"{NUM_LEVELS} levels x 2; only Mask2Formers with three levels are read."
        )
    fields: dict[str, Any] = {
        **_backbone(state),
        **_head(state),
        "num_queries": queries,
        "hidden_dim": hidden,
        "num_heads": num_heads,
        "num_classes": _shape(state, "transformer_decoder.class_embed.weight", 2)[0] - 1,
        "num_points": points // (num_heads * NUM_LEVELS * 2),
        "num_encoder_layers": _count(state, "pixel_decoder.encoder_layers."),
        "encoder_feedforward_dim": _shape(
            state, "pixel_decoder.encoder_layers.0.linear1.weight", 2
        )[0],
        "num_decoder_layers": _count(state, "transformer_decoder.layers."),
    }
    if fields["num_decoder_layers"]:
        linear = "transformer_decoder.layers.0.linear1.weight"
        fields["decoder_feedforward_dim"] = _shape(state, linear, 2)[0]
    is_global = any(".cross_attn.background." in key for key in state)
    fields["masked_attention"] = "global" if is_global else "foreground"
    return checked_config({**fields, **others})


def assumed_classes(num_classes: int) -> str:
    """Say what the classes of weights without names are taken for."""
    names = class_names_for(num_classes)
    if are_unnamed(names):
        return f"{num_classes} classes have no names"
    return f"{num_classes} classes are taken for {', '.join(names[:3])} …"


def rename_keys(
    keys: Iterable[str], table: Iterable[tuple[str, str]], leftover: re.Pattern[str]
) -> dict[str, str]:
    """Map our names to a file's keys: all replacements of ``table`` in order, without leftovers.

    Raises:
        CheckpointError: when two keys mean the same weight.
    """
    names: dict[str, str] = {}
    for key in keys:
        if leftover.search(key):
            continue
        ours = key
        for pattern, replacement in table:
            ours = re.sub(pattern, replacement, ours)
        if ours in names:
            raise CheckpointError(f"Its keys {names[ours]} and {key} mean the same weight.")
        names[ours] = key
    return names


def checked_config(fields: Mapping[str, Any]) -> ModelConfig:
    """Build a configuration from fields of a file.

    Raises:
        CheckpointError: for fields that do not fit, or sizes no model has.
    """
    # older files hold the family, which now follows from the other fields
    fields = {name: value for name, value in fields.items() if name != "family"}
    try:
        for name, maximum in MAXIMA.items():
            require(name, fields.get(name, 0), 0, maximum, whole=True)
        config = ModelConfig.from_dict(fields)
        require("The sum of backbone_depths", sum(config.backbone_depths), 1, MOST_BLOCKS)
        for heads in config.backbone_num_heads:
            require("Every entry of backbone_num_heads", heads, 1, MOST_HEADS)
    except (ConfigError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"Its configuration does not fit a model: {error}") from error
    return config


def _backbone(state: Mapping[str, Stored]) -> dict[str, Any]:
    if "backbone.patch_embed.proj.weight" in state:
        return _swin(state)
    if "backbone.layer1.0.conv3.weight" in state:
        return {
            "backbone": "r50",
            "backbone_depths": tuple(_count(state, f"backbone.layer{i}.") for i in range(1, 5)),
            "backbone_width": _shape(state, "backbone.layer1.0.conv1.weight", 4)[0],
        }
    if "backbone.conv_stem.weight" in state:
        kernel = _shape(state, "backbone.blocks.2.0.conv_dw.weight", 4)[-1]
        return {
            # the third stage tells them apart
            "backbone": "efficientnet_lite0" if kernel == 5 else "mobilenetv2",
            "backbone_depths": tuple(_count(state, f"backbone.blocks.{i}.") for i in range(7)),
            "backbone_width": _shape(state, "backbone.conv_stem.weight", 4)[0],
        }
    if "backbone.layer1.0.conv1.weight" in state:
        raise CheckpointError(
            "Its ResNet has basic blocks (18 or 34 layers); only bottlenecks are read."
        )
    parts = sorted({key.split(".")[1] for key in state if key.startswith("backbone.")})[:SHOWN_KEYS]
    raise CheckpointError(
        "Its backbone is no ResNet, Swin Transformer, EfficientNet-Lite0 or MobileNetV2, or its "
        f"first weights are missing (parts found: {', '.join(parts) or 'none'})."
    )


def _swin(state: Mapping[str, Stored]) -> dict[str, Any]:
    width = _shape(state, "backbone.patch_embed.proj.weight", 4)[0]
    depths = tuple(_count(state, f"backbone.layers.{stage}.blocks.") for stage in range(4))
    tables = [
        _shape(state, f"backbone.layers.{s}.blocks.0.attn.relative_position_bias_table", 2)
        for s in range(4)
    ]
    rows = tables[0][0]
    window = (math.isqrt(rows) + 1) // 2
    if (2 * window - 1) ** 2 != rows:
        raise CheckpointError(
            f"relative_position_bias_table has {rows} rows, which is no (2 x window - 1) squared."
        )
    by_width = [
        n for n, v in BACKBONES.items() if n.startswith("swin") and v["backbone_width"] == width
    ]
    exact = [name for name in by_width if BACKBONES[name]["backbone_depths"] == depths]
    return {
        "backbone": (exact or by_width or ["swin_t"])[0],
        "backbone_depths": depths,
        "backbone_width": width,
        "backbone_num_heads": tuple(columns for _, columns in tables),
        "backbone_window_size": window,
    }


def _head(state: Mapping[str, Stored]) -> dict[str, Any]:
    layer = "transformer_decoder.mask_embed.layers.0."
    if f"{layer}spline_weight" not in state:
        rows, columns = _shape(state, f"{layer}weight", 2)
        return {"mask_embed": "mlp", "mask_embed_width": 0 if rows == columns else rows}
    rows, knots = _shape(state, f"{layer}grid", 2)
    functions = _shape(state, f"{layer}spline_weight", 3)[2]
    order = knots - functions - 1
    if order < 1 or functions - order < 1:
        raise CheckpointError(
            f"Its KAN has {knots} knots for {functions} splines; expected G + 2k + 1 and G + k."
        )
    # It is read here, so no larger than any model's
    if rows > MAXIMA["hidden_dim"] or knots > MAXIMA["grid_size"] + 2 * MAXIMA["spline_order"] + 1:
        raise CheckpointError(f"Its KAN has knots of shape {(rows, knots)}; no model has as many.")
    row = state[f"{layer}grid"].read()[0].double()
    return {
        "mask_embed": "kan",
        "grid_size": functions - order,
        "spline_order": order,
        "grid_range": (round(float(row[order]), 6), round(float(row[-order - 1]), 6)),
        "standalone_spline_scale": f"{layer}spline_scaler" in state,
        "kan_bias": f"{layer}bias" in state,
    }


def _shape(state: Mapping[str, Stored], key: str, dimensions: int) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(
            f"It has no {key} (our name for it), so it is no complete Mask2Former."
        )
    shape = tuple(state[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(f"Its {key} has shape {shape}; {dimensions} sizes were expected.")
    return shape


def _count(keys: Iterable[str], prefix: str) -> int:
    """Count layers 0, 1, … below a prefix up to a gap, which shows up as unknown keys."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,6})\.")
    indices = {int(match[1]) for key in keys if (match := pattern.match(key))}
    return next(index for index in range(len(indices) + 1) if index not in indices)
