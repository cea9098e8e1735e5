"""The page's tab that shows what a KAN head has learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from mask2kan.errors import ConfigError, ImageError

from .. import jobs
from ..files.samples import sample_pictures
from ..files.uploads import name_of, read_upload, stored
from ..messages import errors_as_values, shows_errors
from ..services.catalog import title
from ..services.results import Runs
from ..services.service import ModelService
from ..strings import KAN
from ..web.kan_panel import FAILED, MODEL_CHOSEN, kan_panel
from .compare import Picture, event_field, token_of, whole


class KanHandlers:
    """The tab's callbacks, bound to the service that answers them.

    Args:
        service: runs the models.
        runs: the comparisons, whose pictures are looked at.
    """

    def __init__(self, service: ModelService, runs: Runs) -> None:
        self._service = service
        self._runs = runs

    def asked(self, event: gr.EventData) -> dict[str, Any]:
        """Answer the panel: what it shows, or ``error``; with the token of its question."""
        question = {name: event_field(event, name) for name in ("run", "model")}
        return {**errors_as_values(self.see)(question), "token": token_of(event)}

    def see(self, question: dict[str, Any]) -> dict[str, Any]:
        """Show all layers of a model's KAN head on a comparison's picture: the panel's value.

        An unknown comparison, of a server that was restarted, counts as none.
        """
        run = question.get("run")
        try:
            picture = self._picture(run)
        except ConfigError:
            run, picture = None, self._picture(None)
        model = self._service.catalog.name(str(question.get("model") or ""))
        return {
            "run": run,
            "model": model,
            "title": title(model),
            "picture": _name(picture),
            **self._ask(jobs.kan_head, picture, model),
        }

    def kan_edge(self, question: dict[str, Any]) -> dict[str, Any]:
        """Show the function on one edge, for the panel."""
        return self._asked(jobs.kan_edge, question, "layer", "input", "output")

    def kan_query(self, question: dict[str, Any]) -> dict[str, Any]:
        """Measure the edges of a layer for one query, for the panel."""
        return self._asked(jobs.kan_query, question, "layer", "query")

    def kan(
        self, image: Picture, model: str, layer: float, input: float, output: float
    ) -> dict[str, Any]:
        """The learned function on one edge of a KAN head, and all layers' strongest edges.

        Args:
            image: a JPEG, PNG or WebP file; where its queries fall on the function is listed.
            model: a model the app offers, or a Hub repository id.
            layer: of the head, counted from 0.
            input: of the edge, counted from 0.
            output: of the edge, counted from 0.
        """
        places = whole(layer, "layer"), whole(input, "input"), whole(output, "output")
        return self._ask(jobs.kan, image, model, *places)

    def _picture(self, run: object) -> Mapping[str, Any]:
        """Return a comparison's picture; without a comparison, or a picture in it, the example.

        Raises:
            ConfigError: for a comparison that is not known (any more).
        """
        picture = None if run is None else self._runs.find(run).picture
        if picture:
            return picture
        examples = sample_pictures()
        if not examples:
            raise ImageError(KAN["no_picture"])
        return {"path": str(examples[0])}

    def _asked(
        self, job: Callable[..., Any], question: Mapping[str, Any], *places: str
    ) -> dict[str, Any]:
        """Do a job for a question of the panel, which names places in the head."""
        named = [whole(question.get(place), place) for place in places]
        picture = self._picture(question.get("run"))
        # No queue holds these questions back: who waited for a download here would hold a thread.
        return self._ask(job, picture, str(question.get("model") or ""), *named, fetches=False)

    def _ask(
        self,
        job: Callable[..., Any],
        picture: Picture,
        model: str,
        *places: int,
        fetches: bool = True,
    ) -> dict[str, Any]:
        """Do a job with a model's KAN head on a picture."""
        stored(picture)  # or it is refused before anybody waits for a download
        with self._service.turn([model], fetches=fetches):
            pixels = self._service.decode(read_upload, picture)
            answer: dict[str, Any] = self._service.run(job, model, pixels, *places)
            return answer


def kan_tab(
    service: ModelService, names: Sequence[str], runs: Runs, queued: Mapping[str, Any]
) -> None:
    """Build the tab's content.

    Args:
        service: runs the models.
        names: of the models; the picker has those that may have a KAN head.
        runs: the comparisons, whose pictures are looked at.
        queued: how events wait for their turn.
    """
    handlers = KanHandlers(service, runs)
    offered = [name for name in names if service.catalog.may_have_kan(name)]
    first = offered[0] if offered else None
    gr.Markdown(KAN["intro"], elem_id="kan-intro")
    model = gr.Dropdown(
        [(title(name), name) for name in offered],
        value=first,
        label=KAN["model"],
        allow_custom_value=True,
        elem_id="kan-model",
    )
    panel = kan_panel(
        first, [errors_as_values(handlers.kan_edge), errors_as_values(handlers.kan_query)]
    )
    model.change(fn=None, inputs=model, js=MODEL_CHOSEN)
    asked = panel.kan_asked(
        shows_errors(handlers.asked),
        None,
        panel,
        preprocess=False,
        # The panel says by itself that it waits, and asks one question at a time: the next may
        # leave before Gradio has put away the last.
        show_progress="hidden",
        trigger_mode="multiple",
        api_visibility="private",
        **queued,
    )
    asked.failure(fn=None, js=FAILED)
    _endpoint(handlers.kan, names, queued)


def _endpoint(
    function: Callable[..., dict[str, Any]], names: Sequence[str], queued: Mapping[str, Any]
) -> None:
    """Add the named API; its invisible components carry types and defaults."""
    with gr.Column(visible=False):
        image = gr.Image(label="image", type="filepath", image_mode=None)
        model = gr.Dropdown(
            list(names), value=names[0] if names else None, label="model", allow_custom_value=True
        )
        layer, source, target = (
            gr.Number(0, label=name, precision=0) for name in ("layer", "input", "output")
        )
        functions = gr.JSON(label="functions")
        trigger = gr.Button()
    trigger.click(
        shows_errors(function),
        [image, model, layer, source, target],
        functions,
        api_name="kan",
        preprocess=False,
        **queued,
    )


def _name(picture: Mapping[str, Any]) -> str:
    """Name a picture as its visitor does; an example without its suffix."""
    name = name_of(picture)
    return name if picture.get("orig_name") else Path(name).stem
