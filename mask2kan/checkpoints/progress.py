"""How far a download is: one count over all files, reported often enough to be stopped."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from huggingface_hub import constants

Progress = Callable[[int, int], None]

_STEP = 256 * 1024  # bytes between two reports


class Meter:
    """Adds up what several files bring, and stands in for the client's progress bars."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._total = 0
        self._whole = 0
        self._begun = 0

    def expect(self, total: int, here: int) -> None:
        """Begin to report: ``here`` of ``total`` bytes have come already."""
        self._total, self._whole = total, here
        self.update(0)

    def finish(self, size: int) -> None:
        """A file is whole, whether it came through here or was there before."""
        self._whole += size
        self._begun = 0
        self.update(0)

    def restart(self) -> None:
        """The file that came is of no use."""
        self._begun = 0

    def update(self, step: int | None = 1) -> None:
        """More of a file came; less where a server made the client begin again."""
        self._begun += step or 0
        if self._progress is not None and self._total:
            self._progress(min(self._whole + self._begun, self._total), self._total)

    def bar(self, **_: Any) -> Meter:
        """What the client makes for each file, as it would make a ``tqdm``."""
        return self

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _SteadyClient:
    """How many downloads need the client's small steps, and what it did before."""

    lock = threading.Lock()
    users = 0
    before: tuple[int, bool] = (0, False)


@contextlib.contextmanager
def small_steps() -> Iterator[None]:
    """Have the client report often, and stop when told to.

    By itself it reports every 10 MB, which is a minute on a slow line. Its Xet transport runs
    threads of its own that an exception does not stop; plain HTTP, its documented alternative, ends
    with the call. Both are settings of the whole process, so they are put back after the last use.
    """
    settings: Any = constants
    with _SteadyClient.lock:
        if not _SteadyClient.users:
            _SteadyClient.before = settings.DOWNLOAD_CHUNK_SIZE, settings.HF_HUB_DISABLE_XET
            settings.DOWNLOAD_CHUNK_SIZE, settings.HF_HUB_DISABLE_XET = _STEP, True
        _SteadyClient.users += 1
    try:
        yield
    finally:
        with _SteadyClient.lock:
            _SteadyClient.users -= 1
            if not _SteadyClient.users:
                settings.DOWNLOAD_CHUNK_SIZE, settings.HF_HUB_DISABLE_XET = _SteadyClient.before
