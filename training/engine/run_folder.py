"""The folder of a run: its configuration, its results, and what is needed to continue."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker

from mask2kan.checkpoints import save_model
from mask2kan.errors import CheckpointError, ConfigError, one_line, unknown
from mask2kan.media.files import (
    append_line,
    atomic_writer,
    parse_object,
    write_bytes,
    write_record,
)
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.outputs.writer import png_bytes

from ..config.choices import TRACKERS
from ..config.train_config import TrainConfig
from ..evaluation.job_folder import flat
from ..evaluation.validation import Validation
from ..reporting.plots import draw_confusion, draw_curves
from ..reporting.run_card import as_markdown
from .resume import tensors_in

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
_STATE = {"model", "optimizer", "average"}  # beside what older versions did not save
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
        write_record(self.folder / "config.json", config.to_dict())
        write_record(self.folder / "provenance.json", {"seed": config.seed, **self.provenance})
        lines = [line for line in self.metrics() if line["step"] <= step]
        kept = "".join(json.dumps(line) + "\n" for line in lines)
        write_bytes(self.folder / "metrics.jsonl", kept.encode())
        _silence_tensorboard()
        self._trackers = [TensorBoardTracker("", self.folder, purge_step=step + 1)]
        self._tell("start")
        if self._tracker != "tensorboard":
            about = {"name": self.folder.name, "config": config.to_dict()}
            service = LOGGER_TYPE_TO_CLASS[self._tracker]("mask2kan", **about)
            service.start()
            self._trackers.append(service)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``, without one that a kill or crash spoilt."""
        path = self.folder / "metrics.jsonl"
        lines = []
        for text in path.read_bytes().splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError):
                line = parse_object(text, finite=False)
                if isinstance(line.get("step"), int):
                    lines.append(line)
        return lines

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Append a line to ``metrics.jsonl`` and the trackers."""
        append_line(self.folder / "metrics.jsonl", json.dumps({"step": step, **values}))
        self._tell("log", values, step)

    def log_validation(self, step: int, validations: Mapping[str, Validation]) -> float:
        """Log every member's validation and save its image; return the mean mIoU."""
        miou = sum(result.values["miou"] for result in validations.values()) / len(validations)
        values = {"val/miou": miou}
        for member, validation in validations.items():
            prefix = f"val/{member}/" if member else "val/"
            values |= {f"{prefix}{key}": value for key, value in validation.values.items()}
            name = f"{step:06d}_{member}" if member else f"{step:06d}"
            sample = self.folder / "samples" / f"{name}.png"
            write_bytes(sample, png_bytes(validation.sample))
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
        save_model(model, folder / f"{name}.safetensors")
        page = as_markdown(model.card, f"{self.folder.name} {member}".rstrip(), FILES)
        write_bytes(folder / "README.md", page.encode())

    def save_state(self, state: dict[str, Any]) -> None:
        """Write ``state.pt``.

        Raises:
            WriteError: when it cannot be written; the one before is untouched.
        """
        storages = [value.untyped_storage() for _, value in tensors_in(state)]
        size = sum({one.data_ptr(): one.nbytes() for one in storages}.values())
        with atomic_writer(self.folder / "state.pt", size) as file:
            torch.save(state, file)

    def load_state(self) -> dict[str, Any]:
        """Load what ``save_state`` wrote.

        Raises:
            CheckpointError: when the file is damaged.
        """
        path = self.folder / "state.pt"
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch compares no checksums
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever damaged bytes trip
            raise self._not_a_state(one_line(error)) from error
        if damaged is not None:
            raise self._not_a_state(f"the checksum of {damaged} differs")
        if not isinstance(state, dict) or not state.keys() >= _STATE:
            raise self._not_a_state("it is not the state of a run")
        return state

    def _not_a_state(self, reason: str) -> CheckpointError:
        weights = self.folder / "last.safetensors"
        begin = f" from its last weights with --init {weights}" if weights.is_file() else ""
        return CheckpointError(
            f"Cannot continue from {self.folder / 'state.pt'}: {reason.rstrip('.')}. Copy it again "
            f"if it is a copy, or start a new run (--out){begin}."
        )

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


@functools.cache
def _silence_tensorboard() -> None:
    """Print no traceback of its thread on a full disk: its next call says the same again."""
    before = threading.excepthook

    def tell(failed: threading.ExceptHookArgs) -> None:
        ours = type(failed.thread).__module__.partition(".")[0] == "tensorboard"
        if not (ours and isinstance(failed.exc_value, OSError)):
            before(failed)

    threading.excepthook = tell


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
