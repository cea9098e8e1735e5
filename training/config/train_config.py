"""The configuration of a training run, and how single fields are changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_type_hints

from mask2kan.checks import require, require_choice
from mask2kan.errors import ConfigError
from mask2kan.modeling.config import ModelConfig

from ..data.augmentation import Augmentation
from ..data.outliers import OutlierExposure
from .conversion import converted, is_unset

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
        name: of the recipe, and of the run folder by default.
        model: a name of ``mask2kan.list_models()``.
        model_options: overrides of the model's configuration; classes that it states must be the
            data set's, whose names and colours count otherwise.
        pretrained_backbone: file of ImageNet weights, looked up like data; ``timm`` to download
            timm's; ``random`` or empty for none.
        init: checkpoint to start from, anything ``load_model`` takes; its architecture holds, and
            ``model_options`` count for a new ``mask_embed`` alone.
        heads: ``("kan", "mlp")`` trains both on one trunk, with a KAN ``model`` and ``init`` a
            folder with both; empty for the model's own.
        branch_of: run folder whose weights, optimizer and average to go on from, in a new run.
        fresh: parts of the checkpoint to make anew, of ``mask_embed`` and ``class_embed``.
        own_classes: make ``class_embed`` anew where the checkpoint's classes are not the data's.
        trainable: ``heads`` for ``mask_embed`` and ``class_embed`` alone; ``frozen_backbone`` is
            the thesis's "encoder".
        objective: ``distillation`` teaches a new ``mask_embed`` the checkpoint's, from images
            alone.
        data: folder, name or ``synthetic``.
        views: fixed crops per image, whose features can be cached; 0 draws a new one every time.
        cache_gigabytes: of temporary disk per machine for the features of a trunk that does not
            learn.
        batch_size: crops per step, over all processes.
        steps: optimizer updates of the whole run.
        lr: peak rate outside the backbone; the factors multiply it.
        schedule: ``poly`` (Mask2Former's), ``constant``, or ``falling`` linearly to 0 (the end of a
            constant run, as a branch).
        clip_norm: largest norm of the whole gradient.
        num_points: per mask in the losses and per image in the matching.
        regularization_weight: λ1.
        contrastive_weight: λ2, where ``outliers`` are pasted.
        contrastive_margin: m of eq. 2.11.
        contrastive_form: see ``training.objectives.contrastive``.
        grid_update_steps: after these the KAN's grids are fitted to the data they see.
        average_decay: of the moving average that is evaluated and saved; 0 for none.
        batch_norm_batches: set the backbone's statistics before step 0.
        train_batch_norm: False freezes batch norms, as detectron2's FrozenBN does.
        eval_every: steps between validations.
        eval_pictures: of the validation split; 0 for all.
        save_every: steps between resumable checkpoints; 0 to go by ``save_minutes`` alone.
        channels_last: the memory format of most convolutions on CPUs and in half types on GPUs.
        full_precision_backbone: keep a backbone that loses much in half types in float32.
        workers: processes that prepare crops; 0 for the training process.
    """

    name: str
    model: str
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pretrained_backbone: str = ""
    init: str = ""
    heads: tuple[str, ...] = ()
    branch_of: str = ""
    fresh: tuple[str, ...] = ()
    own_classes: bool = False
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

    @property
    def pretrained(self) -> bool:
        """Whether a new backbone starts from ImageNet weights."""
        return self.pretrained_backbone not in ("", "random")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return dataclasses.asdict(dataclasses.replace(self, model_options=dict(self.model_options)))


# Prefixes of dotted keys, with the fields they stand for and the types that declare what is inside.
SECTIONS = {"model": "model_options", "augmentation": "augmentation", "outliers": "outliers"}
_TYPES: dict[str, Any] = {
    "": TrainConfig,
    "model": ModelConfig,
    "augmentation": Augmentation,
    "outliers": OutlierExposure,
}


def override(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """Change fields by texts: ``lr=3e-4``, ``model.num_queries=20``, ``fresh=mask_embed``.

    ``none`` restores a field's default and leaves an option of the model to its own.

    Raises:
        ConfigError: for a text without ``=``, an unknown key or a value of another type.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting!r} has no '='; write key=value, e.g. lr=3e-4.")
        changes[key.strip()] = text
    return change(config, changes)


def change(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Change fields by key; a mapping changes fields of a section (``augmentation: {flip: 0}``).

    Raises:
        ConfigError: for an unknown key, with the nearest, or a value of another type.
    """
    fields: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {
        "model": dict(config.model_options),
        "augmentation": vars(config.augmentation).copy(),
        "outliers": vars(config.outliers).copy(),
    }
    for key, value in _flat(changes):
        section, dot, field = key.partition(".")
        if not dot and key in SECTIONS.values() and is_unset(value):
            sections[key.removesuffix("_options")].clear()
            continue
        if not dot or section not in SECTIONS:
            section, field = "", key
        declared = _declared(section, field)
        target = sections[section] if section else fields
        default = _TYPES[section]() if section else config
        if not is_unset(value):
            target[field] = converted(key, declared, value, getattr(default, field))
        elif section == "model":
            target.pop(field, None)
        else:
            target[field] = _default(_TYPES[section], field)
    return dataclasses.replace(
        config,
        **{
            "model_options": sections["model"],
            "augmentation": Augmentation(**sections["augmentation"]),
            "outliers": OutlierExposure(**sections["outliers"]),
            **fields,
        },
    )


def _flat(changes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Write what is inside a section by dotted keys."""
    for key, value in changes.items():
        section = str(key).removesuffix("_options")
        if isinstance(value, Mapping) and section in SECTIONS:
            yield from ((f"{section}.{field}", inside) for field, inside in value.items())
        else:
            yield str(key), value


def _declared(section: str, field: str) -> Any:
    """Return the type of a field.

    Raises:
        ConfigError: for an unknown one, or a section that is no mapping.
    """
    types = get_type_hints(_TYPES[section])
    elsewhere = [part for part in SECTIONS if field in get_type_hints(_TYPES[part])]
    if not section and field in SECTIONS.values():
        part = field.removesuffix("_options")
        raise ConfigError(f"{field} is a section; set its fields, as in {part}.<field>=<value>.")
    if not section and field not in types and elsewhere:
        places = " or ".join(f"{part}.{field}" for part in elsewhere)
        raise ConfigError(f"Unknown setting {field!r}; it is written {places}.")
    require_choice("setting", field, types)
    return types[field]


def _default(declaring: Any, name: str) -> Any:
    """Return a field's default.

    Raises:
        ConfigError: when it has none.
    """
    (field,) = [field for field in dataclasses.fields(declaring) if field.name == name]
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    raise ConfigError(f"{name} cannot be none; every run needs one.")
