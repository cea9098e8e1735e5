"""Which files of a folder or repository make up its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mask2kan.checkpoints.files.json_files import read_json
from mask2kan.checkpoints.files.opened import is_file_name
from mask2kan.checkpoints.formats.native import trunk_of
from mask2kan.errors import CheckpointError

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
BESIDE = ("config.json", "preprocessor_config.json")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pkl", ".ckpt", ".bin", ".pt")
MAX_SHARDS = 256
# beside the weights that trainers save
_STATES = ("optimizer", "scheduler", "scaler", "random_states", "rng_state", "training_args")


def pick_files(names: Iterable[str], file: str | None) -> list[str]:
    """Pick the files of a checkpoint: weights (or the index of their shards), then configurations.

    ``names`` have "/" between folders; ``file`` is the user's choice.

    Raises:
        CheckpointError: when there is none, or no way to choose.
    """
    available = set(names)
    if file is not None:
        if file not in available:
            weights = sorted(name for name in available if name.endswith(WEIGHT_SUFFIXES))[:8]
            raise CheckpointError(
                f"It has no file {file!r:.80}; it has {', '.join(weights) or 'no weights'}."
            )
        return [file, *_beside(file, available)]
    if "config.json" in available:
        for name in ("model.safetensors", INDICES[0], "pytorch_model.bin", INDICES[1]):
            if name in available:
                return [name, *_beside(name, available)]
    for index in INDICES:
        if index in available:
            return [index, *_beside(index, available)]
    for suffixes in ((".safetensors",), (".pth", ".pkl"), (".ckpt", ".bin", ".pt")):
        weights = sorted(
            name
            for name in available
            if name.endswith(suffixes) and "/" not in name and not name.startswith(_STATES)
        )
        if len(weights) == 1:
            return [weights[0], *_beside(weights[0], available)]
        if weights:
            raise CheckpointError(
                f"It has {len(weights)} checkpoints ({', '.join(weights[:8])}); choose one with "
                "file= (--file)."
            )
    raise CheckpointError(f"It has no file of weights ({', '.join(WEIGHT_SUFFIXES)}).")


def _beside(name: str, available: set[str]) -> list[str]:
    paths = (str(PurePosixPath(name).with_name(other)) for other in BESIDE)
    return [path for path in paths if path in available]


def shards_of(index: Path) -> list[str]:
    """List the files that an index of shards names.

    Raises:
        CheckpointError: when it names none, or one outside its folder.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"Its {index.name} names no files.")
    names = sorted({str(name) for name in table.values()})
    if len(names) > MAX_SHARDS:
        raise CheckpointError(
            f"Its {index.name} names {len(names):,} files; up to {MAX_SHARDS} are read."
        )
    for name in names:
        if not is_file_name(name) or not name.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"Refused: its {index.name} names the file {name!r:.80}.")
    return names


def trunk_beside(folder: Path, name: str) -> list[str]:
    """List the trunk's file of a head in a folder; none for a whole model. Loading checks it."""
    trunk = trunk_of(folder / name) if name.endswith(".safetensors") else None
    return [str(PurePosixPath(name).with_name(trunk["file"]))] if trunk else []
