"""One queue for all that computes: first come first served, of a bounded length, one job at a time.

Who waits is told their place and about how long it takes; who would be one too many is refused at
once, with the seconds after which to try again.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from mask2kan.errors import Mask2KANError

from ..strings import QUEUE

Report = Callable[[float, str], None]

MOST_WAITING = 32
_FIRST_GUESS = 2.0  # seconds a job takes, before any has ended
_WEIGHT = 0.2  # of the latest job in the average
_TELL_SECONDS = 1.0


class BusyError(Mask2KANError):
    """Too many wait already, or the app is about to stop.

    Attributes:
        retry_after: whole seconds after which it is worth trying again.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Turns:
    """The queue.

    Attributes:
        observe: told the seconds of each job that is done.

    Args:
        most_waiting: jobs that may wait beside the one that runs.

    Attributes:
        observe: told how many seconds each job has taken.
    """

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._queue: collections.deque[object] = collections.deque()  # its first one runs
        self._average = _FIRST_GUESS
        self._closed = False
        self.observe: Callable[[float], None] = lambda seconds: None

    @property
    def length(self) -> int:
        """How many jobs run or wait."""
        with self._changed:
            return len(self._queue)

    @property
    def expected_wait(self) -> float:
        """Seconds until who joins now has their turn, judged by the jobs before."""
        with self._changed:
            return len(self._queue) * self._average

    def close(self) -> None:
        """Take no further jobs; those that run or wait go on."""
        with self._changed:
            self._closed = True

    @contextlib.contextmanager
    def take(self, report: Report | None = None, *, goes_on: bool = False) -> Iterator[None]:
        """Wait for a turn, and have it.

        Args:
            report: told the place while waiting; what it raises passes through and ends the wait.
            goes_on: it is part of what has begun, and so is not refused.

        Raises:
            BusyError: when too many wait, or the app is about to stop.
        """
        ticket = self._join(goes_on)
        try:
            self._wait(ticket, report)
            start = time.monotonic()
            yield
            seconds = time.monotonic() - start
            self.observe(seconds)
            with self._changed:
                self._average += _WEIGHT * (seconds - self._average)
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _join(self, goes_on: bool) -> object:
        ticket = object()
        with self._changed:
            if self._closed and not goes_on:
                raise BusyError(QUEUE["restarting"], 30)
            if len(self._queue) > self._most_waiting and not goes_on:
                seconds = max(1, round(len(self._queue) * self._average / 2))
                raise BusyError(QUEUE["busy"].format(seconds=seconds), seconds)
            self._queue.append(ticket)
        return ticket

    def _wait(self, ticket: object, report: Report | None) -> None:
        while True:
            with self._changed:
                if self._queue[0] is ticket:
                    return
                place = self._queue.index(ticket)
                seconds = max(1, round(place * self._average))
                self._changed.wait(_TELL_SECONDS)
                if self._queue[0] is ticket:
                    return
            if report is not None:
                report(0.0, QUEUE["place"].format(place=place, seconds=seconds))
