"""What happens when somebody presses something; the one place where an error becomes ``gr.Error``.

A message of ``Mask2KANError`` is written for users and shown as it is. Anything else is a fault of
ours: it goes to the log in full and to the page as one line that says so.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from app import viewer
from app.service import Answer, ModelService
from app.uploads import read_upload
from mask2kan.anomaly import SCORES
from mask2kan.errors import ConfigError, Mask2KANError, unknown
from mask2kan.results import summarize, write_results

logger = logging.getLogger(__name__)

Picture = Mapping[str, Any] | None

_P = ParamSpec("_P")
_R = TypeVar("_R")


def spoken(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn every error of a callback into one clear message; the app keeps serving."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except Mask2KANError as error:
            raise gr.Error(str(error), duration=20, print_exception=False) from error
        except Exception as error:
            logger.exception("%s failed", function.__name__)
            raise gr.Error(
                "Something went wrong inside the app; its log says what. Nothing was computed.",
                duration=20,
                print_exception=False,
            ) from error

    return wrapped


class Handlers:
    """The callbacks, bound to the service that answers them."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    def look(
        self, picture: Picture, left: str, right: str, score: str
    ) -> tuple[dict[str, Any] | None, Any, Any, Any]:
        """Both models on one picture, for the page.

        Returns:
            The viewer's value and the three sliders: both, left, right.
        """
        if not picture:
            return None, gr.skip(), gr.skip(), gr.skip()
        _check_score(score)
        pixels = read_upload(picture)
        answers = self._service.answers((left, right), pixels, score)
        left_view, right_view = (
            viewer.view(side, answer, score)
            for side, answer in zip(("left", "right"), answers, strict=True)
        )
        # Room to move above the range where the picture's own scores lie above it.
        top = max(1.0, round(max(left_view.reach, right_view.reach) + 0.05, 1))
        middle = (left_view.position + right_view.position) / 2
        return (
            viewer.show(pixels, [left_view, right_view]),
            gr.update(value=round(middle, 3), maximum=top),
            gr.update(value=round(left_view.position, 3), maximum=top),
            gr.update(value=round(right_view.position, 3), maximum=top),
        )

    def compare(
        self, image: Picture, left: str, right: str, score: str
    ) -> tuple[dict[str, Any], list[str]]:
        """Two models on one picture: a JSON summary and the result files of both.

        Args:
            image: a JPEG, PNG or WebP file.
            left: a bundled model, a checkpoint's path on the server or a Hub repository id.
            right: likewise.
            score: msp, entropy, energy, rba or eam.
        """
        _check_score(score)
        pixels = read_upload(image)
        answers = self._service.answers((left, right), pixels, score)
        return _deliver(dict(zip(("left", "right"), answers, strict=True)), score)

    def segment(self, image: Picture, model: str, score: str) -> tuple[dict[str, Any], list[str]]:
        """One model on one picture: a JSON summary and its result files.

        Args:
            image: a JPEG, PNG or WebP file.
            model: a bundled model, a checkpoint's path on the server or a Hub repository id.
            score: msp, entropy, energy, rba or eam.
        """
        _check_score(score)
        pixels = read_upload(image)
        [answer] = self._service.answers((model,), pixels, score)
        return _deliver({"model": answer}, score)


def _check_score(score: str) -> None:
    if score not in SCORES:
        raise ConfigError(unknown("score", str(score), SCORES))


def _deliver(answers: Mapping[str, Answer], score: str) -> tuple[dict[str, Any], list[str]]:
    """Summaries by side, and every side's files, in the folder Gradio serves and cleans up."""
    summary: dict[str, Any] = {}
    files: list[str] = []
    for side, answer in answers.items():
        summary[side] = {**summarize(answer.prediction, score), "model": answer.source}
        with tempfile.TemporaryDirectory() as folder:
            written = write_results(answer.prediction, folder, side, score)
            files += [save_file_to_cache(path, get_upload_folder()) for path in written]
    return summary, files
