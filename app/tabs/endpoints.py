"""The named endpoints of the comparison, and what the API page says of every endpoint.

Each is an event of invisible components, which carry types and defaults. Its docstring describes it
and its parameters, to language models as tools (MCP) and on the API page alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.utils import get_function_description
from gradio_client.utils import handle_file

from ..messages import shows_errors
from .compare import Handlers


def endpoints(
    handlers: Handlers,
    left: gr.Dropdown,
    right: gr.Dropdown,
    score: gr.Dropdown,
    queued: Mapping[str, Any],
) -> None:
    """Add the endpoints ``compare``, ``segment``, ``explain`` and ``export``.

    Args:
        handlers: who answer them.
        left: the page's picker, whose choices and default they take over; so ``right``, ``score``.
        right: likewise.
        score: likewise.
        queued: how events wait for their turn.
    """
    with gr.Column(visible=False):
        image = gr.Image(None, label="image", type="filepath", image_mode=None)
        pair = [like(left, "left"), like(right, "right")]
        named_score = like(score, "score")
        x = gr.Number(None, label="x", precision=0)
        y = gr.Number(None, label="y", precision=0)
        left_threshold = gr.Number(None, label="left_threshold")
        right_threshold = gr.Number(None, label="right_threshold")
        least = gr.Number(0, label="min_region", precision=0)
        truth = gr.Image(None, label="truth", type="filepath", image_mode=None)
        summary = gr.JSON(label="summary")
        files = gr.File(label="files", file_count="multiple")
        archive = gr.File(label="archive")
        trigger = gr.Button()
    thresholds = [left_threshold, right_threshold, least, truth]
    for name, function, inputs, outputs in (
        ("compare", handlers.compare, [image, *pair, named_score], [summary, files]),
        ("segment", handlers.segment, [image, pair[0], named_score], [summary, files]),
        ("explain", handlers.explain, [image, x, y, *pair, named_score], [summary]),
        ("export", handlers.export, [image, *pair, named_score, *thresholds], [summary, archive]),
    ):
        trigger.click(
            shows_errors(function), inputs, outputs, api_name=name, preprocess=False, **queued
        )


def like(picker: gr.Dropdown, label: str) -> gr.Dropdown:
    """Make a picker with the choices and the default of one on the page."""
    return gr.Dropdown(
        choices=picker.choices,  # type: ignore[arg-type]  # pairs, as it has made them
        value=picker.value,
        label=label,
        allow_custom_value=picker.allow_custom_value,
    )


def described(
    info: dict[str, Any],
    functions: Mapping[str, Callable[..., Any]],
    pictures: Mapping[str, str],
) -> dict[str, Any]:
    """Complete, in place, what the API page says of the endpoints; return it.

    Gradio describes a parameter there by its component alone, though it hands the docstring's words
    on to language models; and its example of a picture is a bus in its own repository.

    Args:
        info: as ``Blocks.get_api_info`` returns it.
        functions: by the name of their endpoint.
        pictures: addresses of example pictures, by the parameter; others keep Gradio's.
    """
    for name, endpoint in info["named_endpoints"].items():
        function = functions.get(name.removeprefix("/"))
        words = get_function_description(function)[1] if function else {}
        for parameter in endpoint["parameters"]:
            called = parameter["parameter_name"]
            parameter["python_type"]["description"] = _sentence(words.get(called, ""), parameter)
            if called in pictures:
                several = isinstance(parameter["example_input"], list)
                file = handle_file(pictures[called])
                parameter["example_input"] = [file] if several else file
    return info


def _sentence(words: str, parameter: Mapping[str, Any]) -> str:
    """Begin with a capital letter, unless that is where a value to give is spelled."""
    values = map(str, parameter["type"].get("enum", ()))
    spelled = words.startswith(tuple(values))
    return words if spelled else words[:1].upper() + words[1:]
