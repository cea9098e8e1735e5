"""The callbacks of the comparison, and the named endpoints beside them."""

from __future__ import annotations

import contextlib
import copy
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from mask2kan.checkpoints.manifest import manifest
from mask2kan.checks import require
from mask2kan.errors import ConfigError, Mask2KANError, shortened
from mask2kan.inference.scores import SCORES, check_score
from mask2kan.media.files import json_bytes, write_bytes
from mask2kan.media.images import RGB

from .. import jobs
from ..files.samples import Sample, sample, samples
from ..files.uploads import given, name_of, read_truth, read_upload, stored
from ..messages import OUR_FAULT
from ..services import downloads
from ..services.hub_downloads import Report
from ..services.models import SIDES
from ..services.reading import LARGEST_SHARE
from ..services.results import Run, Runs
from ..services.service import ModelService
from ..strings import COMPARE
from ..web import viewer_values
from ..web.payload import Refusal, Result

logger = logging.getLogger(__name__)

Picture = Mapping[str, Any] | None

BAR = gr.Progress()  # the page's; Gradio recognises the parameter by this default
_LARGEST_WHOLE = 2**53  # beyond it JSON's numbers have gaps


class Handlers:
    """The callbacks, bound to the service that answers them.

    Attributes:
        runs: what results on the page were made of.
    """

    def __init__(self, service: ModelService) -> None:
        self.runs = Runs()
        self._service = service

    @property
    def has_models(self) -> bool:
        """Whether there is anything to compare without asking the Hub."""
        return self._service.catalog.pair() is not None

    def look(
        self,
        left: str,
        right: str,
        score: str,
        event: gr.EventData,
        progress: gr.Progress = BAR,
    ) -> Result | Refusal:
        """Run both models on the picture of a numbered request; the answer carries its number.

        The page shows the answer to its latest request alone, so a late one does no harm. What
        cannot be computed is answered in words, which stay where the result would be.
        """
        token = token_of(event)

        def refuse(message: str) -> Refusal:
            return {"token": token, "error": message}

        try:
            run, example = self._asked(event, (left, right), score)
            return self._show(run, example, token, progress)
        except Mask2KANError as error:
            return refuse(str(error))
        except Exception:
            logger.exception("look failed")
            return refuse(OUR_FAULT)

    def _asked(self, event: gr.EventData, models: tuple[str, str], score: str) -> tuple[Run, str]:
        """Read a request of the page, which may say anything: the run and the example's name."""
        name = event_field(event, "example")
        if name:
            chosen = sample(str(name))
            if chosen is None:
                raise ConfigError(COMPARE["no_example"].format(name=shortened(str(name))))
            return self._example_run(chosen, models, score), chosen.name
        picture = given(event_field(event, "path"), event_field(event, "name"))
        own = event_field(event, "truth")
        mask = {"path": str(stored({"path": own}))} if own else None
        white = event_field(event, "white") == "anomaly"
        return self._run(picture, models, score, mask, white), ""

    def _example_run(self, chosen: Sample, models: tuple[str, str], score: str) -> Run:
        """Make the run of an example, which brings its ground truth."""
        mask = None if chosen.truth is None else {"path": str(chosen.truth)}
        return self._run({"path": str(chosen.path)}, models, score, mask)

    def _run(
        self,
        picture: Picture,
        models: Sequence[str],
        score: str,
        truth: Picture = None,
        white_is_anomaly: bool = False,
    ) -> Run:
        """Make a run of models that are known, by the names they are known by: it is kept."""
        check_score(score)
        names = tuple(map(self._service.catalog.name, models))
        return Run(picture, names, score, truth, white_is_anomaly)

    def first(self, place: Path) -> None:
        """Compute what every visitor sees first, and write it where the page looks for it."""
        chosen = next(iter(samples()), None)
        pair = self._service.catalog.pair()
        if chosen is None or pair is None:
            return
        run = self._example_run(chosen, pair, default_score())
        value = copy.deepcopy(self._show(run, chosen.name))
        self.runs.keep(value["run"], run)
        for number, file in enumerate(viewer_values.files_of(value)):
            # Beside it: what is in the cache is cleaned up after an hour.
            kept = place.with_name(f"{number}_{Path(file['path']).name}")
            shutil.copyfile(file["path"], kept)
            file["path"] = str(kept)
        write_bytes(place, json_bytes(value))

    def linked(self, request: gr.Request) -> tuple[Any, ...]:
        """Set the pickers to what a link names.

        Returns:
            Left, right and score, each left alone where the link says nothing that is here; and
            for the viewer, which then asks for the picture, what was named in vain, in words.
        """
        query = request.query_params
        pickers: list[Any] = [gr.skip()] * 3
        vain = []
        for place, key in enumerate(("left", "right")):
            if query.get(key):
                try:
                    pickers[place] = self._service.catalog.name(query[key])
                except Mask2KANError as error:
                    vain.append(str(error))
        if query.get("score") in SCORES:
            pickers[2] = query["score"]
        return *pickers, {"linked": vain}

    def open_file(self, path: str | None) -> dict[str, Any]:
        """Hand the viewer a picture of a batch, which it then asks for."""
        if not path:
            raise ConfigError(COMPARE["nothing_chosen"])
        return {"open": {"path": path, "name": Path(path).name}, "number": uuid.uuid4().hex}

    def smooth_run(self, question: dict[str, Any]) -> dict[str, Any]:
        """Smooth a shown result otherwise: both sides' score maps."""
        run = self.runs.find(question.get("run"))
        smoothing = question.get("smoothing")
        if smoothing is not None:  # None is the checkpoint's own
            require("smoothing", smoothing, 0, LARGEST_SHARE)
        with self._pixels(run) as pixels:
            return self._service.run(jobs.smooth, run.sources, pixels, run.score, smoothing)

    def _show(
        self, run: Run, example: str, token: int = 0, progress: gr.Progress | None = None
    ) -> Result:
        def report(done: float, text: str) -> None:
            if progress is not None:
                progress(done, desc=text)

        with self._pixels(run, report) as pixels:
            truth = self._truth(run, pixels)
            shown = self._service.run(jobs.show, run.sources, pixels, run.score, truth)
        value: Result = {
            **shown,
            # Equal results would not wake the page: it compares values.
            "run": uuid.uuid4().hex,
            "token": token,
            "name": name_of(run.picture),
            "example": example,
        }
        self.runs.add(value["run"], run)
        return value

    @contextlib.contextmanager
    def _pixels(self, run: Run, report: Report | None = None) -> Iterator[RGB]:
        """Take a turn, with the picture."""
        for file in (run.picture, run.truth) if run.truth else (run.picture,):
            stored(file)  # or it is refused before anybody waits for a download
        with self._service.turn(run.sources, report):
            yield self._service.decode(read_upload, run.picture)

    def _truth(self, run: Run, pixels: RGB) -> NDArray[np.uint8] | None:
        """Read the ground truth, if there is one; within a turn."""
        if not run.truth:
            return None
        return self._service.decode(_read_truth, run.truth, pixels.shape[:2], run.white_is_anomaly)

    def explain_run(self, question: dict[str, Any]) -> dict[str, Any]:
        """Explain a pixel's score in a shown result, per side."""
        return self._explained(
            self.runs.find(question.get("run")), question.get("x"), question.get("y")
        )

    def _explained(self, run: Run, x: Any, y: Any) -> dict[str, Any]:
        place = whole(x, "x"), whole(y, "y")
        with self._pixels(run) as pixels:
            return self._service.run(jobs.explain, run.sources, pixels, run.score, *place)

    def export_run(self, question: dict[str, Any]) -> dict[str, Any]:
        """Write files of a shown result, with the settings of the page."""
        run = self.runs.find(question.get("run"))
        return {"files": self._exported(jobs.export, run, question)}

    def _exported(self, job: Callable[..., Any], run: Run, question: Mapping[str, Any]) -> Any:
        settings = downloads.settings_of(question, run.score)
        with self._pixels(run) as pixels:
            truth, name = self._truth(run, pixels), name_of(run.picture)
            return self._service.run(job, run.sources, pixels, settings, name, truth)

    def compare(
        self, image: Picture, left: str, right: str, score: str
    ) -> tuple[dict[str, Any], list[str]]:
        """Two models on one picture: a JSON summary and the result files of both.

        Args:
            image: a JPEG, PNG or WebP file.
            left: a model the app offers, or a Hub repository id.
            right: likewise.
            score: msp, entropy, energy, rba or eam.
        """
        return self._results(self._run(image, (left, right), score), SIDES)

    def segment(self, image: Picture, model: str, score: str) -> tuple[dict[str, Any], list[str]]:
        """One model on one picture: a JSON summary and its result files.

        Args:
            image: a JPEG, PNG or WebP file.
            model: a model the app offers, or a Hub repository id.
            score: msp, entropy, energy, rba or eam.
        """
        return self._results(self._run(image, (model,), score), ("model",))

    def _results(self, run: Run, sides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        with self._pixels(run) as pixels:
            return self._service.run(jobs.results, sides, run.sources, pixels, run.score)

    def explain(
        self, image: Picture, x: float, y: float, left: str, right: str, score: str
    ) -> dict[str, Any]:
        """Why a pixel has its anomaly score: classes, queries and the sums that lead to it.

        Args:
            image: a JPEG, PNG or WebP file.
            x: column of the pixel, counted from 0 at the left.
            y: row of the pixel, counted from 0 at the top.
            left: a model the app offers, or a Hub repository id.
            right: likewise.
            score: msp, entropy, energy, rba or eam.
        """
        return self._explained(self._run(image, (left, right), score), x, y)

    def export(
        self,
        image: Picture,
        left: str,
        right: str,
        score: str,
        left_threshold: float | None = None,
        right_threshold: float | None = None,
        min_region: float = 0,
        truth: Picture = None,
    ) -> tuple[dict[str, Any], str]:
        """Everything the page offers to download, in one ZIP.

        Overlays, 16-bit and raw scores, COCO-RLE regions of both models, the comparison page, and
        a summary; with a truth also precision, recall, F1, IoU, AP, AUROC, FPR95 and objects.

        Args:
            image: a JPEG, PNG or WebP file.
            left: a model the app offers, or a Hub repository id.
            right: likewise.
            score: msp, entropy, energy, rba or eam.
            left_threshold: a pixel is anomalous from here on; the calibrated one when not given.
            right_threshold: the right model's, as the left one's.
            min_region: regions of fewer pixels are left out, of outlines and figures alike.
            truth: optional mask of the picture's size: 0 known, 1 anomaly, 255 void.
        """
        thresholds = {"left": left_threshold, "right": right_threshold}
        question = {"thresholds": thresholds, "least": min_region}
        summary, path = self._exported(
            jobs.everything, self._run(image, (left, right), score, truth), question
        )
        return summary, path


def default_score() -> str:
    """Choose the score in the bundled models' settings, or the thesis's."""
    scores = [str(entry["score"]) for entry in manifest() if entry.get("score") in SCORES]
    return scores[0] if scores else next(iter(SCORES))


def event_field(event: gr.EventData, name: str) -> Any:
    """Read an attribute that our component sent with an event; None without it."""
    try:
        return getattr(event, name, None)
    except TypeError:  # neither a table nor a list
        return None


def token_of(event: gr.EventData) -> int:
    """Read the number of a request, which its answer repeats; 0 where it is none."""
    token = event_field(event, "token")
    number = isinstance(token, int) and not isinstance(token, bool)
    return token if number and abs(token) <= _LARGEST_WHOLE else 0


def whole(value: Any, what: str) -> int:
    """Read a whole number from JSON, where 3.0 is one.

    Raises:
        ConfigError: for anything else.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value % 1 or abs(value) > _LARGEST_WHOLE:
        raise ConfigError(f"For {what} {value!r:.40} was given; it must be a whole number.")
    return int(value)


def _read_truth(
    payload: Mapping[str, Any], size: tuple[int, int], white_is_anomaly: bool
) -> NDArray[np.uint8]:
    return read_truth(payload, size, white_is_anomaly=white_is_anomaly)
