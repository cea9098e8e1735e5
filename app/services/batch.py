"""Many pictures, or the frames of a video: both models on each, and what becomes of the results.

Pictures are read, computed, drawn and written one after the other, and nothing of one is kept in
memory for the next but a row of numbers: thumbnails lie on disk and results go into a ZIP file as
they come. Each picture asks the service anew, so that other visitors have their turn in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mask2kan.errors import ImageError, NumericsError, OutOfMemoryError, WriteError
from mask2kan.inference.scores import check_score
from mask2kan.media.files import atomic_writer, json_bytes, write_bytes
from mask2kan.media.images import RGB, read_image
from mask2kan.media.videos import count_frames, is_video, read_frames
from mask2kan.outputs import drawing
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import class_overlay, encode

from ..files.uploads import name_of, stored
from ..strings import BATCH
from .batch_rows import ORDERS, BatchRow, numbers_of, write_csv
from .models import SIDES, Answer, ModelService

MAX_PICTURES = 200
FRAMES_PER_VIDEO = 60
THUMBNAIL_WIDTH = 480
CSV_NAME = "mask2kan_batch.csv"
ZIP_NAME = "mask2kan_batch.zip"

_GAP = 4  # pixels between the halves of a thumbnail
_FILES = ("overlay.png", "score16.png")  # of each model, in the ZIP
# What is wrong with one picture alone; the batch goes on with the next.
_PICTURES_FAULT = (ImageError, OutOfMemoryError, NumericsError)

Report = Callable[[float, str], None]
Turn = Callable[[], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class BatchItem:
    """A picture to look at.

    Attributes:
        name: what its file is called.
        path: where the file lies.
        frame: which of a video's evenly spaced frames, from 0; None for a picture.
        fault: why it will not be read; empty where nothing is known against it.
    """

    name: str
    path: Path
    frame: int | None = None
    fault: str = ""


def items_of(files: Any, turn: Turn = contextlib.nullcontext) -> list[BatchItem]:
    """What a file component's raw value asks for; videos become their frames.

    Args:
        files: Gradio's descriptions of uploaded files: a list, one alone, or None.
        turn: within it a video's frames are counted, which may take seconds.

    Raises:
        PictureError: when there is nothing, too much, or something that is no upload.
    """
    given = [files] if isinstance(files, Mapping) else files
    if not given:
        raise ImageError(BATCH["nothing_given"])
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise ImageError(BATCH["not_files"])
    items: list[BatchItem] = []
    if len(given) <= MAX_PICTURES:
        counts: dict[Path, int | str] = {}
        for file in given:
            items += _items_of_file(file, counts, turn)
            if len(items) > MAX_PICTURES:
                break
    count = max(len(items), len(given))
    if count > MAX_PICTURES:
        raise ImageError(
            BATCH["too_many"].format(given=count, most=MAX_PICTURES, frames=FRAMES_PER_VIDEO)
        )
    return items


def read_item(item: BatchItem) -> RGB:
    """The picture of an item by itself.

    Raises:
        PictureError: as ``read_picture`` and ``read_frames``.
    """
    with contextlib.closing(_Reader()) as reader:
        return reader.read(item)[1]


def run_batch(
    service: ModelService,
    items: Sequence[BatchItem],
    left: str,
    right: str,
    score: str,
    batch: Batch,
    *,
    report: Report | None = None,
) -> Iterator[BatchRow]:
    """Both models on each picture, one picture at a time.

    Args:
        service: who computes.
        items: from ``items_of``.
        left: a bundled model, a checkpoint's path or a Hub repository id.
        right: likewise.
        score: a name from ``mask2kan.inference.scores.SCORES``.
        batch: where the results are kept; once it is finished, no further picture is looked at.
        report: told about a download, as of ``ModelService.turn``.

    Yields:
        A row per picture, also for those that could not be read.

    Raises:
        Mask2KANError: for a score or a model that cannot be used, or a full disk.
    """
    check_score(score)
    with contextlib.closing(_Reader()) as reader:
        for number, item in enumerate(items, 1):
            if batch.finished:
                return
            row, results = BatchRow(number, item.name), None
            try:
                with service.turn((left, right), report):
                    seconds, picture = reader.read(item)
                    height, width = picture.shape[:2]
                    row = dataclasses.replace(row, seconds=seconds, size=(height, width))
                    answers = service.answers((left, right), picture, score)
                row, results = _looked_at(row, answers, score)
            except _PICTURES_FAULT as error:
                row = dataclasses.replace(row, error=str(error))
            kept = batch.add(row, results)
            if kept is None:  # finished meanwhile
                return
            yield kept


@dataclasses.dataclass(frozen=True)
class _Results:
    """Files of one picture, ready to be kept: a thumbnail, and members of the ZIP by name."""

    thumbnail: bytes
    members: dict[str, bytes]


class Batch:
    """The results of a run so far, for one visitor: rows in memory, everything else on disk.

    Attributes:
        folder: its own; ``discard`` removes it.
        order: in which the page shows the rows.
        items: what is to be looked at.
        seconds: from the beginning to the latest picture.
    """

    def __init__(
        self, folder: Path, items: Sequence[BatchItem], *, thumbnails: bool = True
    ) -> None:
        """Begin.

        Args:
            folder: made here; must not exist.
            items: what is going to be looked at.
            thumbnails: whether to keep them.
        """
        folder.mkdir(parents=True)
        self.folder = folder
        self.items = tuple(items)
        self.order = next(iter(ORDERS))
        self.seconds = 0.0
        self._start = time.monotonic()
        self._thumbnails = thumbnails
        self._rows: list[BatchRow] = []
        self._lock = threading.Lock()
        self._finished = False
        # The ZIP is whole at its place at the end, or not there. PNG is compressed already.
        self._open = contextlib.ExitStack()
        file = self._open.enter_context(atomic_writer(folder / ZIP_NAME))
        self._archive = self._open.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))

    @property
    def rows(self) -> list[BatchRow]:
        """What is done so far, as given."""
        with self._lock:
            return list(self._rows)

    @property
    def finished(self) -> bool:
        """Whether nothing is taken any more."""
        return self._finished

    def add(self, row: BatchRow, results: _Results | None) -> BatchRow | None:
        """Keep a picture's row and files; None when the batch was finished meanwhile.

        Raises:
            WriteError: when the disk is full.
        """
        with self._lock:
            if self._finished:
                return None
            try:
                if results is not None:
                    row = self._keep(row, results)
            except OSError as error:
                raise WriteError(
                    f"Can't keep the results of {row.name!r:.80}: {error.strerror or error}. "
                    "Free some space and run the batch again."
                ) from error
            self._rows.append(row)
            self.seconds = time.monotonic() - self._start
            return row

    def finish(self) -> tuple[Path, Path] | None:
        """Write the CSV and complete the ZIP with what there is.

        Returns:
            Both paths; None when there is nothing in them.

        Raises:
            WriteError: when they cannot be written.
        """
        with self._lock:
            table, archive = self.folder / CSV_NAME, self.folder / ZIP_NAME
            if not self._finished:
                self._finished = True
                content = write_csv(self._rows)
                with self._open:
                    self._archive.writestr(CSV_NAME, content)
                write_bytes(table, content)
            complete = table.is_file() and archive.is_file()
            return (table, archive) if self._rows and complete else None

    def discard(self) -> None:
        """Stop, and remove everything from the disk."""
        with self._lock:
            if not self._finished:
                self._finished = True
                self._open.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, row: BatchRow, results: _Results) -> BatchRow:
        stem = f"{row.number:03d}_{_safe_stem(row.label)}"
        for name, content in results.members.items():
            self._archive.writestr(f"{stem}/{name}", content)
        if not self._thumbnails:
            return row
        thumbnail = write_bytes(self.folder / f"{row.number:03d}.jpg", results.thumbnail)
        return dataclasses.replace(row, thumbnail=thumbnail)


class _Reader:
    """Reads items in order; a video stays open from one of its frames to the next."""

    def __init__(self) -> None:
        self._frames: Iterator[tuple[float, RGB]] = iter(())
        self._video: Path | None = None
        self._next = 0

    def read(self, item: BatchItem) -> tuple[float | None, RGB]:
        """Seconds into the video, or None, and the picture."""
        if item.fault:
            raise ImageError(item.fault)
        if item.frame is None:
            if not item.path.is_file():
                raise ImageError(BATCH["gone"])
            return None, read_image(item.path)
        if item.path != self._video or item.frame < self._next:
            self.close()
            self._frames = read_frames(item.path, max_frames=FRAMES_PER_VIDEO)
            self._video, self._next = item.path, 0
        for found in self._frames:
            self._next += 1
            if self._next == item.frame + 1:
                return found
        raise ImageError(BATCH["cut_off"].format(frames=self._next))

    def close(self) -> None:
        """Close the video that is open."""
        close = getattr(self._frames, "close", None)
        if close is not None:
            close()
        self._frames, self._video, self._next = iter(()), None, 0


def _items_of_file(file: Any, counts: dict[Path, int | str], turn: Turn) -> list[BatchItem]:
    """The picture, or the frames of the video; ``counts`` remembers how many, or why none."""
    path, name = stored(file), name_of(file)
    if not is_video(path):
        return [BatchItem(name, path)]
    if path not in counts:
        try:
            with turn():
                counts[path] = count_frames(path, max_frames=FRAMES_PER_VIDEO)
        except ImageError as error:
            counts[path] = str(error)
    count = counts[path]
    if isinstance(count, str):
        return [BatchItem(name, path, 0, count)]
    return [BatchItem(name, path, frame) for frame in range(count)]


def _looked_at(row: BatchRow, answers: Sequence[Answer], score: str) -> tuple[BatchRow, _Results]:
    """A row with its numbers, and its files."""
    analyses = [Analysis(answer.prediction, score) for answer in answers]
    members: dict[str, bytes] = {}
    summary: dict[str, Any] = {"name": row.name, "seconds": row.seconds}
    for side, answer, analysis in zip(SIDES, answers, analyses, strict=True):
        members.update({f"{side}_{name}": encode(analysis, name) for name in _FILES})
        summary[side] = {**analysis.summary(), "model": answer.source}
    members["summary.json"] = json_bytes(summary)
    numbers = tuple(map(numbers_of, answers, analyses))
    return dataclasses.replace(row, models=numbers), _Results(_thumbnail(analyses), members)


def _thumbnail(analyses: Sequence[Analysis]) -> bytes:
    """Overlays beside each other as a JPEG; outlined after shrinking, or the line would fade."""
    left, right = map(_small_overlay, analyses)
    gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.hstack([left, gap, right])).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _small_overlay(analysis: Analysis) -> RGB:
    height, width = analysis.mask.shape
    most = (THUMBNAIL_WIDTH - _GAP) // 2
    scale = min(1.0, most / width, 2 * most / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(class_overlay(analysis), size, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(analysis.outlined.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    # A quarter of a pixel is enough: small regions are what one looks for.
    return drawing.outline(np.asarray(small, np.uint8), inside >= 0.25, thickness=1)


def _safe_stem(label: str) -> str:
    """A folder's name inside the ZIP, on every system; the number before it makes it unique."""
    stem = re.sub(r"\.\w{2,5}(?= · |$)", "", label, count=1).replace(" · ", "_")
    return re.sub(r"[^\w.-]+", "_", stem).strip("._")[:60] or "picture"
