"""Lay out the page and connect its parts; nothing is computed here."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from mask2kan.errors import Mask2KANError
from mask2kan.inference.scores import SCORES

from .files.janitor import Janitor
from .files.kept import upload_folder
from .files.samples import samples
from .logs import of_request
from .messages import errors_as_values, shows_errors
from .services.catalog import Catalog
from .services.service import ModelService
from .strings import BAR, COMPARE, PAGE
from .tabs.batch import UNLIMITED, batch_tab
from .tabs.compare import Handlers, default_score
from .tabs.endpoints import described, endpoints
from .tabs.kan import kan_tab
from .tabs.models import models_tab
from .web import viewer
from .web.component import component
from .web.link_preview import address_of
from .work.turns import Asker, Turns, work_for

logger = logging.getLogger(__name__)

INDOOR = "facebook/mask2former-swin-tiny-ade-semantic"

# Runs in the browser: whatever else decides a result has changed.
_LOOK_AGAIN = "() => { window.mask2kan?.lookAgain(); }"
_FAILED = "() => { window.mask2kan?.failed(); }"
_PICKERS = "() => window.mask2kan.pickers()"
_QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# One job at a time: the models share the device, and Gradio shows each visitor's place.
QUEUED: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1}


class Page(gr.Blocks):
    """The page, which gives a sentence also where Gradio refuses a request before our callbacks."""

    handlers: Handlers
    service: ModelService
    first: Path  # file of the result that every visitor sees first, once it is there
    prepared: threading.Event  # set when that has been tried

    @property
    def turns(self) -> Turns:
        """The queue of all that computes."""
        return self.service.turns

    def ready(self) -> bool:
        """Whether the models have been loaded, or could not be: visitors may come."""
        return self.prepared.is_set()

    def prepare(self) -> threading.Thread:
        """Compute in the background what every visitor sees first; that loads the models, too.

        What fails is logged here and reported to whoever asks for it. Old files begin to be swept.
        """
        limits = self.service.limits
        folder = upload_folder().resolve()
        Janitor(folder, limits.upload_bytes, limits.keep_seconds, self._forget).start()

        def compute() -> None:
            try:
                self.handlers.first(self.first)
            except Mask2KANError as error:
                logger.warning("The first result could not be computed: %s", error)
            except Exception:
                logger.exception("The first result could not be computed")
            finally:
                self.prepared.set()

        thread = threading.Thread(target=compute, name="first-result", daemon=True)
        thread.start()
        return thread

    def _forget(self, removed: set[str]) -> None:
        """Take removed files off Gradio's lists, which would keep their names for ever."""
        for files in self.temp_file_sets:
            files -= removed

    async def process_api(self, *args: Any, **kwargs: Any) -> Any:
        """Answer an event."""
        state = _state(kwargs.get("request"))
        event = self._queue.event_ids_to_events.get(str(kwargs.get("event_id")))
        who = Asker(getattr(state, "client", ""), waits=lambda: event is None or event.alive)
        work_for(who)
        try:
            with of_request(getattr(state, "request_id", None)):
                return await super().process_api(*args, **kwargs)
        except asyncio.CancelledError:
            who.cancelled = True  # or its thread would wait for its turn, and have it
            raise
        except gr.Error as error:
            # A message may repeat what was sent; halves of characters would end the connection.
            error.message = error.message.encode(errors="backslashreplace").decode()
            raise
        except Exception as error:
            ours = not isinstance(error, ValueError)  # what Gradio raises for values it refuses
            logger.warning("Refused a request: %.200s", error, exc_info=ours)
            raise gr.Error(PAGE["not_taken"], duration=20, print_exception=False) from error

    def get_api_info(self, *args: Any, **kwargs: Any) -> Any:
        """Describe the named endpoints."""
        functions = {str(event.api_name): event.fn for event in self.fns.values() if event.fn}
        first = next(iter(samples()), None)
        files = {"image": first.path, "files": first.path, "truth": first.truth} if first else {}
        addresses = {name: address_of(file) for name, file in files.items() if file}
        info: Any = super().get_api_info(*args, **kwargs)
        return described(info, functions, addresses)


def _state(request: gr.Request | None) -> object:
    """Return what the layers noted of the HTTP request that asked for a job: it runs later."""
    return getattr(getattr(request, "request", None), "state", None)


