"""Load models from our checkpoints, detectron2's, those of ``transformers`` and mmsegmentation.

From a path, a bundled name or the Hugging Face Hub. The architecture is read off the checkpoint,
pickles are never executed, and a checkpoint loads completely or not at all.
"""

from __future__ import annotations

import dataclasses
import logging
from itertools import islice
from pathlib import Path

import torch

from mask2kan.checkpoints.build import build, fit
from mask2kan.checkpoints.files.json_files import read_json
from mask2kan.checkpoints.files.opened import OpenedFile
from mask2kan.checkpoints.files.parts import BESIDE, INDICES, WEIGHT_SUFFIXES, pick_files, shards_of
from mask2kan.checkpoints.files.readers import TRUNK_KEY, Contents, read_file
from mask2kan.checkpoints.files.stored import Stored
from mask2kan.checkpoints.files.weight_sets import choose
from mask2kan.checkpoints.formats.detectron2 import read_detectron2
from mask2kan.checkpoints.formats.mmsegmentation import read_mmsegmentation
from mask2kan.checkpoints.formats.native import is_native, read_bare, read_native
from mask2kan.checkpoints.formats.transformers import read_transformers
from mask2kan.checkpoints.hub import fetch
from mask2kan.checkpoints.infer_config import Checkpoint
from mask2kan.checkpoints.manifest import Address, bundled_file, entry_of, is_repo_id, list_weights
from mask2kan.errors import CheckpointError, plain_line, shortened, unknown
from mask2kan.modeling.mask2kan import Mask2KAN, list_models
from mask2kan.runtime.devices import resolve_device

logger = logging.getLogger(__name__)

REPLACED = {  # names that were bundled once
    "mask2kan_camvid": "mask2kan_road",
    "mask2former_camvid": "mask2former_road",
}
BEST = "best.safetensors"  # of a run folder
_STATE = ".pt"  # of a run's training
_MOST_LISTED = 10_000  # files of folders inside


def load_model(
    source: str | Path | Address,
    *,
    file: str | None = None,
    revision: str | None = None,
    weights: str | None = None,
    device: str | torch.device = "auto",
) -> Mask2KAN:
    """Load a model, in evaluation mode.

    What a user should know about how it was read is in its ``notes``, and logged.

    Args:
        source: a file or folder (of a training run: its best), a name from ``list_weights()`` or a
            Hub repository id, also as ``id@revision``, tried in this order; an ``Address`` always
            means the Hub.
        file: the weights' file, when a folder or repository holds several.
        revision: a branch, tag or commit on the Hub.
        weights: which set of weights, when a file holds several (``ema``, ``state_dict`` …); None
            for the averaged one, or the largest.
        device: ``auto`` (a GPU where there is one), or torch's name.

    Raises:
        CheckpointError: for a missing, damaged, unsafe or incomplete one, another architecture, or
            a model larger than the memory.
        BackendError: for a device this machine does not have.
    """
    target = resolve_device(device)
    return build_model(
        open_checkpoint(source, file=file, revision=revision, weights=weights), target
    )


def build_model(checkpoint: Checkpoint, device: str | torch.device = "auto") -> Mask2KAN:
    """Build the model of an open checkpoint, in evaluation mode, and close its files.

    Raises:
        CheckpointError, BackendError: as ``load_model``.
    """
    target = resolve_device(device)
    for note in checkpoint.notes:
        logger.warning("%s: %s", plain_line(checkpoint.origin), note)
    try:
        return build(checkpoint, target)
    finally:
        checkpoint.close()


def open_checkpoint(
    source: str | Path | Address,
    *,
    file: str | None = None,
    revision: str | None = None,
    weights: str | None = None,
) -> Checkpoint:
    """Read what ``load_model`` would load, but the weights, and fit the model without memory.

    Its files stay open, for ``build_model`` to read the weights of a model that may be large.

    Raises:
        CheckpointError: as ``load_model``, but for what only shows in the weights themselves.
    """
    if isinstance(source, Address):
        folder, name = fetch(source.repo, file or source.file, revision or source.revision)
        return _open_folder(folder, name, source.repo, weights)
    if not isinstance(source, (str, Path)):
        raise CheckpointError(
            f"load_model got a {type(source).__name__}; it loads one model, by its path or name."
        )
    origin = str(source)
    if not origin.strip() or "\0" in origin:
        raise CheckpointError("No checkpoint was named; give a path, a bundled name or a Hub id.")
    path = _existing(origin)
    origin = shortened(origin)
    if path is not None and path.is_dir():
        return _open_folder(path, file, origin, weights)
    if path is not None:
        if file is not None:
            raise CheckpointError(
                f"{origin} is a file; file= chooses one in a folder or repository."
            )
        return _interpret(read_file(path, origin, weights=weights), path.parent, origin)
    entry = entry_of(origin)
    if entry.get("file"):
        path, digest = bundled_file(entry)
        return _interpret(read_file(path, origin, digest), path.parent, origin)
    repo, at, tag = str(entry.get("hub") or origin).partition("@")
    if not is_repo_id(repo) or (at and not tag):
        raise _unknown(origin)
    if at and revision is not None and revision != tag:
        raise CheckpointError(f"{origin} names revision {tag}, and revision= is {revision!r:.60}.")
    revision = revision or tag or entry.get("revision")
    folder, name = fetch(repo, file or entry.get("hub_file"), revision)
    return _open_folder(folder, name, origin, weights)


