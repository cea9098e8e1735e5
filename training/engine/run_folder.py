"""The folder of a run: its configuration, its results, and what is needed to continue."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import os
import pickle
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker
from PIL import Image

from mask2kan.checkpoints import save_model
from mask2kan.errors import CheckpointError, ConfigError, unknown
from mask2kan.media.files import atomic_writer, write_record
from mask2kan.modeling.mask2kan import Mask2KAN

from ..config.choices import TRACKERS
from ..config.train_config import TrainConfig
from ..evaluation.job_folder import flat
from ..evaluation.validation import Validation
from ..reporting.plots import draw_confusion, draw_curves
from ..reporting.run_card import as_markdown

FILES = {
    "best.safetensors": "weights of the best validation, averaged; for `mask2kan.load_model`",
    "last.safetensors": "weights of the last checkpoint, averaged; for `mask2kan.load_model`",
    "config.json": "the recipe as resolved",
    "provenance.json": "seed, commit, versions, command",
    "metrics.jsonl": "every logged value, one line per step logged",
    "curves.png": "losses and validation over the steps",
    "confusion.png": "where the pixels of each class went at the last validation",
    "samples/": "a validation image, its prediction and its truth, per validation",
    "state.pt": "what `--resume` continues from",
    "events.*": "the same values for TensorBoard",
}
# Settings a run may be continued with others of: what they change is not what was learnt so far.
MAY_CHANGE = (
    *("steps", "workers", "data", "pretrained_backbone", "cache_gigabytes"),
    *("save_every", "save_minutes", "eval_every", "eval_pictures", "channels_last"),
)
logger = logging.getLogger(__name__)

PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn"),
    *("accelerate", "safetensors", "mask2kan"),
)


class RunFolder:
    """Files of one run, see ``FILES``; ``tracker`` is one of ``TRACKERS``.

    Raises:
        ConfigError: for a tracker that does not exist or is not installed.
    """

    def __init__(self, folder: Path, tracker: str = "tensorboard") -> None:
        self.folder = folder
        self.provenance = provenance()
        self._tracker = tracker
        self._trackers: list[Any] = []  # of the process that opens the run
        if tracker not in TRACKERS:
            raise ConfigError(unknown("tracker", tracker, TRACKERS))
        if tracker != "tensorboard":
            try:
                importlib.import_module(tracker)
            except ImportError as error:
                raise ConfigError(
                    f"--tracker {tracker} needs the package {tracker}, which is not installed; "
                    f"install it with pip install {tracker}, or leave the option out."
                ) from error

    @property
    def has_state(self) -> bool:
        """Whether there is something to continue."""
        return (self.folder / "state.pt").is_file()

    def require_same(self, config: TrainConfig) -> None:
        """Refuse to continue a run with other settings.

        Raises:
            ConfigError: when the folder is not on this machine, or a setting outside ``MAY_CHANGE``
                differs.
        """
        if not self.has_state:
            raise ConfigError(
                f"{self.folder} holds no state.pt here, but it does on the first machine; the run "
                "folder must be on a disk that all machines share."
            )
        try:
            before = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            before = dict(flat(before))
        except (OSError, ValueError, AttributeError):
            return  # written after state.pt only by hand
        now = dict(flat(json.loads(json.dumps(config.to_dict()))))
        changed = sorted(
            f"{key} was {before[key]!r} and is {now[key]!r}"
            for key in before.keys() & now.keys() - {*MAY_CHANGE}
            if before[key] != now[key]
        )
        if changed:
            raise ConfigError(
                f"{self.folder} was started with other settings: {'; '.join(changed)}. Repeat "
                "them, or choose another folder with --out."
            )

    def require_unused(self) -> None:
        """Refuse to start over another run.

        Raises:
            ConfigError: when the folder holds a run.
        """
        if self.has_state:
            raise ConfigError(
                f"{self.folder} already holds a run; continue it with --resume, or choose another "
                "folder with --out."
            )

    def open(self, config: TrainConfig, step: int) -> None:
        """Make the folder and record the run, whose log goes on from ``step``."""
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        write_record(self.folder / "config.json", config.to_dict())
        write_record(self.folder / "provenance.json", {"seed": config.seed, **self.provenance})
        lines = [line for line in self.metrics() if line["step"] <= step]
        with atomic_writer(self.folder / "metrics.jsonl") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        self._trackers = [TensorBoardTracker("", self.folder, purge_step=step + 1)]
        if self._tracker != "tensorboard":
            service = LOGGER_TYPE_TO_CLASS[self._tracker]
            about = {"name": self.folder.name, "config": config.to_dict()}
            self._trackers.append(service("mask2kan", **about))
        for tracker in self._trackers:
            tracker.start()

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``, without one that a kill cut short."""
        path = self.folder / "metrics.jsonl"
        lines = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Append a line to ``metrics.jsonl`` and the trackers."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._tell("log", values, step)

    def log_validation(self, step: int, validations: Mapping[str, Validation]) -> float:
        """Log every member's validation and save its image; return the mean mIoU."""
        miou = sum(result.values["miou"] for result in validations.values()) / len(validations)
        values = {"val/miou": miou}
        for member, validation in validations.items():
            prefix = f"val/{member}/" if member else "val/"
            values |= {f"{prefix}{key}": value for key, value in validation.values.items()}
            name = f"{step:06d}_{member}" if member else f"{step:06d}"
            Image.fromarray(validation.sample).save(self.folder / "samples" / f"{name}.png")
            image = {f"{prefix}image_prediction_truth": validation.sample[None]}
            self._tell("log_images", image, step, only="tensorboard", dataformats="NHWC")
        self.log(step, values)
        return miou

    def draw(self, step: int, last: Mapping[str, Validation], class_names: tuple[str, ...]) -> None:
        """Draw ``curves.png`` and the last validation's confusion matrices."""
        name = self.folder.name
        draw_curves(self.metrics(), name, self.folder / "curves.png")
        for member, validation in last.items():
            path = self.folder / (f"confusion_{member}.png" if member else "confusion.png")
            title = f"{name} {member}".rstrip() + f", step {step}"
            draw_confusion(validation.confusion, class_names, title, path)

    def save_weights(self, name: str, model: Mask2KAN, member: str = "") -> None:
        """Write ``<name>.safetensors`` and its model card, a pair's ``member`` into its folder."""
        folder = self.folder / member
        folder.mkdir(exist_ok=True)
        save_model(model, folder / f"{name}.safetensors")
        page = as_markdown(model.card, f"{self.folder.name} {member}".rstrip(), FILES)
        with atomic_writer(folder / "README.md") as file:
            file.write(page.encode())

    def save_state(self, state: dict[str, Any]) -> None:
        """Write ``state.pt``."""
        with atomic_writer(self.folder / "state.pt") as file:
            torch.save(state, file)

    def load_state(self) -> dict[str, Any]:
        """Load what ``save_state`` wrote.

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
        """Flush the trackers."""
        self._tell("finish")

    def _tell(self, method: str, *values: Any, only: str = "", **options: Any) -> None:
        """Pass values to the trackers; none may end the run, whatever a service's client raises."""
        for tracker in [each for each in self._trackers if only in ("", each.name)]:
            try:
                getattr(tracker, method)(*values, **options)
            except Exception as error:
                logger.warning("%s gets no more of this run: %s", tracker.name, error)
                self._trackers.remove(tracker)


def branch_state(folder: str) -> dict[str, Any] | None:
    """Load the state of the run this one branches off; None when ``folder`` is empty.

    Raises:
        ConfigError: when the folder holds none.
        CheckpointError: when it is damaged.
    """
    if not folder:
        return None
    parent = RunFolder(Path(folder))
    if not parent.has_state:
        raise ConfigError(
            f"branch_of is {folder!r}, which holds no state.pt; expected the folder of a run."
        )
    return parent.load_state()


def provenance() -> dict[str, Any]:
    """Collect versions, commit and machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": git_commit(),
        "command": ["python", "-m", _module(), *sys.argv[1:]],
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions,
    }


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem


def git_commit() -> str:
    """Return the source tree's commit, ``-dirty`` when changed; or ``unknown``."""
    root = Path(__file__).resolve().parents[2]
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
