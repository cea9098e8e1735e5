"""The configuration of a model, and the presets behind every model name.

Presets are Mask2Former's (Cheng et al., CVPR 2022, Cityscapes semantic); the KAN head is the
thesis's ([256, 256, 256], grid 5, order 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from mask2kan.checks import require, require_choice, require_numbers
from mask2kan.errors import ConfigError, shortened

Family = Literal["mask2kan", "mask2former", "mask2anomaly"]
MaskEmbed = Literal["kan", "mlp"]
MaskedAttention = Literal["foreground", "global"]

LARGEST = 1e6  # of a mean, standard deviation or knot: float32 has it with room
LONGEST_NAME = 200  # of a class, in characters

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """All that decides the shape and arithmetic of a model; checkpoints carry it.

    Attributes:
        backbone_depths: blocks per stage (7 for EfficientNet-Lite0 and MobileNetV2, else 4).
        backbone_width: channels of the stem (EfficientNet-Lite0, MobileNetV2), of the first
            stage's bottlenecks (R50) or of the patch embedding (Swin).
        backbone_num_heads: per stage, Swin only, as the next two.
        backbone_window_size: in tokens.
        backbone_drop_path: stochastic depth rate while training.
        masked_attention: ``foreground`` (Mask2Former) or ``global`` (Mask2Anomaly: both sides).
        num_classes: K, without the no-object class.
        class_names: K names, or empty for the label set that has K classes.
        palette: K RGB colours, or empty for that label set's.
        hidden_dim: C, channels of decoder, queries and mask features.
        encoder_feedforward_dim: of the pixel decoder.
        decoder_feedforward_dim: of the transformer decoder.
        mask_embed_width: hidden channels of an MLP head; 0 for C.
        grid_size … kan_bias: of the KAN; see ``KANLinear``.
        pixel_mean, pixel_std: per channel, in 0-255 units, RGB.
    """

    backbone: str = "r50"
    backbone_depths: tuple[int, ...] = (3, 4, 6, 3)
    backbone_width: int = 64
    backbone_num_heads: tuple[int, ...] = ()
    backbone_window_size: int = 0
    backbone_drop_path: float = 0.0
    mask_embed: MaskEmbed = "kan"
    masked_attention: MaskedAttention = "foreground"
    num_classes: int = 19
    class_names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    num_queries: int = 100
    hidden_dim: int = 256
    num_heads: int = 8
    num_encoder_layers: int = 6
    encoder_feedforward_dim: int = 1024
    num_points: int = 4
    num_decoder_layers: int = 9
    decoder_feedforward_dim: int = 2048
    mask_embed_width: int = 0
    grid_size: int = 5
    spline_order: int = 3
    grid_range: tuple[float, float] = (-1.0, 1.0)
    base_activation: str = "silu"
    standalone_spline_scale: bool = True
    scale_noise: float = 0.1
    scale_base: float = 1.0
    kan_bias: bool = False
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse values no model can be built from with a ConfigError."""
        require_choice("backbone", self.backbone, BACKBONES)
        require_choice("mask_embed", self.mask_embed, get_args(MaskEmbed))
        require_choice("masked_attention", self.masked_attention, get_args(MaskedAttention))
        require_choice("base_activation", self.base_activation, BASE_ACTIVATIONS)
        for field in _POSITIVE:
            require(field, getattr(self, field), 1, whole=True)
        for field in ("num_encoder_layers", "num_decoder_layers", "mask_embed_width"):
            require(field, getattr(self, field), 0, whole=True)
        if self.hidden_dim % self.num_heads or self.hidden_dim % 2:
            raise ConfigError(
                f"hidden_dim is {shortened(self.hidden_dim)}; it must be even and a multiple of "
                f"num_heads ({shortened(self.num_heads)})."
            )
        for field in ("backbone_depths", "backbone_num_heads", "class_names", "palette"):
            if not isinstance(getattr(self, field), (list, tuple)):
                raise ConfigError(f"{field} is {getattr(self, field)!r:.60}; expected a list.")
        for field in ("backbone_depths", "backbone_num_heads"):
            for number in getattr(self, field):
                require(f"Every entry of {field}", number, 1, whole=True)
        require("backbone_drop_path", self.backbone_drop_path, 0.0, 1.0, below=True)
        require("scale_noise", self.scale_noise)
        require("scale_base", self.scale_base)
        for field in ("standalone_spline_scale", "kan_bias"):
            if not isinstance(getattr(self, field), bool):
                found = shortened(repr(getattr(self, field)))
                raise ConfigError(f"{field} is {found}; expected true or false.")
        require_numbers("grid_range", self.grid_range, 2, LARGEST)
        require_numbers("pixel_mean", self.pixel_mean, 3, LARGEST)
        require_numbers("pixel_std", self.pixel_std, 3, LARGEST)
        for deviation in self.pixel_std:
            require("Every value of pixel_std", deviation, 1 / LARGEST)
        for number, name in enumerate(self.class_names):
            if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST_NAME:
                raise ConfigError(
                    f"class_names[{number}] is {shortened(repr(name))}; expected a text of up to "
                    f"{LONGEST_NAME} printable characters."
                )
        for number, color in enumerate(self.palette):
            require_numbers(f"palette[{number}]", color, 3)
            for value in color:
                require(f"Every value of palette[{number}]", value, 0, 255, whole=True)
        for field in ("class_names", "palette"):
            entries = len(getattr(self, field))
            if entries not in (0, self.num_classes):
                raise ConfigError(
                    f"{field} has {entries} entries for num_classes={shortened(self.num_classes)}; "
                    "give one per class or none."
                )

    @property
    def family(self) -> Family:
        """``mask2kan`` with a KAN head, else by its masked attention."""
        if self.mask_embed == "kan":
            return "mask2kan"
        return "mask2anomaly" if self.masked_attention == "global" else "mask2former"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the family among them."""
        return {"family": self.family, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read a configuration from ``to_dict()``, e.g. from a checkpoint's metadata.

        Raises:
            ConfigError: for an unknown field, a value or a family that does not fit.
        """
        fields = {"family", *(field.name for field in dataclasses.fields(cls))}
        for key in values:
            require_choice("model option", key, fields)
        config = cls(**{key: _frozen(v) for key, v in values.items() if key != "family"})
        if values.get("family", config.family) != config.family:
            raise ConfigError(
                f"family is {values['family']!r}, but mask_embed={config.mask_embed!r} and "
                f"masked_attention={config.masked_attention!r} make a {config.family}; leave "
                "family out, it follows these two."
            )
        return config


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


