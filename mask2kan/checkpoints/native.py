"""Our own checkpoints: one safetensors file that carries everything needed to use it.

The metadata's key ``mask2kan`` is a JSON object: ``format`` (1), ``config`` (``ModelConfig``, with
class names and palette filled in), ``calibration`` (per anomaly score), ``settings``
(``InferenceSettings``; absent for native ones) and ``card`` (whatever its maker wants known).
Weights may be float16; KAN knots and running statistics stay float32, since half precision would
collapse knots and can overflow a variance.

Models that stand on one trunk may share its file: theirs then hold the transformer decoder only,
and the metadata's ``trunk`` names the file beside them, with its sha256.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mask2kan.checkpoints.infer_config import Checkpoint, checked_config
from mask2kan.checkpoints.readers import SHA256, Contents, parse_json, read_file, sha256_of
from mask2kan.errors import CheckpointError, ConfigError
from mask2kan.media.files import atomic_writer
from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.modeling.settings import InferenceSettings

METADATA_KEY = "mask2kan"
TRUNK_KEY = "mask2kan_trunk"  # of a file that holds a trunk alone
FORMAT = 1

_FULL_PRECISION = (".grid", ".running_mean", ".running_var")


def save_model(model: Mask2KAN, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a model as our own safetensors file, in one step.

    Args:
        model: its weights, configuration, calibration and card are written.
        path: a crash leaves what was there before, or the whole new file.
        dtype: of the weights in the file (``torch.float16`` halves it); None for float32.

    Raises:
        CheckpointError: when a weight is not finite in that type.
        WriteError: when the file cannot be written.
    """
    _write(path, model.state_dict(), {METADATA_KEY: _about(model, path)}, dtype)


