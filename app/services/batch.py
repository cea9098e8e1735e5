"""Run both models on many pictures, or the frames of a video, and store the results.

One by one: only a row of numbers stays in memory, thumbnails and the ZIP file lie on disk, and each
picture asks the service anew, so that other visitors have their turn in between. A video's
thumbnails become its films.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2kan.errors import ImageError, NumericsError, OutOfMemoryError, WriteError
from mask2kan.inference.scores import check_score
from mask2kan.media.files import atomic_writer, json_bytes, write_bytes
from mask2kan.media.images import RGB
from mask2kan.outputs import drawing
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import encode

from ..files.uploads import safe_stem
from ..work.processes import ProcessEndedError, TimeLimitError
from .batch_items import BatchItem, videos_of
from .batch_rows import BatchRow, numbers_of, write_csv
from .films import SUFFIX, rate_of, write_film
from .models import SIDES, Models
from .reading import Reading
from .service import ModelService

logger = logging.getLogger(__name__)

THUMBNAIL_WIDTH = 960
VIEWS = ("photo", "heat")  # of thumbnails and films
CSV_NAME = "mask2kan_batch.csv"
ZIP_NAME = "mask2kan_batch.zip"

_GAP = 4  # pixels between the halves of a thumbnail
_FILES = ("overlay.png", "score16.png")  # of each model, in the ZIP
# What is wrong with one picture alone; the batch goes on with the next.
_PICTURES_FAULT = (
    ImageError,
    OutOfMemoryError,
    NumericsError,
    TimeLimitError,
    ProcessEndedError,
)

Report = Callable[[float, str], None]


def run_batch(
    service: ModelService,
    items: Sequence[BatchItem],
    left: str,
    right: str,
    score: str,
    batch: Batch,
    *,
    reading: Reading | None = None,
    report: Report | None = None,
) -> Iterator[BatchRow]:
    """Run both models on one picture at a time; yield a row for each, also for failed ones.

    Args:
        service: who computes.
        items: from ``items_of``.
        left: a model that the catalog admits.
        right: likewise.
        score: a name from ``SCORES``.
        batch: where the results go; once it is finished, no further picture is computed.
        reading: how scores are read; None for the models' own way.
        report: called during a download.

    Raises:
        Mask2KANError: for a score or a model that cannot be used, or a full disk.
    """
    check_score(score)
    reading = reading or Reading()
    with contextlib.closing(service.item_reader()) as reader:
        for number, item in enumerate(items, 1):
            if batch.finished:
                return
            row, results = BatchRow(number, item.name), None
            try:
                with service.turn((left, right), report, goes_on=number > 1):
                    seconds, picture = reader.read(item)
                    height, width = picture.shape[:2]
                    row = dataclasses.replace(row, seconds=seconds, size=(height, width))
                    row, results = service.run(
                        summarised, row, (left, right), picture, score, reading
                    )
            except _PICTURES_FAULT as error:
                row = dataclasses.replace(row, error=str(error))
            added = batch.add(row, results)
            if added is None:  # finished meanwhile
                return
            yield added


@dataclasses.dataclass(frozen=True)
class _Results:
    """A picture's thumbnails by view, and its members of the ZIP by name."""

    thumbnails: dict[str, bytes]
    members: dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Film:
    """A video's frames as films, the left model's beside the right one's.

    Attributes:
        name: of the video.
        numbers: of its frames' rows, in order.
        rate: frames per second.
        files: by view; empty until the video is over, and where none could be written.
    """

    name: str
    numbers: tuple[int, ...]
    rate: float
    files: dict[str, Path]


