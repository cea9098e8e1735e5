"""The page's tab of models: list, describe and fetch them."""

from __future__ import annotations

import contextlib
import html
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr
from cachetools import LRUCache
from gradio.context import Context
from gradio.events import api

from mask2kan.errors import CheckpointError, ConfigError

from ..messages import shows_errors
from ..services.catalog import Entry, size_in_words
from ..services.service import ModelService
from ..strings import MODELS
from .compare import BAR, event_field

_SESSIONS = 4_000  # whose downloads may be cancelled

_CHOOSE = """
element.addEventListener('click', (event) => {
  const row = event.target.closest('[data-source]');
  if (row) trigger('model_chosen', { source: row.dataset.source });
});
"""

# No two closing braces in a row: they would end a placeholder of Gradio's templates.
_CSS = """
.rows { list-style: none; margin: 0; padding: 0; display: grid; gap: 8px; }
.rows li { margin: 0; }
.row {
  display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 4px 16px; align-items: start;
  width: 100%; padding: 10px 14px; text-align: left; font: inherit; font-size: 14px;
  line-height: 1.45; color: var(--body-text-color); background: var(--background-fill-primary);
  border: 1px solid var(--border-color-primary); border-radius: 10px; cursor: pointer;
}
.row:hover { background: var(--background-fill-secondary); }
.row:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
.row[aria-pressed="true"] {
  border-color: var(--color-accent); box-shadow: inset 3px 0 0 var(--color-accent);
}
.row b { font-weight: 600; overflow-wrap: anywhere; }
.row small { font-size: 13px; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.about { display: grid; gap: 2px; }
.facts { display: grid; gap: 2px; justify-items: end; text-align: right; }
.state { display: flex; gap: 8px; align-items: center; white-space: nowrap; }
.state i {
  width: 10px; height: 10px; border-radius: 50%; border: 2px solid var(--body-text-color-subdued);
}
.here i { border-color: var(--color-accent); background: var(--color-accent); }
@media (max-width: 560px) {
  .row { grid-template-columns: minmax(0, 1fr); }
  .facts { justify-items: start; text-align: left; }
}
"""


class ModelsTab(NamedTuple):
    """Components that the rest of the page connects to.

    Attributes:
        choice: the chosen model's source.
        use_left: for the caller to wire, with ``choice`` as input; so is ``use_right``.
        refresh: from ``choice``'s value to ``listing``'s, for when the tab is opened.
    """

    listing: gr.HTML
    choice: gr.Dropdown
    use_left: gr.Button
    use_right: gr.Button
    refresh: Callable[[str | None], str]


