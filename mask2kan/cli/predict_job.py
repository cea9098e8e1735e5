"""What the ``predict`` command does with one image, here or in a process of its own."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mask2kan.checkpoints import load_model
from mask2kan.checkpoints.readers import sha256_of
from mask2kan.inference.predictor import Predictor
from mask2kan.media.files import json_bytes, write_bytes
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import write_results

Task = tuple[str, str]  # an image's path, and what its results' names begin with

_SAME_ANSWER = ("device", "compile", "graphs")  # options that change a result in its rounding only


class Report(NamedTuple):
    """What is said of an image that was segmented.

    Attributes:
        summaries: a label and ``Analysis.summary`` of each model.
        notes: of the prediction.
        written: the JSON file, the last one written.
    """

    summaries: list[tuple[str, dict[str, Any]]]
    notes: tuple[str, ...]
    written: Path


@dataclasses.dataclass(frozen=True)
class PredictJob:
    """A model, and where and how its results are written.

    Attributes:
        model: anything ``load_model`` takes.
        out: folder of the results.
        score: as of ``Analysis``.
        threshold: as of ``Analysis``.
        predictor: options of ``Predictor``.
    """

    model: str
    out: Path
    score: str | None
    threshold: float | None
    predictor: Mapping[str, Any]

    def is_done(self, task: Task) -> bool:
        """Whether all results of this very image are there, made with the same settings.

        The JSON file, which says so, is written last.
        """
        try:
            known = json.loads(self._summary_file(task).read_bytes())
            expected = (task[0], image_stamp(task[0]), self.options)
            found = (known["picture"], known["picture_stamp"], known["options"])
            return found == expected and all((self.out / name).is_file() for name in known["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """What results depend on, beside the image, in plain values ready for JSON."""
        options = {key: v for key, v in self.predictor.items() if key not in _SAME_ANSWER}
        return {
            "model": self.model,
            # of a name the weights are told by it
            "weights": sha256_of(Path(self.model)) if Path(self.model).is_file() else None,
            "score": self.score,
            "threshold": self.threshold,
            **options,
        }

    def worker(self) -> Callable[[Task], Report]:
        """Load the model; returns what segments an image and writes its files."""
        model = load_model(self.model, device=self.predictor.get("device", "auto"))
        return functools.partial(self._segment, Predictor(model, **self.predictor))

    def _segment(self, predictor: Predictor, task: Task) -> Report:
        path, stem = task
        prediction = predictor(path)
        analysis = Analysis(prediction, self.score, self.threshold)
        files = write_results(analysis, self.out, stem)
        summary = analysis.summary()
        facts = {
            "picture": path,
            "picture_stamp": image_stamp(path),
            **summary,
            "files": [file.name for file in files],
            "options": self.options,
        }
        written = write_bytes(self._summary_file(task), json_bytes(facts))
        return Report([("", summary)], prediction.notes, written)

    def _summary_file(self, task: Task) -> Path:
        return self.out / f"{task[1]}.json"


def image_stamp(path: str) -> dict[str, int]:
    """What tells an image from another of the same name: bytes, and when it was modified."""
    known = Path(path).stat()
    return {"bytes": known.st_size, "modified_ns": known.st_mtime_ns}
