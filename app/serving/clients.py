"""Bound how often one client may ask for something, and how much of the queue it may fill."""

from __future__ import annotations

import collections
import ipaddress
import math
import time
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
    """How much a client may ask for.

    Attributes:
        burst: requests at once.
        per_second: requests that come to that in a second.
    """

    burst: int
    per_second: float


class RateLimit(Layer):
    """Keep a bucket of tokens for each client; a request that is not just a read takes one.

    Args:
        app: what answers.
        rate: of others' machines.
        own_rate: of this machine's own programs; who comes through a proxy here is not of these.
    """

    def __init__(self, app: ASGIApp, rate: Rate, own_rate: Rate) -> None:
        super().__init__(app)
        self._rate, self._own_rate = rate, own_rate
        self._buckets: cachetools.LRUCache[str, tuple[float, float]] = cachetools.LRUCache(
            _MOST_CLIENTS
        )

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        if scope["method"] not in _READS:
            name, is_own = _client(scope)
            wait = self._take(name, self._own_rate if is_own else self._rate)
            if wait > 0:
                seconds = math.ceil(wait)
                raise RefusedError(429, HTTP["too_often"].format(seconds=seconds), "rate", seconds)
        await self.app(scope, receive, send)

    def _take(self, name: str, rate: Rate) -> float:
        """Take a token; return the seconds until there is one, 0 where there was."""
        now = time.monotonic()
        tokens, filled_at = self._buckets.get(name, (float(rate.burst), now))
        tokens = min(rate.burst, tokens + (now - filled_at) * rate.per_second)
        taken = tokens >= 1
        self._buckets[name] = (tokens - taken, now)
        return 0.0 if taken else (1 - tokens) / rate.per_second


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
