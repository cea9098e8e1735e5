"""Our own checkpoints: one safetensors file that carries everything needed to use it.

The metadata's key ``mask2kan`` is a JSON object: ``format`` (1), ``config`` (``ModelConfig`` with
class names and palette), ``calibration`` (per anomaly score), ``settings`` (``InferenceSettings``;
absent for native ones), ``card`` (its maker's own) and ``trunk`` (``file`` and ``sha256`` of a
trunk beside it, which several models share: theirs hold the transformer decoder only). The key
``sha256`` is that of all weights, from the header's end on; older files lack it. Weights may be
float16, but not KAN knots, which would collapse, nor running statistics, which would overflow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from mask2kan.checkpoints.build import fit
from mask2kan.checkpoints.files.json_files import parse_json
from mask2kan.checkpoints.files.opened import SHA256, OpenedFile, is_file_name, sha256_of
from mask2kan.checkpoints.files.readers import (
    DIGEST_KEY,
    METADATA_KEY,
    TRUNK_KEY,
    Contents,
    read_file,
)
from mask2kan.checkpoints.files.safetensors_files import read_metadata
from mask2kan.checkpoints.files.stored import InMemory
from mask2kan.checkpoints.files.weight_sets import unwrapped
from mask2kan.checkpoints.formats.native_metadata import (
    plain_text,
    read_calibration,
    read_settings,
)
from mask2kan.checkpoints.infer_config import (
    Checkpoint,
    StateDict,
    assumed_classes,
    checked_config,
    infer_config,
)
from mask2kan.errors import CheckpointError
from mask2kan.media.files import atomic_writer
from mask2kan.modeling.config import model_config
from mask2kan.modeling.mask2kan import Mask2KAN

FORMAT = 1

_FULL_PRECISION = (".grid", ".running_mean", ".running_var")


def save_model(model: nn.Module, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a model as our own safetensors file, whole or not at all.

    Args:
        model: a ``Mask2KAN``, also inside ``torch.compile`` or ``DataParallel``.
        path: replaced only by a file that ``load_model`` takes.
        dtype: of the file's weights (``torch.float16`` halves it); None for float32.

    Raises:
        CheckpointError: for another model, or a weight that is not finite in that dtype.
        WriteError: when the file cannot be written.
    """
    plain, state = _unwrapped(model, path)
    _write(path, state, {METADATA_KEY: _about(plain, path)}, dtype)