BASE_ACTIVATIONS = ("silu", "relu", "gelu", "tanh", "identity")

_POSITIVE = (
    *("backbone_width", "num_classes", "num_queries", "hidden_dim", "num_heads", "num_points"),
    *("encoder_feedforward_dim", "decoder_feedforward_dim", "grid_size", "spline_order"),
)


def _swin(depths: tuple[int, ...], *, width: int, window_size: int) -> dict[str, Any]:
    """Give every head 32 channels; they double with each stage."""
    return {
        "backbone_depths": depths,
        "backbone_width": width,
        "backbone_num_heads": tuple(width // 32 * 2**stage for stage in range(4)),
        "backbone_window_size": window_size,
        "backbone_drop_path": 0.3,
    }


BACKBONES: dict[str, dict[str, Any]] = {
    "efficientnet_lite0": {
        "backbone_depths": (1, 2, 2, 3, 3, 4, 1),
        "backbone_width": 32,
        "pixel_mean": (127.0, 127.0, 127.0),
        "pixel_std": (128.0, 128.0, 128.0),
    },
    "mobilenetv2": {
        "backbone_depths": (1, 2, 3, 4, 3, 3, 1),
        "backbone_width": 32,
        "pixel_mean": (127.5, 127.5, 127.5),
        "pixel_std": (127.5, 127.5, 127.5),
    },
    "r50": {"backbone_depths": (3, 4, 6, 3), "backbone_width": 64},
    "swin_t": _swin((2, 2, 6, 2), width=96, window_size=7),
    "swin_s": _swin((2, 2, 18, 2), width=96, window_size=7),
    "swin_b": _swin((2, 2, 18, 2), width=128, window_size=12),
    "swin_l": _swin((2, 2, 18, 2), width=192, window_size=12),
}

FAMILIES: dict[str, dict[str, Any]] = {
    "mask2kan": {"mask_embed": "kan", "masked_attention": "foreground"},
    "mask2former": {"mask_embed": "mlp", "masked_attention": "foreground"},
    "mask2anomaly": {"mask_embed": "mlp", "masked_attention": "global"},
}


def model_names() -> list[str]:
    """List the names ``create_model`` takes: ``<family>_<backbone>``."""
    return [f"{family}_{backbone}" for family in FAMILIES for backbone in BACKBONES]


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """Return the preset behind a model name, with some fields changed.

    Raises:
        ConfigError: for an unknown name or field, or a value that does not fit.
    """
    require_choice("model", name, model_names())
    family, _, backbone = name.partition("_")
    preset = {"backbone": backbone, **FAMILIES[family], **BACKBONES[backbone]}
    return ModelConfig.from_dict({**preset, **overrides})
