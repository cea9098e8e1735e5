"""The folder of a run: what was asked for, what came out, and what is needed to continue.

``config.json`` (recipe as resolved), ``provenance.json`` (versions, commit, command),
``metrics.jsonl``, TensorBoard events, ``last.safetensors`` and ``best.safetensors`` (the averaged
weights, loadable by ``mask2kan.load_model``) and ``state.pt`` (everything needed to continue).
Files are written beside their place and moved there, so a stopped run never leaves half a file.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pickle
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from mask2kan.checkpoints import save_model
from mask2kan.errors import CheckpointError, ConfigError
from mask2kan.model import Mask2KAN
from training.recipes import TrainConfig

PACKAGES = ("torch", "torchvision", "timm", "numpy", "accelerate", "safetensors", "mask2kan")


class RunFolder:
    """Files of one run.

    Args:
        folder: made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None

    @property
    def has_state(self) -> bool:
        """Whether there is something to continue."""
        return (self.folder / "state.pt").is_file()

    def open(self, config: TrainConfig, *, resume: bool) -> None:
        """Make the folder and write down what is about to run.

        Raises:
            ConfigError: when the folder already holds a run and ``resume`` is False.
        """
        if self.has_state and not resume:
            raise ConfigError(
                f"{self.folder} already holds a run; continue it with --resume, or choose another "
                "folder with --out."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_json("config.json", config.to_dict())
        self._write_json("provenance.json", {"seed": config.seed, **provenance()})
        self._writer = SummaryWriter(str(self.folder))

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Append a line to ``metrics.jsonl`` and scalars to TensorBoard."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._writer is not None:
            for key, value in values.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(key, value, step)

    def picture(self, step: int, name: str, picture: Any) -> None:
        """Show an (H, W, 3) uint8 picture in TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def save_weights(self, name: str, model: Mask2KAN) -> None:
        """Write ``<name>.safetensors``."""
        save_model(model, self.folder / f"{name}.safetensors")

    def save_state(self, state: dict[str, Any]) -> None:
        """Write what ``load_state`` returns."""
        beside = self.folder / "state.pt.partial"
        torch.save(state, beside)
        beside.replace(self.folder / "state.pt")

    def load_state(self) -> dict[str, Any]:
        """What the run last saved.

        Raises:
            CheckpointError: when the file is damaged.
        """
        path = self.folder / "state.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (
            RuntimeError,
            EOFError,
            OSError,
            ValueError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
        ) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"Cannot continue from {path}: {reason} Delete it to start the run again."
            ) from error
        return state

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._writer is not None:
            self._writer.close()

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        beside = self.folder / f"{name}.partial"
        beside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        beside.replace(self.folder / name)


def provenance() -> dict[str, Any]:
    """Versions, commit and machine, for the model's card and for repeating the run."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": git_commit(),
        "command": ["python", "-m", "training.train", *sys.argv[1:]],
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions,
    }


def git_commit() -> str:
    """The commit of the source tree, with ``-dirty`` when it was changed; or ``unknown``."""
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
