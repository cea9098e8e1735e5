"""Load models from our checkpoints, detectron2's and those of ``transformers``.

From a path, a bundled name or the Hugging Face Hub. The architecture is read off the checkpoint,
pickles are never executed, and a checkpoint loads completely or not at all.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mask2kan.checkpoints.detectron2 import is_detectron2, read_detectron2
from mask2kan.checkpoints.hub import fetch
from mask2kan.checkpoints.infer_config import Checkpoint, build
from mask2kan.checkpoints.manifest import Address, bundled_file, entry_of, is_repo_id, list_weights
from mask2kan.checkpoints.native import TRUNK_KEY, is_native, read_native
from mask2kan.checkpoints.parts import BESIDE, INDICES, pick_files, shards_of
from mask2kan.checkpoints.readers import Contents, read_file, read_json
from mask2kan.checkpoints.transformers import is_transformers, read_transformers
from mask2kan.errors import CheckpointError, unknown
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.runtime.devices import resolve_device

REPLACED = {  # names that were bundled once
    "mask2kan_camvid": "mask2kan_road",
    "mask2former_camvid": "mask2former_road",
}
BEST = "best.safetensors"  # of a run folder
WEIGHTS = (".safetensors", ".pth", ".pkl", ".bin")  # a run's .pt is the state of its training


def load_model(
    source: str | Path | Address,
    *,
    file: str | None = None,
    revision: str | None = None,
    device: str | torch.device = "auto",
) -> Mask2KAN:
    """Load a model, in evaluation mode.

    Args:
        source: a file or folder (of a training run: its best), a name from ``list_weights()`` or a
            Hub repository id, tried in this order; an ``Address`` always means the Hub.
        file: the weights' file, when a folder or repository holds several.
        revision: a branch, tag or commit on the Hub.
        device: ``auto`` (a GPU where there is one), or torch's name.

    Raises:
        CheckpointError: for a missing, damaged, unsafe or incomplete one, or another architecture.
        BackendError: for a device this machine does not have.
    """
    target = resolve_device(device)
    return build(open_checkpoint(source, file=file, revision=revision)).to(target)


def open_checkpoint(
    source: str | Path | Address, *, file: str | None = None, revision: str | None = None
) -> Checkpoint:
    """Read what ``load_model`` would load, without building the model.

    Raises:
        CheckpointError: as ``load_model``, except for keys that do not fit.
    """
    if isinstance(source, Address):
        folder, name = fetch(source.repo, file or source.file, revision or source.revision)
        return _open_folder(folder, name, source.repo)
    origin = str(source)
    if not origin.strip() or "\0" in origin:
        raise CheckpointError("No checkpoint was named; give a path, a bundled name or a Hub id.")
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path, file, origin)
    if path.exists():
        if file is not None:
            raise CheckpointError(
                f"{origin} is a file; file= chooses one in a folder or repository."
            )
        return _interpret(read_file(path, origin), path.parent, origin)
    entry = entry_of(origin)
    if entry.get("file"):
        path, digest = bundled_file(entry)
        return _interpret(read_file(path, origin, digest), path.parent, origin)
    if origin in REPLACED:
        raise CheckpointError(
            f"{origin} is no longer bundled; {REPLACED[origin]} replaced it, with Cityscapes' 19 "
            "classes and more to learn from."
        )
    repo = str(entry.get("hub") or origin)
    if not is_repo_id(repo):
        raise CheckpointError(
            f"Can't load {origin}: no such file. {unknown('checkpoint', origin, list_weights())} "
            "A Hub repository reads like owner/name."
        )
    folder, name = fetch(repo, file or entry.get("hub_file"), revision or entry.get("revision"))
    return _open_folder(folder, name, origin)


def _open_folder(folder: Path, file: str | None, origin: str) -> Checkpoint:
    names = [path.relative_to(folder).as_posix() for path in folder.iterdir() if path.is_file()]
    if file is not None and "/" in file and ".." not in file and (folder / file).is_file():
        names.append(file)
    if file is None and BEST in names:  # a training run, whose other weights are its last
        file = BEST
    if file is None and not any(name.endswith(WEIGHTS) for name in names):
        inside = sorted(path.parent.name for path in folder.glob(f"*/{BEST}"))
        if inside:
            raise CheckpointError(
                f"{origin} holds {len(inside)} models; load one of them: "
                f"{' or '.join(str(Path(origin) / name) for name in inside)}."
            )
    try:
        weights = folder / pick_files(names, file)[0]
    except CheckpointError as error:
        raise CheckpointError(f"Can't load the folder {origin}. {error}") from error
    return _interpret(_read_weights(weights, origin), weights.parent, origin)


def _read_weights(weights: Path, origin: str) -> Contents:
    """Read one file, or all the shards of an index."""
    if weights.name not in INDICES:
        return read_file(weights, origin)
    contents = Contents({})
    for name in shards_of(weights):
        shard = read_file(weights.parent / name, f"{origin} ({name})")
        duplicates = contents.tensors.keys() & shard.tensors.keys()
        if duplicates:
            raise CheckpointError(f"Can't load {origin}. Two shards hold {min(duplicates)}.")
        contents.tensors.update(shard.tensors)
    return contents


def _interpret(contents: Contents, folder: Path, origin: str) -> Checkpoint:
    try:
        return _translate(contents, folder, origin)
    except CheckpointError as error:
        raise CheckpointError(f"Can't load {origin}. {error}") from error


def _translate(contents: Contents, folder: Path, origin: str) -> Checkpoint:
    """Recognise the format by the keys, and translate."""
    state = contents.tensors
    if is_native(contents):
        return read_native(contents, folder, origin)
    if TRUNK_KEY in contents.metadata:
        raise CheckpointError("It is the trunk of other checkpoints beside it; load one of those.")
    if is_detectron2(state):
        return read_detectron2(state, origin)
    if is_transformers(state):
        config, preprocessor = (read_json(folder / name) for name in BESIDE)
        return read_transformers(state, origin, config, preprocessor)
    if any(key.startswith("transformer_decoder.") for key in state):
        raise CheckpointError(
            "It has our weights but not the metadata that says what they are; write it with "
            "save_model."
        )
    parts = sorted({key.split(".")[0] for key in state})
    raise CheckpointError(
        f"It is no Mask2Former, Mask2KAN or Mask2Anomaly: its {len(state)} weights belong to "
        f"{', '.join(parts[:8])}{', …' if len(parts) > 8 else ''}."
    )
