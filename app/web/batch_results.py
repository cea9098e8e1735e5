"""The results of a batch in the browser: videos over time, pictures, and a table to sort."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from ..strings import BATCH
from .component import component

_FOLDER = Path(__file__).with_name("batch_results")
# Runs in the browser before the request leaves: puts the comparison's settings in place of the
# event's last input.
WITH_SETTINGS = (_FOLDER / "settings.js").read_text(encoding="utf-8")


def batch_results() -> gr.HTML:
    """Make the component; it triggers ``picture_chosen`` with the ``number`` of a row.

    Its value is a table: ``run`` (another one replaces everything), ``folder`` of the files named
    in it, ``rows``, ``films`` and ``read``, how scores are read, in words.
    """
    gr.set_static_paths([_FOLDER.with_name("viewer")])  # of what its modules share with others
    return component(
        "batch_results", None, elem_id="batch-results", strings=BATCH, events=["picture_chosen"]
    )