def save_pair(
    models: Mapping[str, Mask2KAN],
    folder: str | Path,
    trunk: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Write models that stand on one trunk, the trunk once.

    Args:
        models: by the names of their files, without the ending.
        folder: where to; made when absent.
        trunk: the name of the trunk's file, without the ending.
        dtype: as for ``save_model``.

    Raises:
        CheckpointError: as ``save_model``, and when their trunks differ.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shared, *others = (_split(model.state_dict())[0] for model in models.values())
    for other in others:
        same = shared.keys() == other.keys()
        if not same or any(not torch.equal(shared[key], other[key]) for key in shared):
            raise CheckpointError(
                f"Can't save {', '.join(models)} on one trunk: their trunks differ."
            )
    path = folder / f"{trunk}.safetensors"
    _write(path, shared, {TRUNK_KEY: "{}"}, dtype)
    beside = {"file": path.name, "sha256": sha256_of(path)}
    for name, model in models.items():
        path = folder / f"{name}.safetensors"
        metadata = {METADATA_KEY: _about(model, path, trunk=beside)}
        _write(path, _split(model.state_dict())[1], metadata, dtype)


def save_again(model: Mask2KAN, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a model over a file; where that is a head on the model's own trunk, it stays one.

    Args:
        model: whose calibration, settings or card changed.
        path: as for ``save_model``; may be new, or of another model, which is then replaced.
        dtype: as for ``save_model``.

    Raises:
        CheckpointError: as ``save_model``, and when the file that is there is no checkpoint.
    """
    path = Path(path)
    trunk = trunk_of(path)
    if trunk is None or not _stands_on(model, path.with_name(trunk["file"])):
        save_model(model, path, dtype)
        return
    metadata = {METADATA_KEY: _about(model, path, trunk=trunk)}
    _write(path, _split(model.state_dict())[1], metadata, dtype)


def _stands_on(model: Mask2KAN, path: Path) -> bool:
    """Whether a trunk's file holds the model's trunk, as its numbers are stored."""
    if not path.is_file():
        return False
    stored = read_file(path, path.name).tensors
    ours = _split(model.state_dict())[0]
    return stored.keys() == ours.keys() and all(
        torch.equal(value, ours[key].to("cpu", value.dtype)) for key, value in stored.items()
    )


def trunk_of(path: Path) -> dict[str, str] | None:
    """The ``file`` and ``sha256`` of a file's trunk; None where it is whole or not there.

    Raises:
        CheckpointError: when the file is there and is no safetensors file.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(METADATA_KEY, "{}")
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is there and is no safetensors file; choose another name."
        ) from error
    return parse_json(about, "metadata").get("trunk")


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trunk's weights, and the decoder's."""
    parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for key, value in state.items():
        parts[key.startswith("transformer_decoder.")][key] = value
    return parts


def _about(model: Mask2KAN, path: str | Path, **more: Any) -> str:
    """The metadata of a model as JSON."""
    config = dataclasses.replace(
        model.config,
        class_names=tuple(model.class_names),
        palette=tuple((int(r), int(g), int(b)) for r, g, b in model.palette),
    )
    about = {
        "format": FORMAT,
        "config": config.to_dict(),
        "calibration": model.calibration,
        "card": model.card,
    }
    if model.settings is not None:
        about["settings"] = model.settings.to_dict()
    try:
        return json.dumps({**about, **more}, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"Can't save {path}: calibration or card: {error}.") from error


def _write(
    path: str | Path,
    state: Mapping[str, Tensor],
    metadata: dict[str, str],
    dtype: torch.dtype | None,
) -> None:
    if dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
        raise CheckpointError(f"Can't save as {dtype}; use float32, float16 or bfloat16.")
    tensors = {key: _stored(key, value, dtype or torch.float32) for key, value in state.items()}
    data = save(tensors, metadata=metadata)
    with atomic_writer(Path(path)) as file:
        file.write(data)


def _stored(key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        return value.detach().cpu().contiguous()
    dtype = torch.float32 if key.endswith(_FULL_PRECISION) else dtype
    stored = value.detach().to("cpu", dtype).contiguous()
    if not bool(stored.isfinite().all()):
        raise CheckpointError(
            f"Can't save: {key} has values that are not finite in {dtype}. "
            "Save as float32 if they are merely large."
        )
    return stored


def is_native(contents: Contents) -> bool:
    """Whether a file is one of ours."""
    return METADATA_KEY in contents.metadata


def read_native(contents: Contents, folder: Path, origin: str) -> Checkpoint:
    """A checkpoint written by ``save_model``, with the trunk it stands on from its folder.

    Raises:
        CheckpointError: when its metadata does not describe a model, or the trunk is missing,
            damaged or another one.
    """
    about = parse_json(contents.metadata[METADATA_KEY], "metadata")
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"Its format is {about.get('format')!r:.40} and this version reads {FORMAT}; "
            "update mask2kan."
        )
    fields, card = about.get("config"), about.get("card") or {}
    if not isinstance(fields, dict):
        raise CheckpointError("Its metadata has no config.")
    if not isinstance(card, dict):
        raise CheckpointError("Its metadata's card is no table.")
    return Checkpoint(
        origin,
        "native",
        _whole(contents.tensors, about.get("trunk"), folder),
        _config(fields),
        calibration=_calibration(about.get("calibration") or {}),
        settings=_settings(about.get("settings")),
        card=card,
    )


def _whole(tensors: dict[str, Tensor], trunk: Any, folder: Path) -> dict[str, Tensor]:
    """A model's tensors, those of its trunk from the file that the metadata names."""
    if trunk is None:
        return tensors
    if not isinstance(trunk, dict):
        raise CheckpointError(f"Its trunk is {trunk!r:.60}; expected a table.")
    name, digest = (str(trunk.get(key, "")) for key in ("file", "sha256"))
    if (
        PurePath(name).name != name
        or not name.endswith(".safetensors")
        or not SHA256.fullmatch(digest)
    ):
        raise CheckpointError(
            f"Its trunk is {name!r:.60}; expected a plain file name and a sha256."
        )
    if not (folder / name).is_file():
        raise CheckpointError(
            f"It is a head; its trunk {name} is not beside it. Put both into one folder."
        )
    shared = read_file(folder / name, name, digest).tensors
    twice = shared.keys() & tensors.keys()
    if twice:
        raise CheckpointError(f"Both it and its trunk {name} hold {min(twice)}.")
    return {**shared, **tensors}


def _settings(found: Any) -> InferenceSettings | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        raise CheckpointError("Its settings are no table.")
    try:
        return InferenceSettings.from_dict(found)
    except ConfigError as error:
        raise CheckpointError(f"Its settings cannot be used: {error}") from error


def _config(fields: Mapping[str, Any]) -> ModelConfig:
    config = checked_config(fields)
    colours = [value for colour in config.palette for value in colour]
    if any(type(value) is not int or not 0 <= value <= 255 for value in colours):
        raise CheckpointError("Its palette has values outside 0-255.")
    if sum(config.backbone_depths) > 1000:
        raise CheckpointError(f"Its backbone_depths are {config.backbone_depths}.")
    return config


def _calibration(found: Any) -> dict[str, dict[str, Any]]:
    """Per score a range and thresholds, all finite numbers.

    Raises:
        CheckpointError: for anything else; a map drawn on a broken range would mislead.
    """
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise CheckpointError("Its calibration is no table of tables.")
    for score, one in found.items():
        numbers = [one[key] for key in ("fpr05", "tpr95", "best_f1") if one.get(key) is not None]
        limits = one.get("range")
        if limits is not None:
            if not isinstance(limits, list) or len(limits) != 2:
                raise CheckpointError(
                    f"Its calibration of {score!r:.40} has no range of two numbers."
                )
            numbers += limits
        if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            raise CheckpointError(
                f"Its calibration of {score!r:.40} has values that are no numbers."
            )
    return found
