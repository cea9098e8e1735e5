"""Bound what one client may ask for, upload, and fill of the queue."""

from __future__ import annotations

import collections
import ipaddress
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import cachetools
from starlette.types import ASGIApp, Receive, Scope, Send

from ..strings import HTTP
from ..work.turns import Asker, work_for
from .answers import Layer, RefusedError
from .lifecycle import Lifecycle

_MOST_CLIENTS = 10_000  # remembered; whoever asked longest ago is forgotten, and had a full bucket
_READS = ("GET", "HEAD", "OPTIONS")
_WORK = tuple(
    f"/gradio_api/{route}" for route in ("queue/join", "call/", "component_server", "mcp")
)


class Rate(NamedTuple):
    """How much a client may have: requests, or bytes.

    Attributes:
        burst: at once.
        per_second: what comes to that in a second.
    """

    burst: int
    per_second: float


class Buckets:
    """A bucket of tokens for each client; a new one is full."""

    def __init__(self) -> None:
        self._buckets: cachetools.LRUCache[str, tuple[float, float]] = cachetools.LRUCache(
            _MOST_CLIENTS
        )

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, rate: Rate, count: int = 1) -> float:
        """Take tokens; return the seconds until there are so many, 0 where there were."""
        wait = self.wait(name, rate, count)
        if wait == 0:
            tokens, filled_at = self._buckets[name]
            self._buckets[name] = (tokens - count, filled_at)
        return wait

    def wait(self, name: str, rate: Rate, count: int = 1) -> float:
        """Return the seconds until there are so many tokens, and take none."""
        now = time.monotonic()
        tokens, filled_at = self._buckets.get(name, (float(rate.burst), now))
        tokens = min(rate.burst, tokens + (now - filled_at) * rate.per_second)
        self._buckets[name] = (tokens, now)
        return max(0.0, count - tokens) / rate.per_second


class RateLimit(Layer):
    """Let each client make so many requests that are not just reads.

    Args:
        app: what answers.
        rate: of others' machines.
        own_rate: of this machine's own programs; who comes through a proxy here is not of these.
    """

    def __init__(self, app: ASGIApp, rate: Rate, own_rate: Rate) -> None:
        super().__init__(app)
        self._rate, self._own_rate = rate, own_rate
        self._buckets = Buckets()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        if scope["method"] not in _READS:
            name, is_own = _client(scope)
            wait = self._buckets.take(name, self._own_rate if is_own else self._rate)
            if wait > 0:
                seconds = math.ceil(wait)
                raise RefusedError(429, HTTP["too_often"].format(seconds=seconds), "rate", seconds)
        await self.app(scope, receive, send)


class Allowance:
    """How many bytes each client may upload; this machine's own programs may all.

    Args:
        rate: of others' machines; None for no bound.
    """

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._buckets = Buckets()

    def spender(self, scope: Scope, least: int) -> Callable[[int], None]:
        """Return what to call with each number of bytes that a request is about to leave here.

        Args:
            scope: of the request.
            least: what it will leave for certain; it is not begun without that.

        Raises:
            RefusedError: when the client has not so much left; so does what is returned.
        """
        rate, (name, is_own) = self._rate, _client(scope)
        if rate is None or is_own:
            return lambda _: None
        spent = 0

        def refuse_for(wait: float) -> None:
            # Whoever comes again brings all of it again.
            seconds = math.ceil(wait + spent / rate.per_second)
            words = HTTP["uploads"].format(seconds=seconds)
            raise RefusedError(429, words, "allowance", seconds)

        def spend(size: int) -> None:
            nonlocal spent
            wait = self._buckets.take(name, rate, size)
            if wait > 0:
                refuse_for(wait)
            spent += size

        wait = self._buckets.wait(name, rate, least)
        if wait > 0:
            refuse_for(wait)
        return spend


class Share(Layer):
    """Leave a place to others: a client may have so many jobs that wait, or are asked for.

    Args:
        app: what answers.
        most: jobs of a client; this machine's own programs may fill the queue.
        lifecycle: knows which jobs wait.
    """

    def __init__(self, app: ASGIApp, most: int, lifecycle: Lifecycle) -> None:
        super().__init__(app)
        self._most, self._lifecycle = most, lifecycle
        self._asking: collections.Counter[str] = collections.Counter()  # or at what does not queue

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        name, is_own = _client(scope)
        client = "" if is_own else name
        scope.setdefault("state", {})["client"] = client  # for the jobs that come of it
        if is_own or scope["method"] in _READS or not scope["path"].startswith(_WORK):
            await self.app(scope, receive, send)
            return
        waiting = sum(_client(other)[0] == name for other in self._lifecycle.waiting())
        if waiting + self._asking[name] >= self._most:
            seconds = max(1, math.ceil(self._lifecycle.expected_wait))
            words = HTTP["share"].format(count=self._most, seconds=seconds)
            raise RefusedError(429, words, "share", seconds)
        self._asking[name] += 1
        work_for(Asker(client))
        try:
            await self.app(scope, receive, send)
        finally:
            self._asking[name] -= 1
            self._asking += collections.Counter()  # forgets who has none


def _client(scope: Scope) -> tuple[str, bool]:
    """Name a client, and say whether it is this machine; a network of IPv6 is one client."""
    host = (scope.get("client") or ("", 0))[0]
    direct = all(name != b"x-forwarded-for" for name, _ in scope["headers"])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64], False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.IPv6Network((address, 64), strict=False)
            return str(network), direct and address.is_loopback
        address = address.ipv4_mapped
    return str(address), direct and address.is_loopback