def build_demo(models: Sequence[str] | None = None, service: ModelService | None = None) -> Page:
    """Build the whole page.

    Args:
        models: as in ``catalog.offered_models``; ignored where a service is given.
        service: runs the models and offers its catalog; a new one by default.
    """
    if service is None:
        service = ModelService(catalog=Catalog.of_environment(models))
    handlers = Handlers(service)
    kept = round(service.limits.keep_seconds)
    demo = Page(
        title=PAGE["title"],
        analytics_enabled=False,
        delete_cache=(max(1, kept // 2), kept),
        fill_width=True,
    )
    demo.handlers, demo.service, demo.prepared = handlers, service, threading.Event()
    # A folder of its own, which Gradio serves as it is and which goes with the page.
    folder = Path(tempfile.mkdtemp(prefix="mask2kan_first_")).resolve()
    weakref.finalize(demo, shutil.rmtree, folder, ignore_errors=True)
    demo.first = folder / "first.json"
    gr.set_static_paths([folder])
    with demo:
        component("bar", None, elem_id="bar", strings=BAR)
        preset, left, right, score = pickers = _pickers(service.catalog)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(PAGE["tab_compare"], id="compare"):
                shown = _compare_tab(demo, pickers[1:])
            with gr.Tab(PAGE["tab_batch"], id="batch"):
                batch = batch_tab(service, left, right, score)
            with gr.Tab(PAGE["tab_kan"], id="kan"):
                kan_tab(service, service.catalog.offered, handlers.runs, QUEUED)
            with gr.Tab(PAGE["tab_models"], id="models") as models_page:
                listed = models_tab(service)
        models_page.select(listed.refresh, listed.choice, listed.listing, **_QUICK)
        named = shows_errors(service.catalog.name)
        for chosen in (
            preset.input(
                lambda scene: _pair(scene, service.catalog), preset, [left, right], **_QUICK
            ),
            listed.use_left.click(named, listed.choice, left, **UNLIMITED),
            listed.use_right.click(named, listed.choice, right, **UNLIMITED),
        ):
            chosen.success(None, js=_LOOK_AGAIN)
        batch.open.click(
            shows_errors(handlers.open_file), batch.chosen, shown, **UNLIMITED
        ).success(lambda: gr.Tabs(selected="compare"), None, tabs, **_QUICK)
        gr.Markdown(PAGE["small_print"], elem_id="small-print")
        endpoints(handlers, left, right, score, QUEUED)
    # No second way in: what passes by the queue would pass by its limits, too.
    demo.queue(max_size=64, default_concurrency_limit=1, api_open=False)
    return demo


def _compare_tab(demo: Page, pickers: Sequence[gr.Dropdown]) -> gr.HTML:
    """Put the viewer on the tab and connect it with the pickers."""
    handlers = demo.handlers
    offered = demo.handlers.has_models
    shown = viewer.viewer(
        None if offered else {"message": COMPARE["no_models"]},
        [
            errors_as_values(ask)
            for ask in (handlers.explain_run, handlers.export_run, handlers.smooth_run)
        ],
        first=demo.first if offered else None,
    )
    looked = shown.look(
        handlers.look,
        list(pickers),
        shown,
        preprocess=False,
        show_progress="full",
        show_progress_on=shown,
        trigger_mode="multiple",  # the viewer itself sends one request at a time
        api_visibility="private",
        **QUEUED,
    )
    looked.failure(fn=None, js=_FAILED)
    shown.stopped(fn=None, cancels=[looked])
    shown.returned(fn=None, outputs=list(pickers), js=_PICKERS)
    gr.on([picker.input for picker in pickers], fn=None, js=_LOOK_AGAIN)
    demo.load(handlers.linked, None, [*pickers, shown], **_QUICK)
    return shown


def _pickers(catalog: Catalog) -> tuple[gr.Radio, gr.Dropdown, gr.Dropdown, gr.Dropdown]:
    """Make what the bar's chip opens: preset, left and right model, score."""
    with gr.Column(elem_id="settings"):
        preset = gr.Radio(
            [(PAGE["preset_road"], "road"), (PAGE["preset_indoor"], "indoor")],
            value="road",
            label=PAGE["preset"],
            info=PAGE["preset_note"],
            elem_id="preset",
        )
        note = PAGE["model_note_here" if catalog.typed_paths else "model_note"]
        left = _model_picker("left", PAGE["left"], catalog, 0, note)
        right = _model_picker("right", PAGE["right"], catalog, 1, note)
        score = _score_picker("score")
    return preset, left, right, score


def _pair(preset: str, catalog: Catalog) -> tuple[str | None, str | None]:
    pair = catalog.pair() or (None, None)
    return (INDOOR, pair[0]) if preset == "indoor" else pair


def _model_picker(
    elem_id: str, label: str, catalog: Catalog, index: int, note: str | None = None
) -> gr.Dropdown:
    pair = catalog.pair()
    return gr.Dropdown(
        choices=catalog.choices(),
        value=pair[index] if pair else None,
        label=label,
        info=note,
        allow_custom_value=True,
        elem_id=elem_id,
    )


def _score_picker(elem_id: str) -> gr.Dropdown:
    return gr.Dropdown(
        choices=[(score.title, name) for name, score in SCORES.items()],
        value=default_score(),
        label=PAGE["score"],
        info=PAGE["score_note"],
        elem_id=elem_id,
    )
