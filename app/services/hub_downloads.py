"""Download from the Hub for any number of waiting visitors: each repository is fetched once.

A download has its own thread, so that visitors can leave at any moment; without any it stops.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable

from mask2kan.checkpoints.hub import fetch
from mask2kan.checkpoints.manifest import Address
from mask2kan.errors import CheckpointError, Mask2KANError

from ..strings import MODELS
from .catalog import size_in_words

logger = logging.getLogger(__name__)

Report = Callable[[float, str], None]

_POLL_SECONDS = 0.2
_RATE_SECONDS = 5.0


class Fetches:
    """The downloads under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Address, _Fetch] = {}

    def fetch(self, address: Address, report: Report | None = None) -> None:
        """Wait until a checkpoint is here; begin to fetch it unless somebody else has.

        ``report`` gets the share that is here and a sentence, a few times a second; what it raises
        passes through, and takes this visitor out of the queue.

        Raises:
            CheckpointError: as ``mask2kan.checkpoints.hub.fetch``.
        """
        with self._lock:
            running = self._running.get(address)
            if running is None or running.abandoned or running.finished.is_set():
                running = self._running[address] = _Fetch(address)
                running.start()
            running.waiting += 1
        try:
            running.wait(report)
        finally:
            with self._lock:
                running.waiting -= 1
                running.abandoned = running.waiting == 0
                if running.abandoned and self._running.get(address) is running:
                    del self._running[address]


class _AbandonedError(Exception):
    """Nobody waits for the download any more."""


class _Fetch(threading.Thread):
    """One download.

    Attributes:
        waiting: visitors; like ``abandoned`` guarded by the owner's lock.
        abandoned: nobody waits, so it ends.
        finished: set when it has ended, well or not.
    """

    def __init__(self, address: Address) -> None:
        super().__init__(name=f"fetch {address.repo}", daemon=True)
        self.waiting = 0
        self.abandoned = False
        self.finished = threading.Event()
        self._address = address
        self._error: Exception | None = None
        self._state = (0, 0)
        self._samples: collections.deque[tuple[float, int]] = collections.deque(maxlen=512)

    def run(self) -> None:
        try:
            fetch(*self._address, progress=self._progress)
            logger.info("Fetched %s", self._address.repo)
        except _AbandonedError:
            logger.info("Stopped fetching %s", self._address.repo)
        except Exception as error:
            if not isinstance(error, Mask2KANError):
                logger.exception("Fetching %s failed", self._address.repo)
            self._error = error
        finally:
            self.finished.set()

    def wait(self, report: Report | None) -> None:
        """Wait until it has ended; report meanwhile, also when nothing has changed."""
        while not self.finished.wait(_POLL_SECONDS):
            if report is not None:
                report(*self._status())
        if isinstance(self._error, Mask2KANError):
            raise CheckpointError(str(self._error)) from self._error
        if self._error is not None:
            raise RuntimeError(f"fetching {self._address.repo} failed") from self._error

    def _progress(self, done: int, total: int) -> None:
        if self.abandoned:
            raise _AbandonedError
        self._state = (done, total)
        now = time.monotonic()
        # A few samples a second are enough to know the speed of the last seconds.
        if not self._samples or now - self._samples[-1][0] > _RATE_SECONDS / 100:
            self._samples.append((now, done))

    def _status(self) -> tuple[float, str]:
        (done, total), name = self._state, self._address.repo.split("/")[-1]
        if not total:
            return 0.0, MODELS["asking"].format(name=name)
        values = {"name": name, "done": size_in_words(done), "total": size_in_words(total)}
        rate = self._rate()
        if rate <= 0:
            return done / total, MODELS["downloading"].format(**values)
        values |= {"rate": size_in_words(rate), "left": time_in_words((total - done) / rate)}
        return done / total, MODELS["downloading_at"].format(**values)

    def _rate(self) -> float:
        """Bytes per second, of late; 0 while it is not known."""
        now, done = time.monotonic(), self._state[0]
        recent = [sample for sample in list(self._samples) if now - sample[0] <= _RATE_SECONDS]
        if not recent or now - recent[0][0] < 0.5:
            return 0.0
        return (done - recent[0][1]) / (now - recent[0][0])


def time_in_words(seconds: float) -> str:
    """Round seconds as in speech."""
    if seconds < 60:
        return MODELS["seconds"].format(n=max(1, round(seconds)))
    if seconds < 90 * 60:
        return MODELS["minutes"].format(n=round(seconds / 60))
    return MODELS["hours"].format(n=round(seconds / 3600))
