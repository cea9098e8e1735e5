"""The callbacks of the comparison, and the named endpoints beside them."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import threading
import uuid
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from cachetools import LRUCache
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from mask2kan.errors import ConfigError
from mask2kan.inference.explain import explain_pixel
from mask2kan.inference.scores import SCORES, check_score
from mask2kan.media.images import RGB
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import write_results

from ..files.samples import sample, truth_of
from ..files.uploads import given, name_of, read_truth, read_upload, stored
from ..services import downloads
from ..services.hub_downloads import Report
from ..services.models import SIDES, Answer, ModelService
from ..services.results import Run, Runs
from ..web import viewer

Picture = Mapping[str, Any] | None
# The picture, no ground truth of the visitor's own, the example's name, and the viewer's value.
_Opened = tuple[str, None, str, dict[str, Any] | None]

BAR = gr.Progress()  # the page's; Gradio recognises the parameter by this default
_VALUES_KEPT = 16
_LARGEST_WHOLE = 2**53  # beyond it JSON's numbers have gaps


class Handlers:
    """The callbacks, bound to the service that answers them."""

    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._runs = Runs()
        self._lock = threading.Lock()
        self._values: LRUCache[Any, dict[str, Any]] = LRUCache(_VALUES_KEPT)

    def look(
        self,
        picture: Picture,
        truth: Picture,
        white: str,
        left: str,
        right: str,
        score: str,
        example: str,
        progress: gr.Progress = BAR,
    ) -> Any:
        """Run both models on one picture: the viewer's value, which stays where there is none.

        A request that was sent before a picture was opened may be answered after its result.
        """
        if not picture:
            return gr.skip()
        path = sample(example)
        mask = truth_of(path) if path and not truth else None
        if mask:
            truth = {"path": str(mask)}
        run = Run(picture, (left, right), score, truth, white == "anomaly" and not mask)
        return self._show(run, example, progress)

    def look_at_upload(
        self,
        picture: Picture,
        truth: Picture,
        white: str,
        left: str,
        right: str,
        score: str,
        progress: gr.Progress = BAR,
    ) -> tuple[dict[str, Any] | None, str]:
        """Do the same for a picture of the visitor's own, so no longer an example."""
        if not picture:  # removed
            return None, ""
        return self.look(picture, truth, white, left, right, score, "", progress), ""

    def look_at_given(
        self, left: str, right: str, score: str, event: gr.EventData, progress: gr.Progress = BAR
    ) -> _Opened:
        """Open a picture pasted or dropped on the viewer."""
        picture = given(event_field(event, "path"), event_field(event, "name"))
        return self._open(picture, "", (left, right, score), progress)

    def look_at_file(
        self, path: str | None, left: str, right: str, score: str, progress: gr.Progress = BAR
    ) -> _Opened:
        """Open a picture of a batch."""
        if not path:
            raise ConfigError("Choose a picture of the batch first.")
        return self._open({"path": path}, "", (left, right, score), progress)

    def open_example(
        self, left: str, right: str, score: str, event: gr.EventData, progress: gr.Progress = BAR
    ) -> _Opened:
        """Open an example that was clicked."""
        name = event_field(event, "name")
        path = sample(str(name))
        if path is None:
            raise ConfigError(f"There is no example {name!r:.80}: reload the page.")
        return self._open({"path": str(path)}, path.stem, (left, right, score), progress)

    def open_link(
        self, left: str, right: str, score: str, request: gr.Request, progress: gr.Progress = BAR
    ) -> tuple[Any, ...]:
        """Open what a link asks for: models, score, and an example by its name.

        Returns:
            Left, right, score, the picture, the example's name and the viewer's value; left alone
            where the link says nothing, or nothing that exists.
        """
        query = request.query_params
        name = self._service.catalog.name
        linked = {key: name(query[key]) for key in ("left", "right") if query.get(key)}
        if query.get("score") in SCORES:
            linked["score"] = query["score"]
        pickers = [linked.get(key, gr.skip()) for key in ("left", "right", "score")]
        path = sample(query.get("example", ""))
        if path is None:
            return *pickers, gr.skip(), gr.skip(), gr.skip()
        models = linked.get("left", left), linked.get("right", right), linked.get("score", score)
        place, _, example, shown = self._open({"path": str(path)}, path.stem, models, progress)
        return *pickers, place, example, shown

    def _open(
        self,
        picture: Mapping[str, str],
        example: str,
        models: tuple[str, str, str],
        progress: gr.Progress,
    ) -> _Opened:
        shown = self.look(picture, None, "void", *models, example, progress)
        return picture["path"], None, example, shown

    def _show(self, run: Run, example: str, progress: gr.Progress) -> dict[str, Any]:
        pixels, truth, answers = self._answers(run, lambda share, text: progress(share, desc=text))
        value = self._packed(pixels, answers, run.score, truth) | {
            # Equal results would not wake the page: it compares values.
            "run": uuid.uuid4().hex,
            "example": example,
        }
        self._runs.add(value["run"], run)
        return value

    def _answers(self, run: Run, report: Report | None = None) -> tuple[RGB, Any, list[Answer]]:
        """Return the picture, its ground truth or None, and each model's answer."""
        check_score(run.score)
        for file in (run.picture, run.truth) if run.truth else (run.picture,):
            stored(file)  # or it is refused before anybody waits for a download
        with self._service.turn(run.sources, report):
            pixels = read_upload(run.picture)
            truth = _truth(run, pixels.shape[:2])
            return pixels, truth, self._service.answers(run.sources, pixels, run.score)

    def _packed(self, pixels: RGB, answers: list[Answer], score: str, truth: Any) -> dict[str, Any]:
        """Make the viewer's files, once for those who look at the same: examples, mostly."""
        # Of the answers themselves only the service decides how many stay in memory.
        truth_digest = b"" if truth is None else hashlib.sha256(truth).digest()
        key = (score, truth_digest, *map(weakref.ref, answers))
        with self._lock:
            value = self._values.get(key)
        if value is None or not viewer.still_there(value):
            value = viewer.show(pixels, answers, score, truth=truth)
            with self._lock:
                self._values[key] = value
        return value

    def explain_run(self, question: dict[str, Any]) -> dict[str, Any]:
        """Explain a pixel's score in a shown result, per side."""
        run = self._runs.find(question.get("run"))
        _, _, answers = self._answers(run)
        return _explained(answers, question.get("x"), question.get("y"), run.score)

    def export_run(self, question: dict[str, Any]) -> dict[str, Any]:
        """Write files of a shown result, with the settings of the page."""
        run = self._runs.find(question.get("run"))
        settings = downloads.settings_of(question, run.score)
        with self._service.turn(run.sources), tempfile.TemporaryDirectory() as folder:
            pixels, truth, answers = self._answers(run)
            height, width = viewer.shown_size(pixels)
            scale = pixels.shape[0] * pixels.shape[1] / (height * width)
            # The page counts pixels that it shows; files hold all of them.
            settings = dataclasses.replace(settings, least=round(settings.least * scale))
            name = name_of(run.picture)
            written = downloads.write(Path(folder), answers, settings, name=name, truth=truth)
            cache = get_upload_folder()
            files = [{"path": save_file_to_cache(f, cache), "name": f.name} for f in written]
            return {"files": files}

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
        _, _, answers = self._answers(Run(image, (left, right), score))
        return _deliver(dict(zip(SIDES, answers, strict=True)), score)

    def segment(self, image: Picture, model: str, score: str) -> tuple[dict[str, Any], list[str]]:
        """One model on one picture: a JSON summary and its result files.

        Args:
            image: a JPEG, PNG or WebP file.
            model: a model the app offers, or a Hub repository id.
            score: msp, entropy, energy, rba or eam.
        """
        _, _, [answer] = self._answers(Run(image, (model,), score))
        return _deliver({"model": answer}, score)

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
        _, _, answers = self._answers(Run(image, (left, right), score))
        return _explained(answers, x, y, score)

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

        Overlays, 16-bit and raw scores, COCO-RLE regions of both models, and the comparison page.

        Args:
            image: a JPEG, PNG or WebP file.
            left: a model the app offers, or a Hub repository id.
            right: likewise.
            score: msp, entropy, energy, rba or eam.
            left_threshold: a pixel is anomalous from here on; the calibrated one when not given.
            right_threshold: likewise.
            min_region: regions of fewer pixels are left out.
            truth: optional mask of the picture's size: 0 known, 1 anomaly, 255 void.
        """
        thresholds = {"left": left_threshold, "right": right_threshold}
        settings = downloads.settings_of({"thresholds": thresholds, "least": min_region}, score)
        _, mask, answers = self._answers(Run(image, (left, right), score, truth))
        with tempfile.TemporaryDirectory() as folder:
            path, summary = downloads.write_everything(
                Path(folder), answers, settings, name=name_of(image), truth=mask
            )
            return summary, save_file_to_cache(path, get_upload_folder())


def event_field(event: gr.EventData, name: str) -> Any:
    """Read an attribute that our component sent with an event; None without it."""
    try:
        return getattr(event, name, None)
    except TypeError:  # neither a table nor a list
        return None


def whole(value: Any, what: str) -> int:
    """Read a whole number from JSON, where 3.0 is one.

    Raises:
        ConfigError: for anything else.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value % 1 or abs(value) > _LARGEST_WHOLE:
        raise ConfigError(f"For {what} {value!r:.40} was given; it must be a whole number.")
    return int(value)


def _truth(run: Run, size: tuple[int, ...]) -> Any:
    if not run.truth:
        return None
    return read_truth(run.truth, (size[0], size[1]), white_is_anomaly=run.white_is_anomaly)


def _explained(answers: list[Answer], x: Any, y: Any, score: str) -> dict[str, Any]:
    column, row = whole(x, "x"), whole(y, "y")
    return {
        side: explain_pixel(answer.prediction, column, row, score).to_json()
        for side, answer in zip(SIDES, answers, strict=True)
    }


def _deliver(answers: Mapping[str, Answer], score: str) -> tuple[dict[str, Any], list[str]]:
    """Summarise by side, and write every side's files to the folder Gradio serves and cleans."""
    summary: dict[str, Any] = {}
    files: list[str] = []
    for side, answer in answers.items():
        analysis = Analysis(answer.prediction, score)
        summary[side] = {**analysis.summary(), "model": answer.source}
        with tempfile.TemporaryDirectory() as folder:
            written = write_results(analysis, folder, side)
            files += [save_file_to_cache(path, get_upload_folder()) for path in written]
    return summary, files