def models_tab(service: ModelService) -> ModelsTab:
    """Build the content of the tab, inside ``with gr.Tab(…)``."""
    handlers = ModelsHandlers(service)
    entries = handlers.entries()
    first = entries[0] if entries else None
    source = first.source if first else None
    gr.Markdown(MODELS["intro"], elem_id="models-intro")
    with gr.Row(elem_id="models-row"):
        with gr.Column(scale=3, min_width=300):
            listing: Any = gr.HTML(
                handlers.listing(source),
                css_template=_CSS,
                js_on_load=_CHOOSE,
                apply_default_css=False,
                elem_id="models-list",
            )
        with gr.Column(scale=2, min_width=300, elem_id="models-side"):
            choice = gr.Dropdown(
                choices=[(entry.title, entry.source) for entry in entries],
                value=source,
                label=MODELS["choice"],
                info=MODELS["choice_note"],
                allow_custom_value=True,
                elem_id="models-choice",
            )
            with gr.Row():
                use_left, use_right = _button("use_left"), _button("use_right")
            with gr.Row():
                fetchable = first is not None and first.kind == "hub"
                download = _button("download", variant="primary", visible=fetchable)
                cancel = _button("cancel", variant="stop", visible=False)
            note = gr.Markdown(elem_id="models-note", min_height=104, container=True, visible=False)
            card = gr.HTML(
                first.card if first else "",
                js_on_load=None,
                elem_id="models-card",
                container=True,
                max_height=900,
            )
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    # Only what passes through the queue tells the page its error; Cancel must never wait in it.
    queued, at_once = quick | {"concurrency_limit": None}, quick | {"queue": False}
    shown, afterwards = [listing, card, download, note], [listing, card, download, cancel]
    # The states at the time of the visit, not those when the app was started.
    page: Any = Context.root_block
    page.load(handlers.listing, choice, listing, **at_once)
    choice.change(shows_errors(handlers.show), choice, shown, **queued)
    listing.model_chosen(shows_errors(handlers.chosen_in_list), None, choice, **queued)
    fetched = download.click(
        shows_errors(handlers.begin), choice, [download, cancel, note], **queued
    ).success(
        shows_errors(handlers.download),
        choice,
        note,
        show_progress="full",
        show_progress_on=note,
        concurrency_id="downloads",
        concurrency_limit=16,
        api_visibility="private",
    )
    fetched.success(shows_errors(handlers.end), choice, afterwards, **at_once)
    fetched.failure(shows_errors(handlers.fail), choice, [*afterwards, note], **at_once)
    cancel.click(shows_errors(handlers.cancel), None, cancel, **at_once)
    api(shows_errors(handlers.models), api_name="models", queue=False)
    return ModelsTab(listing, choice, use_left, use_right, handlers.listing)


