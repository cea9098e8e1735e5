"""Recipes: functions that return everything a training run needs to know.

``camvid_kan`` and ``camvid_mlp`` are the fair pair: one configuration, and the mask head is the
only thing that differs. The sizes keep a float16 checkpoint under 8 MB and a run at about an hour
on two processor cores.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mask2kan.classes import CAMVID
from mask2kan.errors import ConfigError, unknown
from training.data import Augmentation

Settings = TypeVar("Settings", "TrainConfig", Augmentation)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        name: of the recipe, and of the run folder unless told otherwise.
        model: a name of ``mask2kan.list_models()``.
        model_options: overrides of the model's configuration.
        pretrained_backbone: file of ImageNet weights, looked up like data; empty for none.
        data: folder, known name or ``synthetic``.
        augmentation: how crops are drawn.
        batch_size: crops per step, over all processes.
        steps: optimizer updates of the whole run.
        lr: peak learning rate outside the backbone.
        backbone_factor: the backbone's share of it.
        weight_decay: of weights; see ``training.optimizer``.
        clip_norm: largest norm of the whole model's gradient.
        warmup_steps: of linear warm-up before the polynomial decay.
        num_points: per mask in the losses and per picture in the matching.
        no_object_weight: of the no-object class in the class loss.
        regularization_weight: λ1 of the KAN's regularisation; nothing on an MLP.
        grid_update_steps: after these steps the KAN's grids are fitted to the data they see.
        average_decay: of the moving average of the weights that is evaluated and saved.
        batch_norm_batches: batches of crops that set the backbone's statistics before step 0.
        train_batch_norm: False keeps these statistics for the whole run.
        eval_every: steps between two validations.
        eval_pictures: of the validation split; 0 for all.
        save_minutes: at most this long between two resumable checkpoints.
        seed: of weights, crops and points.
        workers: processes that prepare crops; 0 prepares them in the training process.
    """

    name: str
    model: str
    model_options: Mapping[str, Any]
    pretrained_backbone: str = ""
    data: str = "camvid"
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    batch_size: int = 8
    steps: int = 1000
    lr: float = 6e-4
    backbone_factor: float = 0.33
    weight_decay: float = 0.05
    clip_norm: float = 0.01
    warmup_steps: int = 50
    num_points: int = 1024
    no_object_weight: float = 0.1
    regularization_weight: float = 0.0
    grid_update_steps: tuple[int, ...] = ()
    average_decay: float = 0.995
    batch_norm_batches: int = 10
    train_batch_norm: bool = True
    eval_every: int = 100
    eval_pictures: int = 25
    save_minutes: float = 5.0
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers no run can be made of.

        Raises:
            ConfigError: naming the field, the value found and what it must be.
        """
        for field in ("batch_size", "steps", "num_points", "eval_every"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be at least 1.")
        if not 0.0 <= self.average_decay < 1.0:
            raise ConfigError(f"average_decay is {self.average_decay}; it must be in [0, 1).")
        if any(side < 32 for side in self.augmentation.crop):
            raise ConfigError(f"crop is {self.augmentation.crop}; both sides must be at least 32.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(dataclasses.replace(self, model_options=dict(self.model_options)))


def camvid_mlp() -> TrainConfig:
    """A small Mask2Former on CamVid: MobileNetV2 and an MLP mask head."""
    return TrainConfig(
        name="camvid_mlp",
        model="mask2former_mobilenetv2",
        model_options={
            "mask_embed": "mlp",
            "num_classes": len(CAMVID),
            "class_names": tuple(CAMVID),
            "palette": tuple(CAMVID.values()),
            "num_queries": 40,
            "hidden_dim": 128,
            "num_heads": 4,
            "num_encoder_layers": 3,
            "encoder_feedforward_dim": 512,
            "num_decoder_layers": 3,
            "decoder_feedforward_dim": 512,
        },
        pretrained_backbone="backbones/mobilenet_v2_imagenet.safetensors",
        regularization_weight=1e-6,
        grid_update_steps=(100, 300),
    )


def camvid_kan() -> TrainConfig:
    """``camvid_mlp`` with the KAN mask head: a small Mask2KAN."""
    mlp = camvid_mlp()
    return dataclasses.replace(
        mlp,
        name="camvid_kan",
        model="mask2kan_mobilenetv2",
        model_options={**mlp.model_options, "mask_embed": "kan"},
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "camvid_kan": camvid_kan,
    "camvid_mlp": camvid_mlp,
}


def recipe(name: str) -> TrainConfig:
    """A recipe by name.

    Raises:
        ConfigError: for an unknown name, listing the nearest.
    """
    if name not in RECIPES:
        raise ConfigError(unknown("recipe", name, RECIPES))
    return RECIPES[name]()


def override(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """Change fields by ``key=value`` texts.

    Args:
        config: what to change.
        settings: ``lr=3e-4``, ``model.num_queries=20`` (an option of the model) or
            ``augmentation.crop=(192,256)``.

    Raises:
        ConfigError: for a text without ``=``, an unknown key or a value of another type.
    """
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting!r} has no '='; write key=value, e.g. lr=3e-4.")
        value = _parse(text)
        section, _, option = key.partition(".")
        if section == "model" and option:
            options = {**config.model_options, option: value}
            config = dataclasses.replace(config, model_options=options)
        elif section == "augmentation" and option:
            changed = _replace(config.augmentation, option, value)
            config = dataclasses.replace(config, augmentation=changed)
        else:
            config = _replace(config, key, value)
    return config


def _parse(text: str) -> Any:
    """A Python literal, or the text itself where it is none (names, paths)."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _replace(instance: Settings, key: str, value: Any) -> Settings:
    fields = {field.name for field in dataclasses.fields(instance)}
    if key not in fields:
        raise ConfigError(unknown("setting", key, fields))
    before = getattr(instance, key)
    if isinstance(before, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(before):
        raise ConfigError(
            f"{key} is {value!r} ({type(value).__name__}); expected a "
            f"{type(before).__name__} such as {before!r}."
        )
    return dataclasses.replace(instance, **{key: value})
