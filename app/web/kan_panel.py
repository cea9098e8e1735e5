"""The panel of the KAN tab: the component and the two scripts that Gradio runs for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from mask2kan.outputs.drawing import color_table

from ..strings import KAN
from .component import component

_FOLDER = Path(__file__).with_name("kan_panel")
# Each is one function, as Gradio wants it.
FAILED, MODEL_CHOSEN = (
    (_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in ("failed", "model_chosen")
)


def kan_panel(
    model: str | None, server_functions: Sequence[Callable[[dict[str, Any]], dict[str, Any]]]
) -> gr.HTML:
    """Make the panel; it triggers ``kan_asked`` with ``{run, model, token}``.

    Its value is the answer: ``payload_kan.Shown`` with the token, or ``{"error", "token"}``.

    Args:
        model: to begin with.
        server_functions: ``kan_edge`` and ``kan_query``.
    """
    return component(
        "kan_panel",
        None,
        elem_id="kan-panel",
        strings=KAN,
        server_functions=server_functions,
        events=["kan_asked"],
        model=model or "",
        colours=color_table("viridis").tolist(),
    )
