"""Download from the Hub for any number of waiting visitors: each repository is fetched once.

A download has its own thread, so that visitors can leave at any moment; without any it stops. What
they have fetched may take so many bytes of the disk; beyond it, what was used longest ago goes.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from mask2kan.checkpoints.hub import cache_state, fetch, remove_cached
from mask2kan.checkpoints.manifest import Address
from mask2kan.errors import CheckpointError, Mask2KANError

from ..strings import MODELS
from ..work.turns import BusyError, asking, require_asked
from .catalog import size_in_words

logger = logging.getLogger(__name__)

Report = Callable[[float, str], None]

_AT_ONCE, _AT_ONCE_BOUNDED = 16, 2  # downloads
_MOST_WAITING = 12  # visitors where downloads are bounded: each holds a thread
_MOST_WAITING_OF_ONE = 3  # visitors of one address
_BUSY_SECONDS = 60
_POLL_SECONDS = 0.2
_RATE_SECONDS = 5.0


class Fetches:
    """The downloads under way, and those that were.

    Args:
        most_bytes: of what was fetched here, before another download begins; None for any number.
            Nothing else of the cache counts, or is removed.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self._lock = threading.Lock()
        self._running: dict[Address, _Fetch] = {}
        self._most_bytes = most_bytes
        self._fetched: OrderedDict[str, Address] = OrderedDict()  # by repository, latest use last
        self._waiting: list[str] = []  # clients, for strangers' repositories

    def use(self, address: Address) -> None:
        """Note that a model is used, if it was fetched here."""
        with self._lock:
            if address.repo in self._fetched:
                self._fetched.move_to_end(address.repo)

    def fetch(
        self, address: Address, report: Report | None = None, *, is_ours: bool = False
    ) -> None:
        """Wait until a checkpoint is here; begin to fetch it unless somebody else has.

        ``report`` gets the share that is here and a sentence, a few times a second; what it raises
        passes through, and takes this visitor out of the queue. One that ``is_ours``, which the app
        names itself, waits for no stranger's.

        Raises:
            CheckpointError: as ``mask2kan.checkpoints.hub.fetch``.
            BusyError: when too many others are being fetched, or too many visitors wait.
        """
        with self._lock:
            running = self._running.get(address)
            client = asking().client
            if not is_ours:
                self._require_turn(client, begins=running is None)
                self._waiting.append(client)
            if running is None:
                self._make_room()
            if running is None or running.abandoned or running.finished.is_set():
                running = self._running[address] = _Fetch(address, is_ours)
                running.start()
            running.waiting += 1
        try:
            running.wait(report)
            with self._lock:
                self._fetched[address.repo] = address
        finally:
            with self._lock:
                if not is_ours:
                    self._waiting.remove(client)
                running.waiting -= 1
                running.abandoned = running.waiting == 0
                if running.abandoned and self._running.get(address) is running:
                    del self._running[address]

    def _require_turn(self, client: str, *, begins: bool) -> None:
        waiting, own = len(self._waiting), self._waiting.count(client) if client else 0
        crowded = waiting >= _MOST_WAITING or own >= _MOST_WAITING_OF_ONE
        if self._most_bytes is not None and crowded:
            words = MODELS["crowded"].format(count=waiting, seconds=_BUSY_SECONDS)
            raise BusyError(words, _BUSY_SECONDS)
        most = _AT_ONCE if self._most_bytes is None else _AT_ONCE_BOUNDED
        running = [one for one in self._running.values() if not one.is_ours]
        under_way = sum(not one.finished.is_set() for one in running)
        if begins and under_way >= most:
            raise BusyError(
                MODELS["busy"].format(count=under_way, seconds=_BUSY_SECONDS), _BUSY_SECONDS
            )

    def _make_room(self) -> None:
        """Remove what was used longest ago while there is too much; the lock is held."""
        sizes = {repo: cache_state(address).bytes for repo, address in self._fetched.items()}
        total = sum(sizes.values())
        for repo in list(self._fetched):
            if self._most_bytes is None or total <= self._most_bytes:
                return
            logger.info("%s leaves the disk", repo)
            remove_cached(repo)
            del self._fetched[repo]
            total -= sizes[repo]


class _AbandonedError(Exception):
    """Nobody waits for the download any more."""


class _Fetch(threading.Thread):
    """One download.

    Attributes:
        is_ours: as in ``Fetches.fetch``.
        waiting: visitors; like ``abandoned`` guarded by the owner's lock.
        abandoned: nobody waits, so it ends.
        finished: set when it has ended, well or not.
    """

    def __init__(self, address: Address, is_ours: bool) -> None:
        super().__init__(name=f"fetch {address.repo}", daemon=True)
        self.is_ours = is_ours
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
            require_asked()
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
