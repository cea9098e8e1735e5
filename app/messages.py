"""Turn errors into words on the page, here and nowhere else.

A ``Mask2KANError`` is written for users and shown as it is; anything else is our fault: it goes to
the log in full and to the page as one line.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from mask2kan.errors import Mask2KANError

logger = logging.getLogger(__name__)

OUR_FAULT = "Something went wrong inside the app; its log says what. Nothing was computed."

_P = ParamSpec("_P")
_R = TypeVar("_R")


def shows_errors(function: Callable[_P, _R]) -> Callable[_P, _R]:
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
            raise gr.Error(OUR_FAULT, duration=20, print_exception=False) from error

    return wrapped


def errors_as_values(
    function: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Do the same for a component's question: the message comes back as ``{"error": …}``."""

    @functools.wraps(function)
    def wrapped(question: dict[str, Any]) -> dict[str, Any]:
        try:
            return function(question if isinstance(question, dict) else {})
        except Mask2KANError as error:
            return {"error": str(error)}
        except Exception:
            logger.exception("%s failed", function.__name__)
            return {"error": OUR_FAULT}

    return wrapped


def shows_errors_of_steps(function: Callable[_P, Iterator[_R]]) -> Callable[_P, Iterator[_R]]:
    """Do the same for a callback that yields: errors occur at its steps, not at its call."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> Iterator[_R]:
        steps = iter(function(*args, **kwargs))

        @functools.wraps(function)  # its name is what the log says
        def step() -> list[_R]:
            return list(itertools.islice(steps, 1))

        try:
            while values := shows_errors(step)():
                yield values[0]
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()

    return wrapped
