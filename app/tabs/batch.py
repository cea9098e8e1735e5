"""The page's tab of many pictures: choose files, watch results, sort and download them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gradio as gr

from mask2kan.errors import ImageError
from mask2kan.media.files import write_bytes
from mask2kan.media.videos import SUFFIXES
from mask2kan.outputs.writer import png_bytes

from ..files.kept import upload_folder
from ..messages import shows_errors, shows_errors_of_steps
from ..services.batch import Batch, run_batch
from ..services.batch_items import items_of, read_item
from ..services.batch_rows import ORDERS, BatchRow, check_order, ordered, record
from ..services.reading import Reading, chosen_reading, kept_settings
from ..services.service import ModelService
from ..strings import BATCH
from ..web.batch_results import WITH_SETTINGS, batch_results
from ..work.turns import OneEach
from .compare import BAR, event_field
from .endpoints import like

# The page is updated at most so often: each time it gets all rows anew.
_SECONDS_BETWEEN_UPDATES = 0.7
# Whole batches wait for each other here; their pictures wait in the service, with everybody's.
_QUEUED: dict[str, Any] = {"concurrency_id": "batch", "concurrency_limit": 3}
# In the queue without waiting in it: an event outside of it cannot show its error on the page.
UNLIMITED: dict[str, Any] = {
    "concurrency_limit": None,
    "show_progress": "hidden",
    "api_visibility": "private",
}


class BatchTab(NamedTuple):
    """Components that the rest of the page connects to.

    Attributes:
        open: appears when a picture or a frame is chosen.
        chosen: a state: path of the chosen picture (or frame, as PNG) among the uploads, or None.
    """

    open: gr.Button
    chosen: gr.State


def batch_tab(
    service: ModelService, left: gr.Dropdown, right: gr.Dropdown, score: gr.Dropdown
) -> BatchTab:
    """Build the content of the tab, inside ``with gr.Tab(…)``; takes the page's pickers."""
    handlers = BatchHandlers(service)
    batch = gr.State(None, delete_callback=_let_go)
    chosen = gr.State(None)
    settings = gr.JSON(visible=False)  # filled in the browser when a run begins
    gr.Markdown(BATCH["intro"], elem_id="batch-intro")
    with gr.Row(elem_id="batch-row"):
        with gr.Column(scale=1, min_width=300, elem_id="batch-side"):
            files = gr.File(
                label=BATCH["files"],
                file_count="multiple",
                file_types=["image", "video", *SUFFIXES],
                height=220,
                elem_id="batch-files",
            )
            with gr.Row():
                run = gr.Button(BATCH["run"], variant="primary", **_look("run", "lg"))
                cancel = gr.Button(
                    BATCH["cancel"], variant="stop", visible=False, **_look("cancel", "lg")
                )
            note = gr.Markdown(elem_id="batch-note", min_height=64, container=True, visible=False)
            with gr.Row():
                table_file, archive = (
                    gr.DownloadButton(BATCH[name], visible=False, **_look(name, "md"))
                    for name in ("csv", "zip")
                )
        with gr.Column(scale=4, min_width=300, elem_id="batch-main"):
            results = batch_results()
            opener = gr.Button(
                BATCH["open"], variant="primary", visible=False, **_look("open", "lg")
            )
    ended = [run, cancel, note, results, table_file, archive]
    running = run.click(
        shows_errors(handlers.begin),
        [files, batch, settings],
        [batch, *ended, chosen, opener],
        js=WITH_SETTINGS,
        preprocess=False,
        **UNLIMITED,
    ).success(
        shows_errors_of_steps(handlers.run),
        [batch, left, right, score],
        [note, results],
        preprocess=False,
        show_progress="full",
        show_progress_on=note,
        api_visibility="private",
        trigger_mode="multiple",  # a cancelled run may not have ended yet
        **_QUEUED,
    )
    # Gradio does not call ``then`` after a generator that failed, so both ways are named.
    for over in (running.success, running.failure):
        over(shows_errors(handlers.run_over), batch, ended, **UNLIMITED)
    # The event is cancelled in the queue; the batch itself takes no further picture.
    cancel.click(shows_errors(handlers.end), batch, ended, cancels=[running], **UNLIMITED)
    results.picture_chosen(shows_errors(handlers.choose), batch, [chosen, opener], **UNLIMITED)
    _endpoint(handlers, left, right, score)
    return BatchTab(opener, chosen)


