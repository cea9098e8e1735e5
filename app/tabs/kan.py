"""The page's tab that shows what a KAN head has learned."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from torch import Tensor

from mask2kan.errors import ImageError
from mask2kan.inference.kan_view import edge_view, layer_views
from mask2kan.inference.scores import SCORES
from mask2kan.modeling.kan.layers import KAN as KanHead  # noqa: N811 (the strings are KAN here)
from mask2kan.outputs.drawing import color_table

from ..files.samples import sample_pictures
from ..files.uploads import name_of, read_upload, stored
from ..messages import errors_as_values, shows_errors
from ..services.catalog import title
from ..services.models import ModelService
from ..services.results import Run, Runs
from ..strings import KAN
from ..web.component import component, packed
from .compare import Picture, whole


class KanHandlers:
    """The tab's callbacks, bound to the service that answers them."""

    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._runs = Runs()

    def see(self, picture: Picture, model: str) -> dict[str, Any]:
        """Show all layers of a model's KAN head on a picture: the panel's value."""
        chosen, name = _picture_or_example(picture)
        kan, inputs = self._inside(chosen, model)
        run = uuid.uuid4().hex
        self._runs.add(run, Run(chosen, (model,), next(iter(SCORES))))
        return {
            "run": run,
            "title": title(model),
            "picture": name,
            "layers": [
                {
                    **view.to_json(),
                    "norms": packed(view.norms, "norms.gz"),
                    "grid_norms": packed(view.grid_norms, "grid_norms.gz"),
                }
                for view in layer_views(kan, inputs)
            ],
        }

    def kan_edge(self, question: dict[str, Any]) -> dict[str, Any]:
        """Show the function on one edge, for the panel."""
        run = self._runs.find(question.get("run"))
        kan, inputs = self._inside(run.picture, run.sources[0])
        layer, source, target = (
            whole(question.get(name), name) for name in ("layer", "input", "output")
        )
        return edge_view(kan, layer, source, target, inputs).to_json()

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
        kan, inputs = self._inside(image, model)
        edge = edge_view(
            kan, whole(layer, "layer"), whole(input, "input"), whole(output, "output"), inputs
        )
        return {
            "layers": [view.to_json() for view in layer_views(kan, inputs)],
            "edge": edge.to_json(),
        }

    def _inside(self, picture: Picture, model: str) -> tuple[KanHead, Tensor]:
        """Return a model's KAN head, and its inputs for the picture."""
        stored(picture)  # or it is refused before anybody waits for a download
        with self._service.turn([model]):
            return self._service.inside(model, read_upload(picture))[:2]


def kan_tab(
    service: ModelService, names: Sequence[str], picture: gr.Image, queued: Mapping[str, Any]
) -> None:
    """Build the tab's content.

    Args:
        service: who runs the models.
        names: for the picker.
        picture: of the comparison.
        queued: how events wait for their turn.
    """
    handlers = KanHandlers(service)
    gr.Markdown(KAN["intro"], elem_id="kan-intro")
    with gr.Row(elem_id="kan-choice"):
        model = gr.Dropdown(
            [(title(name), name) for name in names],
            value=names[0] if names else None,
            label=KAN["model"],
            allow_custom_value=True,
            elem_id="kan-model",
            scale=3,
        )
        show = gr.Button(KAN["show"], variant="primary", elem_id="kan-show", scale=1)
    panel = component(
        "kan_panel",
        None,
        elem_id="kan-panel",
        strings=KAN,
        server_functions=[errors_as_values(handlers.kan_edge)],
        colours=color_table("viridis").tolist(),
    )
    show.click(
        shows_errors(handlers.see),
        [picture, model],
        panel,
        preprocess=False,
        show_progress="full",
        api_visibility="private",
        **queued,
    )
    _endpoint(handlers, names, queued)


def _endpoint(handlers: KanHandlers, names: Sequence[str], queued: Mapping[str, Any]) -> None:
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
        shows_errors(handlers.kan),
        [image, model, layer, source, target],
        functions,
        api_name="kan",
        preprocess=False,
        **queued,
    )


def _picture_or_example(picture: Picture) -> tuple[Mapping[str, Any], str]:
    """Return the visitor's picture and its name, or else the first example."""
    if picture:
        return picture, name_of(picture)
    examples = sample_pictures()
    if not examples:
        raise ImageError("No picture was chosen: choose one in Compare first.")
    return {"path": str(examples[0])}, examples[0].stem
