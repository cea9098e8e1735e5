"""A run's configuration in a YAML or JSON file: fields of ``TrainConfig``, over a recipe or alone.

    recipe: finetune          # optional; without it, model must be given
    data: own_photos
    steps: 500
    fresh: [mask_embed]
    augmentation: {crop: [256, 256], flip: 0}
    model_options: {num_queries: 20}

``config.json`` of a run folder, or the folder, repeats that run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mask2kan.errors import ConfigError, one_line

from .recipes import recipe
from .train_config import TrainConfig, change

OF_A_RUN = "config.json"


def read_config(path: Path, start: str | None = None) -> TrainConfig:
    """Read a configuration.

    Args:
        path: a file, or a run folder.
        start: recipe it changes, unless it names one itself.

    Raises:
        ConfigError: for a file that cannot be read, an unknown key or a value that does not fit,
            naming the file.
    """
    path = path / OF_A_RUN if path.is_dir() else path
    fields = _read(path)
    try:
        return change(_start(fields.pop("recipe", None), start, fields, path.stem), fields)
    except ConfigError as error:
        raise ConfigError(f"Cannot use {path}. {error}") from error


def _start(named: Any, given: str | None, fields: Mapping[str, Any], name: str) -> TrainConfig:
    """Return what the file's fields change."""
    if named is not None and given not in (None, named):
        raise ConfigError(f"It starts from recipe {named!r}, and the command names {given!r}.")
    if named is not None or given is not None:
        return recipe(str(named or given))
    if "model" not in fields or isinstance(fields["model"], dict):
        raise ConfigError(
            "It names neither a recipe to start from (recipe: camvid_kan) nor a model "
            "(model: mask2kan_mobilenetv2)."
        )
    return TrainConfig(name=name, model="")


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise ConfigError(
            f"Cannot read {path}: {reason}; expected a file of settings, such as 'steps: 500', "
            "or the folder of a run."
        ) from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} holds no settings; expected lines such as 'steps: 500'.")
    return fields