class ModelsHandlers:
    """The tab's callbacks, bound to the service that fetches."""

    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._catalog = service.catalog
        self._cancelled = _Events()

    def entries(self, chosen: str | None = None) -> list[Entry]:
        """List the catalog, and at its end the chosen model where the visitor typed it."""
        entries = self._catalog.entries()
        if _text(chosen) and _text(chosen) not in {entry.source for entry in entries}:
            # What nobody knows is refused where something is done with it.
            with contextlib.suppress(CheckpointError):
                entries.append(self._catalog.find(chosen))
        return entries

    def listing(self, chosen: str | None) -> str:
        """Write the list as HTML."""
        chosen = _text(chosen)
        rows = (_row(entry, entry.source == chosen) for entry in self.entries(chosen))
        return f'<ul class="rows" aria-label="{html.escape(MODELS["list"])}">{"".join(rows)}</ul>'

    def models(self) -> list[dict[str, Any]]:
        """The models this app offers, and whether they are on its machine.

        Returns:
            Per model: source (what the other endpoints take), title, kind (bundled, hub, file),
            scene (road, indoor, or empty), licence, state (bundled, cached, absent, file) and
            bytes on disk.
        """
        return [entry.to_json() for entry in self.entries()]

    def show(self, chosen: str | None, request: gr.Request) -> tuple[str, str, Any, Any]:
        """Show another model: list, card, the Download button, and the note put away.

        While a download runs, button and note belong to it.
        """
        entry = self._find(chosen)
        if self._cancelled.find(request) is not None:
            return self.listing(chosen), entry.card, gr.skip(), gr.skip()
        return self.listing(chosen), entry.card, _download_for(entry), gr.update(visible=False)

    def chosen_in_list(self, event: gr.EventData) -> str:
        """Return the source of a row that was clicked."""
        return self._find(event_field(event, "source")).source

    def begin(self, chosen: str | None, request: gr.Request) -> tuple[Any, Any, Any]:
        """Disable Download, show Cancel, and make room for the progress."""
        self._find(chosen)
        self._cancelled.begin(request)
        return (
            gr.update(interactive=False),
            gr.update(visible=True, interactive=True),
            gr.update(visible=True, value=""),
        )

    def download(self, chosen: str | None, request: gr.Request, progress: gr.Progress = BAR) -> str:
        """Fetch the chosen model, until it is here or Cancel is pressed; return the outcome."""
        entry = self._find(chosen)
        cancelled = self._cancelled.find(request) or self._cancelled.begin(request)

        def report(share: float, text: str) -> None:
            if cancelled.is_set():
                raise _CancelledError
            progress(share, desc=text)

        try:
            if entry.kind != "hub":
                return MODELS["is_here"].format(title=entry.title)
            self._service.fetch(entry.source, report)
        except _CancelledError:
            return MODELS["cancelled"].format(title=entry.title)
        finally:
            self._cancelled.end(request)
        size = size_in_words(self._find(chosen).bytes)
        return MODELS["done"].format(title=entry.title, size=size)

    def cancel(self, request: gr.Request) -> Any:
        """Stop this visitor's download and disable Cancel."""
        event = self._cancelled.find(request)
        if event is not None:
            event.set()
        return gr.update(interactive=False)

    def end(self, chosen: str | None, request: gr.Request) -> tuple[str, str, Any, Any]:
        """Show list, card and Download after a download, done or cancelled; hide Cancel."""
        self._cancelled.end(request)
        entry = next((e for e in self.entries(chosen) if e.source == _text(chosen)), None)
        card = entry.card if entry else ""
        return self.listing(chosen), card, _download_for(entry), gr.update(visible=False)

    def fail(self, chosen: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Do the same after an error, which has been shown: the note goes as well."""
        return *self.end(chosen, request), gr.update(visible=False)

    def _find(self, chosen: str | None) -> Entry:
        if not _text(chosen):
            raise ConfigError(MODELS["nothing_chosen"])
        return self._catalog.find(chosen)


class _Events:
    """The latest visitors' downloads by session, for any thread: an event is set by Cancel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: LRUCache[str, threading.Event] = LRUCache(_SESSIONS)

    def begin(self, request: gr.Request) -> threading.Event:
        with self._lock:
            event = self._events[str(request.session_hash)] = threading.Event()
        return event

    def find(self, request: gr.Request) -> threading.Event | None:
        with self._lock:
            return self._events.get(str(request.session_hash))

    def end(self, request: gr.Request) -> None:
        with self._lock:
            self._events.pop(str(request.session_hash), None)


class _CancelledError(Exception):
    """The visitor pressed Cancel."""


def _button(name: str, **options: Any) -> gr.Button:
    elem_id = f"models-{name.replace('_', '-')}"
    return gr.Button(MODELS[name], min_width=130, elem_id=elem_id, **options)


def _text(chosen: object) -> str:
    """Read what was typed; a request may hold anything in its place."""
    return chosen.strip() if isinstance(chosen, str) else ""


def _download_for(entry: Entry | None) -> Any:
    """Fit the button to a model: what is bundled or a file needs none."""
    if entry is None or entry.kind != "hub":
        return gr.update(visible=False)
    name = "download_again" if entry.state == "cached" else "download"
    return gr.update(value=MODELS[name], visible=True, interactive=True)


def _row(entry: Entry, pressed: bool) -> str:
    """Write a row; all text is escaped, since names of files and repositories are not ours."""
    scene = MODELS.get(f"scene_{entry.scene}", "")
    origin = MODELS[f"from_{entry.kind}"]
    name = entry.source if entry.source != entry.title and entry.kind == "hub" else ""
    place = " · ".join(part for part in (scene, name or origin) if part)
    licence = MODELS["licence"].format(licence=entry.licence)
    here = "" if entry.state == "absent" else " here"
    return (
        f'<li><button type="button" class="row" data-source="{html.escape(entry.source)}" '
        f'data-state="{entry.state}" aria-pressed="{str(pressed).lower()}">'
        f'<span class="about"><b>{html.escape(entry.title)}</b>'
        f"<small>{html.escape(place)}</small></span>"
        f'<span class="facts"><span class="state{here}"><i></i>{html.escape(entry.state_text)}'
        f"</span><small>{html.escape(licence)}</small></span></button></li>"
    )