def _existing(source: str) -> Path | None:
    """Return the path of what exists by that name."""
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, nobody's home, no characters
        return None


def _unknown(origin: str) -> CheckpointError:
    """Say why a source is neither a file nor a name."""
    if origin in REPLACED:
        return CheckpointError(
            f"{origin} is no longer bundled; {REPLACED[origin]} replaced it, with Cityscapes' 19 "
            "classes and more to learn from."
        )
    if origin in list_models():
        return CheckpointError(
            f"{origin} is an architecture without weights: create_model builds it with random "
            f"ones, training makes weights for it. With weights: {', '.join(list_weights())}."
        )
    return CheckpointError(
        f"Can't load {origin}: no such file. {unknown('checkpoint', origin, list_weights())} "
        "A Hub repository reads like owner/name."
    )


def _open_folder(folder: Path, file: str | None, origin: str, wanted: str | None) -> Checkpoint:
    try:
        return _opened(folder, file, origin, wanted)
    except OSError as error:
        raise CheckpointError(f"Can't read {origin}: {error.strerror or error}.") from error


def _opened(folder: Path, file: str | None, origin: str, wanted: str | None) -> Checkpoint:
    names = [path.relative_to(folder).as_posix() for path in folder.iterdir() if path.is_file()]
    if file is not None and "/" in file and ".." not in file and (folder / file).is_file():
        names.append(file)
    if file is None and BEST in names:  # a training run, whose other weights are its last
        file = BEST
    weights_here = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    if file is None and all(name.endswith(_STATE) for name in weights_here):
        inside = sorted(path.parent.name for path in folder.glob(f"*/{BEST}"))
        if inside:
            raise CheckpointError(
                f"{origin} holds {len(inside)} models; load one of them: "
                f"{' or '.join(str(Path(origin) / name) for name in inside)}."
            )
    try:
        weights = folder / pick_files(names, file)[0]
    except CheckpointError as error:
        raise CheckpointError(
            f"Can't load the folder {origin}. {error}{_weights_below(folder, names)}"
        ) from error
    return _interpret(_read_weights(weights, origin, wanted), weights.parent, origin)


def _weights_below(folder: Path, names: list[str]) -> str:
    """Name what folders inside hold, where the folder itself holds no weights."""
    if any(name.endswith(WEIGHT_SUFFIXES) for name in names):
        return ""
    below = sorted(
        path.relative_to(folder).as_posix()
        for path in islice(folder.glob("*/*"), _MOST_LISTED)
        if path.suffix in WEIGHT_SUFFIXES
    )
    return f" Below it: {', '.join(below[:8])}; choose one with file= (--file)." if below else ""


def _read_weights(weights: Path, origin: str, wanted: str | None) -> Contents:
    """Read one file, or all the shards of an index."""
    if weights.name not in INDICES:
        return read_file(weights, origin, weights=wanted)
    tensors: dict[str, Stored] = {}
    files: list[OpenedFile] = []
    for name in shards_of(weights):
        shard = read_file(weights.parent / name, f"{origin} ({name})", whole=True)
        duplicates = tensors.keys() & shard.tensors.keys()
        if duplicates:
            raise CheckpointError(f"Can't load {origin}. Two shards hold {min(duplicates)}.")
        tensors.update(shard.tensors)
        files += shard.files
    found = choose(tensors, wanted)
    return Contents(found.entries, layout=found.layout, notes=found.notes, files=files)


def _interpret(contents: Contents, folder: Path, origin: str) -> Checkpoint:
    try:
        checkpoint = _translate(contents, folder, origin)
        checkpoint.files += contents.files
        checkpoint.fitted = fit(checkpoint)
    except (CheckpointError, OSError) as error:
        for file in contents.files:
            file.close()
        if isinstance(error, OSError):
            raise CheckpointError(f"Can't read {origin}: {error.strerror or error}.") from error
        raise CheckpointError(f"Can't load {origin}. {error}") from error
    return checkpoint


def _translate(contents: Contents, folder: Path, origin: str) -> Checkpoint:
    """Translate into our own names and configuration."""
    if is_native(contents):
        return read_native(contents, folder, origin)
    if TRUNK_KEY in contents.metadata:
        raise CheckpointError("It is the trunk of other checkpoints beside it; load one of those.")
    state = contents.tensors
    if contents.layout == "detectron2":
        checkpoint = read_detectron2(state, origin)
    elif contents.layout == "transformers":
        config, preprocessor = (read_json(folder / name) for name in BESIDE)
        checkpoint = read_transformers(state, origin, config, preprocessor)
    elif contents.layout == "mmsegmentation":
        checkpoint = read_mmsegmentation(state, origin, contents.classes)
    elif contents.layout == "native":
        checkpoint = read_bare(state, origin)
    else:
        parts = sorted({key.split(".")[0] for key in state})
        raise CheckpointError(
            f"It is no Mask2Former, Mask2KAN or Mask2Anomaly: its {len(state)} weights belong to "
            f"{', '.join(parts[:8])}{', …' if len(parts) > 8 else ''}."
        )
    return dataclasses.replace(checkpoint, notes=(*contents.notes, *checkpoint.notes))