def save_pair(
    models: Mapping[str, nn.Module],
    folder: str | Path,
    trunk: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Write models that share a trunk, the trunk once; file names are without suffix.

    Raises:
        CheckpointError: as ``save_model``, and when their trunks differ.
    """
    folder = Path(folder)
    plain = {name: _unwrapped(model, folder / name) for name, model in models.items()}
    shared, *others = (_split(state)[0] for _, state in plain.values())
    for other in others:
        same = shared.keys() == other.keys()
        if not same or any(not torch.equal(shared[key], other[key]) for key in shared):
            raise CheckpointError(
                f"Can't save {', '.join(models)} on one trunk: their trunks differ."
            )
    path = folder / f"{trunk}.safetensors"
    _write(path, shared, {TRUNK_KEY: "{}"}, dtype)
    beside = {"file": path.name, "sha256": sha256_of(path)}
    for name, (model, state) in plain.items():
        path = folder / f"{name}.safetensors"
        metadata = {METADATA_KEY: _about(model, path, trunk=beside)}
        _write(path, _split(state)[1], metadata, dtype)


def save_again(model: nn.Module, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a model over a file; where that is a head on the model's own trunk, it stays one.

    Raises:
        CheckpointError: as ``save_model``, and when ``path`` is there and is no checkpoint.
    """
    path = Path(path)
    plain, state = _unwrapped(model, path)
    trunk = trunk_of(path)
    if trunk is None or not _stands_on(state, path.with_name(trunk["file"])):
        save_model(model, path, dtype)
        return
    metadata = {METADATA_KEY: _about(plain, path, trunk=trunk)}
    _write(path, _split(state)[1], metadata, dtype)


def _unwrapped(model: nn.Module, path: str | Path) -> tuple[Mask2KAN, dict[str, Tensor]]:
    """Take a model and its weights out of their wrappers, and check that they can be read back.

    Raises:
        CheckpointError: for another model, or one whose file ``load_model`` would refuse.
    """
    plain = model
    while not isinstance(plain, Mask2KAN):
        inner = getattr(plain, "_orig_mod", None) or getattr(plain, "module", None)
        if not isinstance(inner, nn.Module):
            raise CheckpointError(
                f"Can't save {path}: it is a {type(model).__name__}, and a Mask2KAN was expected."
            )
        plain = inner
    state = unwrapped(plain.state_dict())
    try:
        metadata = {METADATA_KEY: _about(plain, path)}
        weights = {key: InMemory(value) for key, value in state.items()}
        fit(read_native(Contents(dict(weights), metadata), Path(path).parent, str(path)))
    except CheckpointError as error:
        raise CheckpointError(f"Can't save {path}; it could not be read back. {error}") from error
    return plain, state


def _stands_on(state: Mapping[str, Tensor], path: Path) -> bool:
    """Whether a file holds a model's trunk, in the file's dtype."""
    if not path.is_file():
        return False
    trunk = read_file(path, path.name)
    ours = _split(state)[0]
    try:
        return trunk.tensors.keys() == ours.keys() and all(
            torch.equal(stored.read().to(ours[key].dtype), ours[key].cpu())
            for key, stored in trunk.tensors.items()
        )
    finally:
        for file in trunk.files:
            file.close()


def trunk_of(path: Path) -> dict[str, str] | None:
    """Read the ``file`` (a plain name) and ``sha256`` of a file's trunk, if it has one.

    Raises:
        CheckpointError: when the file is there and is no safetensors file.
    """
    if not path.is_file():
        return None
    try:
        trunk = _about_in(path).get("trunk")
    except (CheckpointError, OSError) as error:
        raise CheckpointError(
            f"{path} is there and is no safetensors file; choose another name."
        ) from error
    name = trunk.get("file") if isinstance(trunk, dict) else None
    return trunk if isinstance(name, str) and is_file_name(name) else None


def stored_config(path: Path) -> dict[str, Any]:
    """Read the config in a file's metadata, unchecked, but none of its weights.

    Empty for what is no file of ours.
    """
    try:
        config = _about_in(path).get("config") if path.is_file() else None
    except (CheckpointError, OSError):
        return {}
    return config if isinstance(config, dict) else {}


def _about_in(path: Path) -> dict[str, Any]:
    return parse_json(read_metadata(path).get(METADATA_KEY, "{}"), "metadata")


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split off the decoder's weights."""
    parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for key, value in state.items():
        parts[key.startswith("transformer_decoder.")][key] = value
    return parts


def _about(model: Mask2KAN, path: str | Path, **more: Any) -> str:
    """Encode a model's metadata as JSON."""
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
        **({} if model.settings is None else {"settings": model.settings.to_dict()}),
        **more,
    }
    try:
        return json.dumps(about, allow_nan=False)
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
    content = memoryview(save(tensors))
    start = 8 + int.from_bytes(content[:8], "little")
    digest = hashlib.sha256(content[start:]).hexdigest()
    header = json.loads(bytes(content[8:start]))
    header = {"__metadata__": {**metadata, DIGEST_KEY: digest}, **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers stay aligned
    with atomic_writer(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(content[start:])


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
    """Read a checkpoint written by ``save_model``, with its trunk from the same folder.

    Raises:
        CheckpointError: for unusable metadata, or a missing or damaged trunk.
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
        raise CheckpointError("Its metadata's card is not an object.")
    files: list[OpenedFile] = []
    return Checkpoint(
        origin,
        "native",
        _whole(contents.tensors, about.get("trunk"), folder, files),
        checked_config(fields),
        calibration=read_calibration(about.get("calibration") or {}),
        settings=read_settings(about.get("settings")),
        card=plain_text(card),
        files=files,
    )


def read_bare(state: StateDict, origin: str) -> Checkpoint:
    """Read weights in our names without the metadata that ``save_model`` writes.

    Raises:
        CheckpointError: for a missing part or an unsupported shape.
    """
    usual = model_config(f"mask2kan_{infer_config(state).backbone}")
    config = infer_config(state, pixel_mean=usual.pixel_mean, pixel_std=usual.pixel_std)
    notes = (
        "It has our weights but not the metadata that save_model writes: 4 sampling points a "
        "head, its backbone's usual mean and std and (KAN) SiLU are assumed, calibration and the "
        f"sizes to run at are missing, and its {assumed_classes(config.num_classes)}.",
    )
    return Checkpoint(origin, "native", state, config, notes=notes)


def _whole(tensors: StateDict, trunk: Any, folder: Path, files: list[OpenedFile]) -> StateDict:
    """Add the tensors of the trunk's file that the metadata names, and the file."""
    if trunk is None:
        return tensors
    if not isinstance(trunk, dict):
        raise CheckpointError(f"Its trunk is {trunk!r:.60}; expected an object.")
    name, digest = (str(trunk.get(key, "")) for key in ("file", "sha256"))
    if not is_file_name(name) or not name.endswith(".safetensors") or not SHA256.fullmatch(digest):
        raise CheckpointError(
            f"Its trunk is {name!r:.60}; expected a plain file name and a sha256."
        )
    if not (folder / name).is_file():
        raise CheckpointError(
            f"It is a head; its trunk {name} is not beside it. Put both into one folder."
        )
    contents = read_file(folder / name, name, digest)
    files += contents.files
    shared = contents.tensors
    duplicates = shared.keys() & tensors.keys()
    if duplicates:
        raise CheckpointError(f"Both it and its trunk {name} hold {min(duplicates)}.")
    return {**shared, **tensors}
