"""Predict one image and write its results, in this process or a worker's."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mask2kan.checkpoints import load_model
from mask2kan.checkpoints.files.opened import sha256_of
from mask2kan.inference.predictor import Predictor
from mask2kan.media.web import is_url
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import save_prediction

Task = tuple[str, str]  # an image's path, and the prefix of its results' names

_SAME_RESULT = ("device", "compile", "graphs")  # options that change rounding only


class Report(NamedTuple):
    """Each model's label and ``Analysis.summary``, the prediction's notes, and the JSON file."""

    summaries: list[tuple[str, dict[str, Any]]]
    notes: tuple[str, ...]
    written: Path


@dataclasses.dataclass(frozen=True)
class PredictJob:
    """A source of ``load_model``, the options of ``Analysis`` and ``Predictor``, and a folder.

    ``checkpoint`` holds further options of ``load_model``, or None for each.
    """

    model: str
    checkpoint: Mapping[str, str | None]
    out: Path
    score: str | None
    threshold: float | None
    predictor: Mapping[str, Any]

    def is_done(self, task: Task) -> bool:
        """Whether all results of this very image are there, made with the same settings."""
        try:
            facts = json.loads(self._summary_file(task).read_bytes())  # written last
            expected = (task[0], image_stamp(task[0]), self.options)
            if (facts["picture"], facts["picture_stamp"], facts["options"]) != expected:
                return False
            facts["score16"]  # version 0.1 wrote other codes, without this
            return all((self.out / name).is_file() for name in facts["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """All that results depend on beside the image, ready for JSON."""
        return {
            "model": self.model,
            **{f"model_{name}": value for name, value in self.checkpoint.items() if value},
            # a bundled name or a Hub id stands for its weights
            "weights": sha256_of(Path(self.model)) if Path(self.model).is_file() else None,
            "score": self.score,
            "threshold": self.threshold,
            **{key: value for key, value in self.predictor.items() if key not in _SAME_RESULT},
        }

    def worker(self) -> Callable[[Task], Report]:
        """Load the model; returns a function that segments an image and writes its files."""
        device = self.predictor.get("device", "auto")
        model = load_model(self.model, device=device, **self.checkpoint)
        return functools.partial(self._segment, Predictor(model, **self.predictor))

    def _segment(self, predictor: Predictor, task: Task) -> Report:
        path, stem = task
        prediction = predictor(path)
        analysis = Analysis(prediction, self.score, self.threshold)
        facts = {"picture_stamp": image_stamp(path), "options": self.options}
        written = save_prediction(analysis, self.out, stem, facts)[-1]
        return Report([("", analysis.summary())], prediction.notes, written)

    def _summary_file(self, task: Task) -> Path:
        return self.out / f"{task[1]}.json"


def image_stamp(path: str) -> dict[str, int]:
    """Identify an image among others of the same name by its size and time of modification.

    What lies behind an address is taken to stay the same.
    """
    if is_url(path):
        return {}
    status = Path(path).stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