class BatchHandlers:
    """The tab's callbacks, bound to the service that computes."""

    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._one_each = OneEach()

    def begin(self, files: Any, before: Batch | None, settings: Any) -> tuple[Any, ...]:
        """Replace the results of the run before by an empty batch.

        Args:
            files: the raw value of the file component.
            before: the visitor's batch so far.
            settings: what the comparison's viewer says was chosen there, or None.

        Returns:
            The visitor's batch, then Run, Cancel, the note, the results, both downloads, the
            chosen picture and the button that opens it.
        """
        kept = kept_settings(settings)  # or it is refused before anything is lost
        batch = _new_batch(files, self._service)
        batch.settings = kept
        if before is not None:
            own = before.state != "new" and not before.end_reported
            batch.ends_to_come = before.ends_to_come + own
        _let_go(before)
        hidden, busy = gr.update(visible=False), gr.update(interactive=False)
        shown = gr.update(visible=True), gr.update(visible=True, value="")
        return batch, busy, *shown, _results(batch), hidden, hidden, None, hidden

    def run(
        self, batch: Batch | None, left: str, right: str, score: str, progress: gr.Progress = BAR
    ) -> Iterator[tuple[Any, Any]]:
        """Compute one picture after the other; yield the note and the results so far."""
        if batch is None:
            return
        with self._one_each.hold(batch, lambda: batch.finished):
            batch.state = "running"
            try:
                for told in self._run(batch, (left, right), score, progress):
                    yield told
                    self._one_each.renew(batch)  # each step is asked for anew
            finally:
                batch.state = "over"

    def _run(
        self, batch: Batch, models: tuple[str, str], score: str, progress: gr.Progress
    ) -> Iterator[tuple[Any, Any]]:
        admit = self._service.catalog.name  # whatever was sent in place of names is refused first
        models = admit(models[0]), admit(models[1])
        total, start, last_update = len(batch.items), time.monotonic(), 0.0

        def report(_: float, text: str) -> None:
            progress((len(batch.rows), total), desc=text)

        progress((0, total), desc=_progress(0, total, 0.0))
        batch.reading = chosen_reading(batch.settings, models, score)
        steps = run_batch(
            self._service,
            batch.items,
            *models,
            score,
            batch,
            reading=batch.reading,
            report=report,
        )
        for row in steps:
            spent = time.monotonic() - start
            if spent - last_update >= _SECONDS_BETWEEN_UPDATES or row.number in (1, total):
                last_update = spent
                yield gr.skip(), _results(batch)
            if row.number < total:
                progress((row.number, total), desc=_progress(row.number, total, spent))

    def run_over(self, batch: Batch | None) -> tuple[Any, ...]:
        """End the batch when Gradio reports the end of a run, unless it was another's.

        A cancelled run ends with the picture it is at, and by then the next may have begun.
        """
        if batch is None:
            return self.end(batch)
        own = not batch.ends_to_come
        if own:
            batch.end_reported = True
        else:
            batch.ends_to_come -= 1
        # A run that was refused ends without having begun.
        return self.end(batch) if own or batch.state == "over" else (gr.skip(),) * 6

    def end(self, batch: Batch | None) -> tuple[Any, ...]:
        """End or cancel the run: what was finished can be downloaded.

        Returns:
            Run, Cancel, the note, the results and both downloads.
        """
        idle = gr.update(interactive=True), gr.update(visible=False)
        if batch is None:
            return *idle, *(gr.skip(),) * 4
        files = batch.finish()
        note = gr.update(visible=True, value=_outcome(batch))
        downloads: list[Any] = [gr.update(visible=False)] * 2
        if files is not None:
            downloads = [gr.update(visible=True, value=str(path)) for path in files]
        return *idle, note, _results(batch), *downloads

    def choose(self, batch: Batch | None, event: gr.EventData) -> tuple[str, Any]:
        """Return the file of a chosen picture or frame, and the button that opens it.

        What the browser says is only compared with what this visitor's batch holds.
        """
        number = event_field(event, "number")
        rows = {row.number: row for row in (batch.rows if batch else []) if row.thumbnail}
        if batch is None or not isinstance(number, int) or number not in rows:
            raise ImageError(BATCH["no_such_picture"])
        label = BATCH["open_named"].format(name=rows[number].label)
        path = _file_of(batch, rows[number], self._service)
        return str(path), gr.update(visible=True, value=label)

    def batch(
        self, files: Any, left: str, right: str, score: str, order: str
    ) -> tuple[list[dict[str, Any]], str | None, str | None]:
        """Two models on many pictures, or on frames of videos: numbers, CSV and ZIP.

        A picture that cannot be read has its reason under "error"; the batch goes on. Of each
        model, "anomalous_share" counts every pixel at its threshold, "regions_share" those of
        regions that are large enough. The ZIP holds the CSV and, per picture, both overlays, both
        16-bit scores and a JSON summary; per video, films of its frames.

        Args:
            files: JPEG, PNG or WebP files, and videos (up to 60 frames of each); 200 in all.
            left: a model the app offers, or a Hub repository id.
            right: likewise.
            score: msp, entropy, energy, rba or eam.
            order: "anomalous area", "highest score", "models disagree" or "order given".
        """
        check_order(order)
        batch = _new_batch(files, self._service, thumbnails=False)
        try:
            with self._one_each.hold(batch, lambda: batch.finished):
                for _ in run_batch(self._service, batch.items, left, right, score, batch):
                    pass
            written = batch.finish()
        except BaseException:
            batch.discard()
            raise
        rows = [record(row) for row in ordered(batch.rows, order)]
        table, archive = map(str, written) if written else (None, None)
        return rows, table, archive