class Batch:
    """The results of one visitor's run so far: rows in memory, everything else on disk.

    Attributes:
        folder: its own, made here; ``discard`` removes it.
        settings: what the page said of the reading of scores when the run began.
        reading: what that means for the run's models and score.
        state: of the run that computes it.
        end_reported: whether the page has been told of its end.
        ends_to_come: cancelled runs before it whose end the page has yet to be told of.
        seconds: from the beginning to the latest picture.
    """

    def __init__(
        self, folder: Path, items: Sequence[BatchItem], *, thumbnails: bool = True
    ) -> None:
        self.folder = folder
        self.items = tuple(items)
        self.settings: object = None
        self.reading = Reading()
        self.state: Literal["new", "running", "over"] = "new"
        self.end_reported = False
        self.ends_to_come = 0
        self.seconds = 0.0
        self._start = time.monotonic()
        self._thumbnails = thumbnails
        self._rows: list[BatchRow] = []
        self._videos = videos_of(self.items)
        self._films: dict[int, Film] = {}
        self._lock = threading.Lock()
        self._finished = False
        # The ZIP is whole at its place at the end, or not there. PNG is compressed already.
        self._open = contextlib.ExitStack()
        file = self._open.enter_context(atomic_writer(folder / ZIP_NAME))
        self._archive = self._open.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))

    @property
    def rows(self) -> list[BatchRow]:
        """Copy the rows so far, in the items' order."""
        with self._lock:
            return list(self._rows)

    @property
    def films(self) -> list[Film]:
        """The videos so far: those that are over have films."""
        with self._lock:
            return [self._film(video, rows) for video, rows in self._frames_by_video().items()]

    @property
    def finished(self) -> bool:
        """Whether nothing is taken any more."""
        return self._finished

    def add(self, row: BatchRow, results: _Results | None) -> BatchRow | None:
        """Store a picture's row and files; None when the batch was finished meanwhile.

        Raises:
            WriteError: when the disk is full.
        """
        with self._lock:
            if self._finished:
                return None
            try:
                if results is not None:
                    row = self._keep(row, results)
                self._rows.append(row)
                self._complete_films(over=row.number == len(self.items))
            except OSError as error:
                raise WriteError(
                    f"Can't keep the results of {row.name!r:.80}: {error.strerror or error}. "
                    "Free some space and run the batch again."
                ) from error
            self.seconds = time.monotonic() - self._start
            return row

    def finish(self) -> tuple[Path, Path] | None:
        """Write the CSV and complete the ZIP; return both paths, or None if there are no rows.

        Raises:
            WriteError: when they cannot be written.
        """
        with self._lock:
            table, archive = self.folder / CSV_NAME, self.folder / ZIP_NAME
            if not self._finished:
                self._finished = True
                self._complete_films(over=True)
                content = write_csv(self._rows)
                with self._open:
                    self._archive.writestr(CSV_NAME, content)
                write_bytes(table, content)
            complete = table.is_file() and archive.is_file()
            return (table, archive) if self._rows and complete else None

    def discard(self) -> None:
        """Stop, and remove everything from the disk."""
        with self._lock:
            try:
                if not self._finished:
                    self._finished = True
                    self._open.close()  # completes the ZIP, for which a full disk has no room
            except (OSError, WriteError) as error:
                logger.warning("A batch's ZIP could not be closed: %s", error)
            finally:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, row: BatchRow, results: _Results) -> BatchRow:
        folder = f"{row.number:03d}_{safe_stem(row.name)}"
        if row.seconds is not None:
            folder += f"_{row.seconds:.1f}_s"
        for name, content in results.members.items():
            self._archive.writestr(f"{folder}/{name}", content)
        if not self._thumbnails and row.seconds is None:
            return row
        photo, heat = (
            write_bytes(self.folder / f"{row.number:03d}_{view}.jpg", results.thumbnails[view])
            for view in VIEWS
        )
        return dataclasses.replace(row, thumbnail=photo, heat=heat)

    def _frames_by_video(self) -> dict[int, list[BatchRow]]:
        """List the computed frames of each video."""
        videos: dict[int, list[BatchRow]] = {}
        for row in self._rows:
            if row.thumbnail is not None and row.seconds is not None:
                videos.setdefault(self._videos[row.number - 1], []).append(row)
        return videos

    def _film(self, video: int, rows: Sequence[BatchRow]) -> Film:
        rate = rate_of([row.seconds or 0.0 for row in rows])
        unmade = Film(rows[0].name, tuple(row.number for row in rows), rate, {})
        return self._films.get(video, unmade)

    def _complete_films(self, *, over: bool) -> None:
        """Make films of the videos whose frames are all there, or of all when it is over."""
        latest = self._videos[len(self._rows) - 1] if self._rows else None
        for video, rows in self._frames_by_video().items():
            if video in self._films or (video == latest and not over):
                continue
            film, files = self._film(video, rows), {}
            stem = f"{rows[0].number:03d}_{safe_stem(film.name)}"
            for view in VIEWS:
                target = self.folder / f"{stem}_{view}{SUFFIX}"
                frames = [path for row in rows if (path := self._drawn(row, view))]
                if write_film(frames, film.rate, target):
                    self._archive.write(target, target.name)
                    files[view] = target
            self._films[video] = dataclasses.replace(film, files=files)
            if not self._thumbnails:
                self._remove(rows, files)

    def _drawn(self, row: BatchRow, view: str) -> Path | None:
        return row.thumbnail if view == "photo" else row.heat

    def _remove(self, rows: Sequence[BatchRow], files: Mapping[str, Path]) -> None:
        """Take what was only needed for the ZIP off the disk."""
        for path in (*files.values(), *(self._drawn(row, view) for row in rows for view in VIEWS)):
            if path is not None:
                path.unlink(missing_ok=True)


def summarised(
    models: Models,
    row: BatchRow,
    sources: Sequence[str],
    picture: RGB,
    score: str,
    reading: Reading,
) -> tuple[BatchRow, _Results]:
    """Run models on a picture; fill its row with the numbers, and make its files."""
    answers = models.answers(sources, picture, score)
    analyses = reading.analyses(answers, score)
    members: dict[str, bytes] = {}
    summary: dict[str, Any] = {"name": row.name, "seconds": row.seconds}
    for side, answer, analysis in zip(SIDES, answers, analyses, strict=True):
        members.update({f"{side}_{name}": encode(analysis, name) for name in _FILES})
        summary[side] = {**analysis.summary(), "model": answer.source}
    members["summary.json"] = json_bytes(summary)
    numbers = tuple(map(numbers_of, answers, analyses))
    return dataclasses.replace(row, models=numbers), _Results(_thumbnails(analyses), members)


def _thumbnails(analyses: Sequence[Analysis]) -> dict[str, bytes]:
    """Join both models' pictures, for each view, as a JPEG."""
    drawn = [_drawn_small(analysis) for analysis in analyses]
    return {view: _side_by_side([pictures[view] for pictures in drawn]) for view in VIEWS}


def _side_by_side(pictures: Sequence[RGB]) -> bytes:
    left, right = pictures
    gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.hstack([left, gap, right])).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _drawn_small(analysis: Analysis) -> dict[str, RGB]:
    """Draw the regions on a small picture; outlined after shrinking, or the line would fade."""
    height, width = analysis.mask.shape
    most = (THUMBNAIL_WIDTH - _GAP) // 2
    scale = min(1.0, most / width, 2 * most / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))

    def small(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))

    photo = small(analysis.prediction.image)
    heat = drawing.heat_map(small(analysis.values), *analysis.range)
    # A quarter of a pixel is enough: small regions matter most.
    inside = small(analysis.outlined.astype(np.float32)) >= 0.25
    return {
        "photo": drawing.outline(photo, inside, thickness=2),
        "heat": drawing.glow(photo, heat, inside),
    }
