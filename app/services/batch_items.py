"""The pictures that a batch asks for: files as they were sent, and the frames of videos."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2kan.errors import ImageError
from mask2kan.media.images import RGB, read_image
from mask2kan.media.videos import count_frames, is_video, read_frames

from ..files.uploads import name_of, stored
from ..strings import BATCH

MAX_PICTURES = 200
FRAMES_PER_VIDEO = 60

Turn = Callable[[], contextlib.AbstractContextManager[None]]
Decode = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class BatchItem:
    """A picture to compute.

    Attributes:
        name: of its file.
        frame: which of a video's evenly spaced frames, from 0; None for a picture.
        fault: why it will not be read; empty where nothing is known against it.
    """

    name: str
    path: Path
    frame: int | None = None
    fault: str = ""


def _here(job: Callable[..., Any], *args: Any) -> Any:
    return job(*args)


def items_of(
    files: Any, turn: Turn = contextlib.nullcontext, decode: Decode = _here
) -> list[BatchItem]:
    """List what a file component's raw value asks for; videos become their frames.

    Args:
        files: Gradio's descriptions of uploaded files: a list, one alone, or None.
        turn: held while a video's frames are counted.
        decode: what does that: calls a function with arguments.

    Raises:
        ImageError: when there is nothing, too much, or something that is no upload.
    """
    uploads = [files] if isinstance(files, Mapping) else files
    if not uploads:
        raise ImageError(BATCH["nothing_given"])
    if not isinstance(uploads, Sequence) or isinstance(uploads, (str, bytes)):
        raise ImageError(BATCH["not_files"])
    items: list[BatchItem] = []
    if len(uploads) <= MAX_PICTURES:
        counts: dict[Path, int | str] = {}
        for file in uploads:
            items += _items_of_file(file, counts, turn, decode)
            if len(items) > MAX_PICTURES:
                break
    count = max(len(items), len(uploads))
    if count > MAX_PICTURES:
        raise ImageError(
            BATCH["too_many"].format(given=count, most=MAX_PICTURES, frames=FRAMES_PER_VIDEO)
        )
    return items


def read_item(item: BatchItem) -> RGB:
    """Read the picture of an item by itself.

    Raises:
        ImageError: as ``read_image`` and ``read_frames``.
    """
    with contextlib.closing(ItemReader()) as reader:
        return reader.read(item)[1]


class ItemReader:
    """Read items in order; a video stays open from one of its frames to the next."""

    def __init__(self) -> None:
        self._frames: Iterator[tuple[float, RGB]] = iter(())
        self._video: Path | None = None
        self._next = 0

    def read(self, item: BatchItem) -> tuple[float | None, RGB]:
        """Read the picture, and its seconds into the video or None."""
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
        for frame in self._frames:
            self._next += 1
            if self._next == item.frame + 1:
                return frame
        raise ImageError(BATCH["cut_off"].format(frames=self._next))

    def close(self) -> None:
        """Close the video that is open."""
        close = getattr(self._frames, "close", None)
        if close is not None:
            close()
        self._frames, self._video, self._next = iter(()), None, 0


def videos_of(items: Sequence[BatchItem]) -> list[int]:
    """Number the videos as they were given: for each item, the place of its video's first frame."""
    videos: list[int] = []
    for place, item in enumerate(items):
        goes_on = bool(videos and item.frame) and items[place - 1].path == item.path
        videos.append(videos[-1] if goes_on else place)
    return videos


def _items_of_file(
    file: Any, counts: dict[Path, int | str], turn: Turn, decode: Decode
) -> list[BatchItem]:
    """List the picture, or the video's frames; ``counts`` caches how many, or why none."""
    path, name = stored(file), name_of(file)
    if not is_video(path):
        return [BatchItem(name, path)]
    if path not in counts:
        try:
            with turn():
                counts[path] = decode(_frames_in, path)
        except ImageError as error:
            counts[path] = str(error)
    count = counts[path]
    if isinstance(count, str):
        return [BatchItem(name, path, 0, count)]
    return [BatchItem(name, path, frame) for frame in range(count)]


def _frames_in(path: Path) -> int:
    return count_frames(path, max_frames=FRAMES_PER_VIDEO)