def _endpoint(
    handlers: BatchHandlers, left: gr.Dropdown, right: gr.Dropdown, score: gr.Dropdown
) -> None:
    """Add the named endpoint; its invisible components carry types and defaults."""
    with gr.Column(visible=False):
        files = gr.File(label="files", file_count="multiple")
        models = [like(left, "left"), like(right, "right"), like(score, "score")]
        order = gr.Dropdown(list(ORDERS), value=next(iter(ORDERS)), label="order")
        rows = gr.JSON(label="rows")
        table, archive = gr.File(label="csv"), gr.File(label="zip")
        trigger = gr.Button()
    trigger.click(
        shows_errors(handlers.batch),
        [files, *models, order],
        [rows, table, archive],
        api_name="batch",
        preprocess=False,
        **_QUEUED,
    )


def _new_batch(files: Any, service: ModelService, *, thumbnails: bool = True) -> Batch:
    """Make a batch in a folder that Gradio serves from and nobody can guess."""
    folder = upload_folder() / f"batch_{secrets.token_hex(16)}"
    return Batch(
        folder.resolve(), items_of(files, service.turn, service.decode), thumbnails=thumbnails
    )


def _let_go(batch: Batch | None) -> None:
    if batch is not None:
        batch.discard()


def _file_of(batch: Batch, row: BatchRow, service: ModelService) -> Path:
    """Find the picture's file; a frame is decoded again, since keeping all would fill disks."""
    item = batch.items[row.number - 1]
    if item.frame is None:
        return item.path
    path = batch.folder / f"frame_{row.number:03d}.png"
    with service.turn():  # whoever asked for the same frame before has written it by then
        if not path.is_file():
            write_bytes(path, png_bytes(service.decode(read_item, item)))
        return path


def _look(name: str, size: Literal["md", "lg"]) -> dict[str, Any]:
    return {"size": size, "min_width": 110, "elem_id": f"batch-{name}"}


def _results(batch: Batch) -> dict[str, Any]:
    """Make the results' value: the rows so far, and the videos among them."""
    rows = batch.rows
    titles = next(([model.title for model in row.models] for row in rows if row.models), [])
    return {
        "run": batch.folder.name,
        "folder": batch.folder.as_posix(),
        "rows": [_row(row) for row in rows],
        "films": [
            {
                "name": film.name,
                "numbers": film.numbers,
                "rate": film.rate,
                "files": {view: path.name for view, path in film.files.items()},
                "models": titles,
            }
            for film in batch.films
        ],
        "read": _read_in_words(batch.reading, rows),
    }


def _row(row: BatchRow) -> dict[str, Any]:
    return {
        "number": row.number,
        "label": row.label,
        "seconds": row.seconds,
        "error": row.error,
        "photo": row.thumbnail and row.thumbnail.name,
        "heat": row.heat and row.heat.name,
        "models": [
            {
                "area": model.regions_share,
                "regions": model.regions,
                "largest": model.largest_region,
                "highest": model.highest_score,
                "position": model.position,
            }
            for model in row.models
        ],
    }


def _read_in_words(reading: Reading, rows: list[BatchRow]) -> str:
    """Say from which score on pixels are anomalous here, and what else was chosen."""
    models = next((row.models for row in rows if row.models), None)
    if models is None:
        return ""
    left, right = (f"{model.threshold:.3g}" for model in models)
    parts = [BATCH["read_thresholds"].format(left=left, right=right)]
    for name in ("smallest_region", "smoothing"):
        share = getattr(reading, name)
        if share is not None:
            parts.append(BATCH[f"read_{name}"].format(share=f"{100 * share:.2g}"))
    return " ".join(parts)


def _progress(done: int, total: int, spent: float) -> str:
    number = done + 1
    if not done:
        return BATCH["progress"].format(number=number, total=total)
    left = _in_words(spent / done * (total - done), "seconds", "minutes")
    return BATCH["progress_left"].format(number=number, total=total, left=left)


def _in_words(seconds: float, few: str, many: str) -> str:
    if seconds < 90:
        return BATCH[few].format(n=max(1, round(seconds)))
    return BATCH[many].format(n=round(seconds / 60))


def _outcome(batch: Batch) -> str:
    rows, total = batch.rows, len(batch.items)
    failed = sum(bool(row.error) for row in rows)
    if not rows:
        return BATCH["none_done"]
    if len(rows) < total:
        outcome = BATCH["stopped"].format(done=len(rows), total=total)
    else:
        spent = _in_words(batch.seconds, "spent_seconds", "spent_minutes")
        outcome = BATCH["done"].format(done=len(rows) - failed, total=total, spent=spent)
    return f"{outcome} {BATCH['failed'].format(n=failed)}" if failed else outcome
