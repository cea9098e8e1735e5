"""Connections that do not wait for ever: a request's head and body have to arrive in time.

uvicorn itself lets a client take as long as it likes, and each one holds a descriptor. Once a
request has arrived, nothing here ends it: streams of events live as long as they are read.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

AT_ONCE = 128  # connections accepted before any of them is looked at
BACKLOG = 2_048  # that the system keeps until then
_MOMENT = 1.0  # seconds
_HANDLES = 3 * AT_ONCE  # descriptors left to files and libraries, and to who comes and who goes


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a client may take.

    Attributes:
        head: seconds from the connection, or the request's first byte, to the end of its headers.
        pause: seconds in which the body, or the reading of an answer, has to get on.
        progress: bytes of a body by which it has to, unless we do not read ourselves.
    """

    head: float = 15.0
    pause: float = 15.0
    progress: int = 16_384


class Connection(H11Protocol):
    """One client's connection."""

    patience = Patience()
    most = 4_096  # connections; beyond them who sends slowly, or holds most, makes room

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._timer_set_at = 0.0  # seconds of the loop's clock, as all times here
        self._came = 0  # bytes since then
        self._arriving = False
        self.since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: the headers have to come now."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._await_head()
        if len(self.connections) > self.most:
            _make_room(cast("set[Connection]", self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request; restart the clock where it is another part of it that is due."""
        self._came += len(data)
        answered = self.cycle is None or self.cycle.response_complete
        if self._timer is None and answered:  # the first bytes of the next request
            self._await_head()
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle what has arrived."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._arriving = True
            self._set_timer(self.patience.pause)
        if self._arriving and not self.cycle.more_body:
            self._arriving = False
            self._stop_timer()

    def on_response_complete(self) -> None:
        """End an answer; what is left of its request is not waited for."""
        self._arriving = False
        self._stop_timer()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Notice that the client does not read its answer."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.patience.pause, self.give_up)

    def resume_writing(self) -> None:
        """Notice that it does."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    @property
    def host(self) -> str:
        """Address of who is connected."""
        return self.client[0] if self.client else ""

    @property
    def is_arriving(self) -> bool:
        """Whether the connection has a clock that runs: it holds up nothing but itself."""
        return self._timer is not None

    @property
    def late_at(self) -> float:
        """When it has to have got on, in seconds of the loop's clock."""
        return self._timer.when() if self._timer else math.inf

    @property
    def has_taken(self) -> float:
        """Seconds since its clock began to run."""
        return self.loop.time() - self._timer_set_at

    def give_up(self) -> None:
        """End it, whatever it was about."""
        self._stop_timer()  # it ends a moment later, and makes room only once
        self.transport.abort()

    def _await_head(self) -> None:
        self._set_timer(self.patience.head)

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._came = 0
        self._timer_set_at = self.loop.time()
        self._timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Give up a request that is late; a body that gets on has another while."""
        gets_on = self._came >= self.patience.progress or self.flow.read_paused
        if self._arriving and gets_on:
            self._set_timer(self.patience.pause)
            return
        self.give_up()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _make_room(connections: Iterable[Connection]) -> None:
    """Close one: a request that is slow to arrive, else the oldest of whoever holds most.

    A request of this moment is not slow, unless it is one of a flood of them.
    """
    ours = [one for one in connections if not one.transport.is_closing()]
    arriving = [one for one in ours if one.is_arriving]
    settled = [one for one in ours if not one.is_arriving]
    longest = min(arriving, key=lambda one: one.late_at, default=None)
    if longest and (longest.has_taken > _MOMENT or len(arriving) > len(settled)):
        longest.give_up()
    elif settled:
        [(holder, _)] = collections.Counter(one.host for one in settled).most_common(1)
        min((one for one in settled if one.host == holder), key=lambda one: one.since).give_up()


def raise_descriptor_limit() -> int:
    """Let the process have as many descriptors as it may; return the connections that fit in.

    Windows has no such limit.
    """
    try:
        import resource
    except ImportError:
        return Connection.most
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # macOS says infinite, and means less
            pass
    return max(64, min(Connection.most, soft - _HANDLES))
