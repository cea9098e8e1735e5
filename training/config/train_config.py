"""What a training run is told: one frozen dataclass, and how single fields are changed.

The presets are in ``training.config.recipes``.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

from mask2kan.checks import require, require_choice
from mask2kan.errors import ConfigError
from mask2kan.modeling.config import ModelConfig

from ..data.augmentation import Augmentation
from ..data.outliers import OutlierExposure

Settings = TypeVar("Settings", "TrainConfig", Augmentation, OutlierExposure)

NOT_NEGATIVE = (
    *("views", "workers", "warmup_steps", "save_every", "batch_norm_batches", "eval_pictures"),
    *("cache_gigabytes", "backbone_factor", "weight_decay", "no_object_weight", "save_minutes"),
    *("regularization_weight", "contrastive_weight", "contrastive_margin", "spline_factor"),
)
PARTS = ("mask_embed", "class_embed")
Trainable = Literal["all", "frozen_backbone", "heads"]
ObjectiveName = Literal["segmentation", "distillation"]
ContrastiveForm = Literal["published", "well_posed"]
Schedule = Literal["poly", "constant", "falling"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        name: of the recipe, and of the run folder unless told otherwise.
        model: a name of ``mask2kan.list_models()``.
        model_options: overrides of the model's configuration; number, names and colours of the
            classes are the data set's unless given.
        pretrained_backbone: file of ImageNet weights, looked up like data; ``timm`` to download
            timm's; ``random`` or empty for none.
        init: checkpoint to start from (anything ``load_model`` takes) instead of random weights.
            The architecture is then the checkpoint's; of the model's configuration only the
            options of ``mask_embed`` count, where it is made anew.
        heads: the heads trained on one trunk, ``("kan", "mlp")``; empty for the model's own alone.
            ``model`` is then the KAN model's name and ``init`` a folder with both.
        branch_of: run folder whose weights, optimizer and average to go on from, in a run of its
            own: a milestone of a run with a constant learning rate.
        fresh: parts of the checkpoint to make anew, of ``mask_embed`` and ``class_embed``.
        trainable: ``all``, ``frozen_backbone`` (the thesis's "encoder"), or ``heads``: only
            ``mask_embed`` and ``class_embed``.
        objective: ``segmentation``, or ``distillation`` of the checkpoint's own ``mask_embed``
            into a new one from images alone.
        data: folder, known name or ``synthetic``.
        augmentation: how crops are drawn.
        outliers: which unknown objects are pasted into the images, and how often.
        views: crops of an image come from this many fixed ones, whose features can be kept; 0
            draws a new one every time.
        cache_gigabytes: of temporary disk on each machine for the features of a trunk that does
            not learn.
        batch_size: crops per step, over all processes.
        steps: optimizer updates of the whole run.
        lr: peak learning rate outside the backbone.
        backbone_factor: the backbone's share of it.
        weight_decay: of weights; see ``training.engine.optimizer``.
        spline_factor: the share of ``lr`` for a KAN's splines.
        decay_splines: whether weight decay pulls splines to zero too.
        schedule: ``poly`` (Mask2Former's decay), ``constant`` (prolonged at will), or ``falling``
            in a straight line to 0 (the end of a constant run: a branch of it).
        clip_norm: largest norm of the whole model's gradient.
        warmup_steps: of linear warm-up.
        num_points: per mask in the losses and per image in the matching.
        no_object_weight: of the no-object class in the class loss.
        regularization_weight: λ1 of the KAN's regularisation; nothing on an MLP.
        contrastive_weight: λ2 of the contrastive term, which is computed where ``outliers`` are
            pasted.
        contrastive_margin: m of eq. 2.11.
        contrastive_form: ``published`` or ``well_posed``; see ``training.objectives.contrastive``.
        grid_update_steps: after these steps the KAN's grids are fitted to the data they see.
        average_decay: of the moving average of the weights that is evaluated and saved; 0 for none.
        batch_norm_batches: batches of crops that set the backbone's statistics before step 0.
        train_batch_norm: False keeps statistics and weights of batch norms as they are for the
            whole run, as detectron2's FrozenBN does.
        eval_every: steps between two validations.
        eval_pictures: of the validation split; 0 for all.
        save_every: steps between two resumable checkpoints; 0 to go by time alone.
        save_minutes: at most this long between two resumable checkpoints.
        channels_last: whether maps lie channels last in memory, which is what most convolutions on
            CPUs and in half types on GPUs are made for.
        full_precision_backbone: whether a backbone that loses much in half types computes in
            float32 under mixed precision too.
        seed: of weights, crops and points.
        workers: processes that prepare crops; 0 prepares them in the training process.
    """

    name: str
    model: str
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pretrained_backbone: str = ""
    init: str = ""
    heads: tuple[str, ...] = ()
    branch_of: str = ""
    fresh: tuple[str, ...] = ()
    trainable: Trainable = "all"
    objective: ObjectiveName = "segmentation"
    data: str = "camvid"
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    outliers: OutlierExposure = dataclasses.field(default_factory=OutlierExposure)
    views: int = 0
    cache_gigabytes: float = 8.0
    batch_size: int = 8
    steps: int = 1000
    lr: float = 6e-4
    backbone_factor: float = 0.33
    weight_decay: float = 0.05
    spline_factor: float = 1.0
    decay_splines: bool = True
    schedule: Schedule = "poly"
    clip_norm: float = 0.01
    warmup_steps: int = 50
    num_points: int = 1024
    no_object_weight: float = 0.1
    regularization_weight: float = 0.0
    contrastive_weight: float = 1.0
    contrastive_margin: float = 1.0
    contrastive_form: ContrastiveForm = "well_posed"
    grid_update_steps: tuple[int, ...] = ()
    average_decay: float = 0.995
    batch_norm_batches: int = 10
    train_batch_norm: bool = True
    eval_every: int = 100
    eval_pictures: int = 25
    save_every: int = 0
    save_minutes: float = 5.0
    channels_last: bool = True
    full_precision_backbone: bool = True
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run can be made of.

        Raises:
            ConfigError: naming the field, the value found and what it must be.
        """
        for field in ("batch_size", "steps", "num_points", "eval_every"):
            require(field, getattr(self, field), 1)
        for field in NOT_NEGATIVE:
            require(field, getattr(self, field), 0)
        require("seed", self.seed, 0, 2**32 - 1)
        for field in ("lr", "clip_norm"):
            require(field, getattr(self, field), 0.0, above=True)
        require("average_decay", self.average_decay, 0.0, 1.0, below=True)
        for step in self.grid_update_steps:
            require("grid_update_steps", step, 1, whole=True)
        for field, choices in (
            ("trainable", Trainable),
            ("objective", ObjectiveName),
            ("contrastive_form", ContrastiveForm),
            ("schedule", Schedule),
        ):
            require_choice(field, getattr(self, field), get_args(choices))
        if self.heads and (self.heads != ("kan", "mlp") or self.trainable == "heads"):
            raise ConfigError(
                f"heads is {self.heads!r} with trainable={self.trainable!r}; expected "
                "('kan', 'mlp') on a trunk that learns, or () for the model's own head alone."
            )
        if self.heads and not self.model.startswith("mask2kan_"):
            raise ConfigError(f"model is {self.model!r}; a pair of heads needs a mask2kan model.")
        for part in self.fresh:
            require_choice("part to make anew", part, PARTS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(dataclasses.replace(self, model_options=dict(self.model_options)))


_DEFAULT_MODEL = ModelConfig()


def override(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """Change fields by ``key=value`` texts.

    Args:
        config: what to change.
        settings: ``lr=3e-4``, ``model.num_queries=20`` (an option of the model),
            ``augmentation.crop=(192,256)`` or ``outliers.source=procedural``.

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
            if hasattr(_DEFAULT_MODEL, option):  # others are refused where models are made
                value = _fitting(key, getattr(_DEFAULT_MODEL, option), value)
            options = {**config.model_options, option: value}
            config = dataclasses.replace(config, model_options=options)
        elif section in ("augmentation", "outliers") and option:
            changed = _replace(getattr(config, section), option, value)
            config = dataclasses.replace(config, **{section: changed})
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
    require_choice("setting", key, [field.name for field in dataclasses.fields(instance)])
    value = _fitting(key, getattr(instance, key), value)
    return dataclasses.replace(instance, **{key: value})


def _fitting(key: str, before: Any, value: Any) -> Any:
    """A value of the type of the one it replaces.

    Raises:
        ConfigError: when it cannot be one.
    """
    if isinstance(before, float) and type(value) is int:
        value = float(value)
    if isinstance(before, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(before, tuple) and isinstance(value, tuple) and before:
        kinds = {type(one) for one in before}
        value = tuple(float(v) if kinds == {float} and type(v) is int else v for v in value)
        if {type(one) for one in value} - kinds:
            raise ConfigError(f"{key} is {value!r}; expected the form of {before!r}.")
    if type(value) is not type(before):
        raise ConfigError(
            f"{key} is {value!r} ({type(value).__name__}); expected a "
            f"{type(before).__name__} such as {before!r}."
        )
    return value
