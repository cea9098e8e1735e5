"""Lay out the page and connect its parts; nothing is computed here."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gradio as gr

from mask2kan.checkpoints.manifest import manifest
from mask2kan.inference.scores import SCORES

from .messages import errors_as_values, shows_errors
from .services.catalog import Catalog, title
from .services.models import ModelService
from .strings import PAGE
from .tabs.batch import UNLIMITED, batch_tab
from .tabs.compare import Handlers
from .tabs.kan import kan_tab
from .tabs.models import models_tab
from .web import viewer
from .web.gallery import gallery

logger = logging.getLogger(__name__)

INDOOR = "facebook/mask2former-swin-tiny-ade-semantic"

# Runs in the browser: marks the old result as outdated before the request leaves.
_BUSY = "(...a) => { window.mask2kan?.busy(Boolean(a[0])); return a; }"
_SURELY_BUSY = "(...a) => { window.mask2kan?.busy(true); return a; }"
_FAILED = "() => { window.mask2kan?.failed(); }"
# One job at a time: the models share the device, and Gradio shows each visitor's place.
_QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
QUEUED: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1}


class _Page(gr.Blocks):
    """Give visitors a sentence also where Gradio refuses a request before our callbacks see it."""

    async def process_api(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error as error:
            # A message may repeat what was sent; halves of characters would end the connection.
            error.message = error.message.encode(errors="backslashreplace").decode()
            raise
        except Exception as error:
            ours = not isinstance(error, ValueError)  # what Gradio raises for values it refuses
            logger.warning("Refused a request: %.200s", error, exc_info=ours)
            raise gr.Error(PAGE["not_taken"], duration=20, print_exception=False) from error


def build_demo(
    models: Sequence[str] | None = None, service: ModelService | None = None
) -> gr.Blocks:
    """Build the whole page.

    Args:
        models: as in ``catalog.offered_models``; ignored where a service is given.
        service: runs the models and offers its catalog; a new one by default.
    """
    if service is None:
        service = ModelService(catalog=Catalog.of_environment(models))
    names = service.catalog.offered
    note = PAGE["model_note_here" if service.catalog.typed_paths else "model_note"]
    handlers = Handlers(service)
    demo = _Page(
        title=PAGE["title"], analytics_enabled=False, delete_cache=(1800, 3600), fill_width=True
    )
    with demo:
        gr.Markdown(PAGE["intro"], elem_id="title")
        with gr.Row(elem_id="models"):
            preset = gr.Radio(
                [(PAGE["preset_road"], "road"), (PAGE["preset_indoor"], "indoor")],
                value="road",
                label=PAGE["preset"],
                info=PAGE["preset_note"],
                elem_id="preset",
            )
            left = _model_picker("left", PAGE["left"], names, 0, note)
            right = _model_picker("right", PAGE["right"], names, 1, note)
            score = _score_picker("score")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(PAGE["tab_compare"], id="compare"):
                compare = _compare_tab(demo, handlers, names, [left, right, score])
            with gr.Tab(PAGE["tab_batch"], id="batch"):
                batch = batch_tab(service, left, right, score)
            with gr.Tab(PAGE["tab_kan"], id="kan"):
                kan_tab(service, names, compare.picture, QUEUED)
            with gr.Tab(PAGE["tab_models"], id="models") as models_page:
                listed = models_tab(service)
        models_page.select(listed.refresh, listed.choice, listed.listing, **_QUICK)
        named = service.catalog.name
        for chosen in (
            preset.input(lambda scene: _pair(scene, names), preset, [left, right], **_QUICK),
            listed.use_left.click(shows_errors(named), listed.choice, left, **UNLIMITED),
            listed.use_right.click(shows_errors(named), listed.choice, right, **UNLIMITED),
        ):
            compare.look(chosen.then)
        batch.open.click(
            shows_errors(handlers.look_at_file),
            [batch.chosen, left, right, score],
            compare.opened,
            **compare.opening,
        ).success(lambda: gr.Tabs(selected="compare"), None, tabs, **_QUICK)
        gr.Markdown(PAGE["small_print"], elem_id="small-print")
        _endpoints(handlers, names)
    # No second way in: what passes by the queue would pass by its limits, too.
    demo.queue(max_size=64, default_concurrency_limit=1, api_open=False)
    return demo


class _Compare(NamedTuple):
    """Components of the comparison that the rest of the page uses.

    Attributes:
        opened: outputs of an event that brings another picture: picture, ground truth, example
            and viewer.
        opening: how such an event runs.
        look: makes an event of the given kind compute the picture again.
    """

    picture: gr.Image
    opened: list[Any]
    opening: dict[str, Any]
    look: Callable[[Callable[..., Any]], Any]


def _compare_tab(
    demo: gr.Blocks, handlers: Handlers, names: Sequence[str], models: list[gr.Dropdown]
) -> _Compare:
    """Put picture and examples on one side, the viewer on the other."""
    example = gr.State("")
    with gr.Row():
        with gr.Column(scale=1, min_width=300, elem_id="inputs"):
            with gr.Column():
                picture = _picture("picture", PAGE["picture"])
                button = gr.Button(PAGE["compare"], variant="primary", elem_id="compare")
            with gr.Column():
                examples = gallery()
                with gr.Accordion(PAGE["truth"], open=False, elem_id="truth-box"):
                    truth = gr.Image(
                        label=PAGE["truth_file"],
                        type="filepath",
                        image_mode=None,
                        sources=["upload"],
                        buttons=[],
                        height=160,
                        elem_id="truth",
                    )
                    white = gr.Radio(
                        [(PAGE["white_void"], "void"), (PAGE["white_anomaly"], "anomaly")],
                        value="void",
                        label=PAGE["truth_white"],
                        info=PAGE["truth_note"],
                        elem_id="truth-white",
                    )
        with gr.Column(scale=4, min_width=320, elem_id="outputs"):
            shown = viewer.viewer(
                None if names else {"message": PAGE["no_models"]},
                [errors_as_values(handlers.explain_run), errors_as_values(handlers.export_run)],
            )
    running: dict[str, Any] = {
        "js": _BUSY,
        "preprocess": False,
        "show_progress": "full",
        "show_progress_on": shown,
        "trigger_mode": "always_last",
        "api_visibility": "private",
        **QUEUED,
    }
    uploaded = gr.on(
        [picture.input, picture.clear],
        shows_errors(handlers.look_at_upload),
        [picture, truth, white, *models],
        [shown, example],
        **running,
    )
    opened = [picture, truth, example, shown]

    def look(event: Callable[..., Any]) -> Any:
        return event(
            shows_errors(handlers.look), [picture, truth, white, *models, example], shown, **running
        )

    touched = [*(model.input for model in models), white.input, truth.upload, truth.clear]
    changed = look(functools.partial(gr.on, [*touched, button.click]))
    opening = running | {"js": _SURELY_BUSY}
    pasted = shown.picture_given(shows_errors(handlers.look_at_given), models, opened, **opening)
    clicked = examples.example_chosen(
        shows_errors(handlers.open_example), models, opened, **opening
    )
    linked = demo.load(
        shows_errors(handlers.open_link),
        models,
        [*models, picture, example, shown],
        **(running | {"js": None}),
    )
    for event in (uploaded, changed, pasted, clicked, linked):
        event.failure(fn=None, js=_FAILED)
    return _Compare(picture, opened, opening, look)


def _pair(preset: str, names: Sequence[str]) -> tuple[str | None, str | None]:
    if preset == "indoor":
        return INDOOR, _nth(names, 0)
    return _nth(names, 0), _nth(names, 1)


def _nth(names: Sequence[str], index: int) -> str | None:
    return names[min(index, len(names) - 1)] if names else None


def _picture(elem_id: str, label: str, *, visible: bool = True) -> gr.Image:
    return gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        sources=["upload", "webcam", "clipboard"],
        webcam_options=gr.WebcamOptions(
            mirror=False, constraints={"video": {"facingMode": "environment"}}
        ),
        buttons=["fullscreen"],
        height=220,
        elem_id=elem_id,
        visible=visible,
    )


def _model_picker(
    elem_id: str, label: str, names: Sequence[str], index: int, note: str | None = None
) -> gr.Dropdown:
    return gr.Dropdown(
        choices=[(title(name), name) for name in [*names, INDOOR]],
        value=_nth(names, index),
        label=label,
        info=note,
        allow_custom_value=True,
        elem_id=elem_id,
    )


def default_score() -> str:
    """Choose the score in the bundled models' settings, or the thesis's."""
    scores = [str(entry["score"]) for entry in manifest() if entry.get("score") in SCORES]
    return scores[0] if scores else next(iter(SCORES))


def _score_picker(elem_id: str, *, visible: bool = True) -> gr.Dropdown:
    return gr.Dropdown(
        choices=[(score.title, name) for name, score in SCORES.items()],
        value=default_score(),
        label=PAGE["score"],
        info=PAGE["score_note"],
        elem_id=elem_id,
        visible=visible,
    )


def _endpoints(handlers: Handlers, names: Sequence[str]) -> None:
    """Add the named API; its invisible components carry types and defaults."""
    with gr.Column(visible=False):
        image = _picture("api-image", "image")
        left = _model_picker("api-left", "left", names, 0)
        right = _model_picker("api-right", "right", names, 1)
        score = _score_picker("api-score")
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
    models = [left, right]
    thresholds = [left_threshold, right_threshold, least, truth]
    for name, function, inputs, outputs in (
        ("compare", handlers.compare, [image, *models, score], [summary, files]),
        ("segment", handlers.segment, [image, left, score], [summary, files]),
        ("explain", handlers.explain, [image, x, y, *models, score], [summary]),
        ("export", handlers.export, [image, *models, score, *thresholds], [summary, archive]),
    ):
        trigger.click(
            shows_errors(function), inputs, outputs, api_name=name, preprocess=False, **QUEUED
        )
