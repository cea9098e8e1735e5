"""Anomaly scores of labelled images, one float32 file per checkpoint and image."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mask2kan.checkpoints import load_model
from mask2kan.checkpoints.files.opened import sha256_of
from mask2kan.errors import CheckpointError
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.predictor import Predictor
from mask2kan.media.files import atomic_writer

from ..data import AnomalyImages, open_anomaly
from ..data.base import PairedImages
from ..data.registry import AnomalyChoice, choose_anomaly

Task = tuple[str, int]  # data set and image


@dataclasses.dataclass(frozen=True)
class ScoringPlan:
    """Plan of scoring, and where the scores lie.

    Attributes:
        checkpoints: (name of the results, anything ``load_model`` takes).
        sets: as results name them.
        sources: (a set's name in results, what ``open_anomaly`` takes) where these differ.
        root: where the sets are; None for the usual places.
        out: folder of the score files.
    """

    checkpoints: tuple[tuple[str, str], ...]
    sets: tuple[str, ...]
    root: str | None
    scores: tuple[str, ...]
    out: str
    device: str = "auto"
    dtype: str = "float32"
    max_side: int = 2048
    flip: bool = False
    refine: bool = False
    sources: tuple[tuple[str, str], ...] = ()

    def choice(self, data: str) -> AnomalyChoice:
        """Find a set; see ``choose_anomaly``."""
        return choose_anomaly(dict(self.sources).get(data, data), self.root)

    def open(self, data: str) -> AnomalyImages:
        """Open a set; see ``open_anomaly``."""
        return open_anomaly(dict(self.sources).get(data, data), self.root)

    def file(self, checkpoint: str, task: Task) -> Path:
        """Return the path of an image's scores."""
        data, index = task
        return Path(self.out) / checkpoint / data / f"{index:06d}.npz"

    def is_done(self, task: Task) -> bool:
        """Return whether every checkpoint's scores of an image are there."""
        return all(self.file(name, task).is_file() for name, _ in self.checkpoints)


class Scorer:
    """Scores images of a plan, here or on another machine; equal trunks run once."""

    def __init__(self, plan: ScoringPlan) -> None:
        self.plan = plan
        self._sets = {data: plan.open(data) for data in plan.sets}
        self.predictors = [
            Predictor(
                load_model(source, device=plan.device),
                plan.device,
                plan.dtype,
                plan.max_side,
                flip=plan.flip,
                refine=plan.refine,
            )
            for _, source in plan.checkpoints
        ]
        self._together = Comparison(*self.predictors)

    def __call__(self, task: Task) -> Task:
        """Score an image with every checkpoint and write the files; return the task."""
        image, _ = self._sets[task[0]].arrays(task[1])
        predictions = self._together(image)
        for (name, _), prediction in zip(self.plan.checkpoints, predictions, strict=True):
            prediction.prepare(self.plan.scores)
            save_scores(
                self.plan.file(name, task),
                {score: prediction.anomaly(score) for score in self.plan.scores},
            )
        return task


def save_scores(path: Path, scores: dict[str, NDArray[np.float32]]) -> None:
    """Write score maps, in one step."""
    buffer = io.BytesIO()
    np.savez(buffer, **scores)  # type: ignore[arg-type]
    with atomic_writer(path) as file:
        file.write(buffer.getbuffer())


def read_score(path: Path, score: str) -> NDArray[np.float32]:
    """Read one score map, (H, W).

    Raises:
        CheckpointError: when the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            values: NDArray[np.float32] = stored[score]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"Can't read the scores {path}: {error}. Delete the file; the command makes it again."
        ) from error
    return values


def content_of(source: str) -> str:
    """Identify a checkpoint: a file's sha256, or the name where it is none."""
    path = Path(source)
    return sha256_of(path) if path.is_file() else source


def images_of(images: AnomalyImages) -> str:
    """Identify an image list by the sha256 of its files, or of names without files."""
    names = images.names
    if isinstance(images, PairedImages):
        names = [str(pair.image.resolve()) for pair in images.pairs]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
