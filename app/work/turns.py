"""One queue for all that computes: of a bounded length, one job at a time, fair to every client.

Whoever asks for much waits behind those who ask for little; one client's jobs are done in their
order. Who waits is told their place and about how long it takes; who would be one too many is
refused at once, with the seconds after which to try again.
"""

from __future__ import annotations

import bisect
import contextlib
import contextvars
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from mask2kan.errors import Mask2KANError

from ..strings import QUEUE

Report = Callable[[float, str], None]

MOST_WAITING = 32
MOST_OF_ONE = 8  # that wait for one client of another machine
_FIRST_GUESS = 2.0  # seconds a job takes, before any has ended
_WEIGHT = 0.2  # of the latest job in the average
_TELL_SECONDS = 1.0
_BATCH_SECONDS = 60


@dataclasses.dataclass
class Asker:
    """Who asks for a job.

    Attributes:
        client: their name; empty for this machine's own programs.
        cancelled: whether they said that they wait no more.
        waits: says whether somebody is still there to be answered.
    """

    client: str = ""
    cancelled: bool = False
    waits: Callable[[], bool] = lambda: True

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.cancelled or not self.waits()


_asker: contextvars.ContextVar[Asker | None] = contextvars.ContextVar("asker", default=None)


def asking() -> Asker:
    """Who the code that calls this works for; this machine where nobody has said."""
    return _asker.get() or Asker()


def work_for(who: Asker) -> None:
    """Say who the rest of this task, and the threads it starts, work for."""
    _asker.set(who)


def require_asked() -> None:
    """Stop where nobody waits for the answer any more.

    Raises:
        LeftError: then.
    """
    if asking().gone:
        raise LeftError(QUEUE["left"])


class Rounds:
    """A fair order: every client has one job in each round."""

    def __init__(self) -> None:
        self._now = 0

    def join(self, waiting: Iterable[int]) -> int:
        """Return the round of a client's next job; ``waiting`` are those of its others."""
        return max(self._now, *waiting, 0) + 1

    def begin(self, chosen: int) -> None:
        """Note that a job of that round begins."""
        self._now = max(self._now, chosen)


class BusyError(Mask2KANError):
    """Too many wait already, or the app is about to stop.

    Attributes:
        retry_after: whole seconds after which it is worth trying again.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OneEach:
    """Batches under way: one for each client of another machine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[object, tuple[Asker, Callable[[], bool]]] = {}

    @contextlib.contextmanager
    def hold(self, batch: object, is_over: Callable[[], bool]) -> Iterator[None]:
        """Have a batch under way.

        Args:
            batch: what is held.
            is_over: whether it counts no more, though its last picture may still be computed.

        Raises:
            BusyError: while the client has another one.
        """
        client = asking().client
        with self._lock:
            others = [who for who, over in self._held.values() if not (who.gone or over())]
            if client and any(who.client == client for who in others):
                raise BusyError(QUEUE["batch"], _BATCH_SECONDS)
            self._held[batch] = asking(), is_over
        try:
            yield
        finally:
            self._held.pop(batch, None)

    def renew(self, batch: object) -> None:
        """Note who waits for a batch now."""
        self._held[batch] = asking(), self._held[batch][1]


class LeftError(Mask2KANError):
    """Nobody waits for a job any more, so it is not begun."""


@dataclasses.dataclass(frozen=True, order=True)
class _Ticket:
    round: int
    number: int  # in the order of joining
    asker: Asker = dataclasses.field(compare=False)


class Turns:
    """The queue.

    Args:
        most_waiting: jobs that may wait beside the one that runs.
        most_of_one: of these, for one client of another machine.

    Attributes:
        observe: told how many seconds each job has taken.
    """

    def __init__(self, most_waiting: int = MOST_WAITING, most_of_one: int = MOST_OF_ONE) -> None:
        self._most_waiting, self._most_of_one = most_waiting, most_of_one
        self._changed = threading.Condition()
        self._rounds, self._numbers = Rounds(), itertools.count()
        self._running: _Ticket | None = None
        self._waiting: list[_Ticket] = []  # in the order of their turns
        self._average = _FIRST_GUESS
        self._closed = False
        self.observe: Callable[[float], None] = lambda seconds: None

    @property
    def length(self) -> int:
        """How many jobs run or wait."""
        with self._changed:
            return self._length

    @property
    def expected_wait(self) -> float:
        """Seconds until who joins now has their turn, judged by the jobs before."""
        with self._changed:
            return self._length * self._average

    def close(self) -> None:
        """Take no further jobs; those that run or wait go on."""
        with self._changed:
            self._closed = True

    @contextlib.contextmanager
    def take(self, report: Report | None = None, *, goes_on: bool = False) -> Iterator[None]:
        """Wait for a turn, and have it; ``asking`` says who for.

        Args:
            report: told the place while waiting; what it raises passes through and ends the wait.
            goes_on: it is part of what has begun, and so is not refused.

        Raises:
            BusyError: when too many wait, or the app is about to stop.
            LeftError: when nobody waits for the answer any more.
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
                if self._running is ticket:
                    self._running = None
                else:
                    self._waiting.remove(ticket)
                self._changed.notify_all()

    @property
    def _length(self) -> int:
        return len(self._waiting) + (self._running is not None)

    def _join(self, goes_on: bool) -> _Ticket:
        who = asking()
        with self._changed:
            if self._closed and not goes_on:
                raise BusyError(QUEUE["restarting"], 30)
            own = [ticket for ticket in self._waiting if ticket.asker.client == who.client]
            too_many = who.client and len(own) >= self._most_of_one
            if (self._length > self._most_waiting or too_many) and not goes_on:
                seconds = max(1, round(self._length * self._average / 2))
                words = QUEUE["too_many" if too_many else "busy"]
                raise BusyError(words.format(count=len(own), seconds=seconds), seconds)
            chosen = self._rounds.join(ticket.round for ticket in own)
            ticket = _Ticket(chosen, next(self._numbers), who)
            bisect.insort(self._waiting, ticket)
        return ticket

    def _wait(self, ticket: _Ticket, report: Report | None) -> None:
        while True:
            with self._changed:
                require_asked()
                if self._running is None and self._waiting[0] is ticket:
                    self._running = self._waiting.pop(0)
                    self._rounds.begin(ticket.round)
                    return
                place = self._waiting.index(ticket) + (self._running is not None)
                seconds = max(1, round(place * self._average))
                self._changed.wait(_TELL_SECONDS)
                if self._running is None and self._waiting[0] is ticket:
                    continue
            if report is not None:
                report(0.0, QUEUE["place"].format(place=place, seconds=seconds))
