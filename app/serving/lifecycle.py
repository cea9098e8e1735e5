"""Where the server stands: answering, ready, or about to stop; who asks, and who waits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ..strings import QUEUE
from .answers import Layer, RefusedError

_RESTART_SECONDS = 30
_READS = ("GET", "HEAD", "OPTIONS")
# What carries a job's answer; other streams, such as the heartbeat of an open page, never end.
_ANSWERS = ("/gradio_api/queue/data", "/gradio_api/call/")


class Lifecycle:
    """The state of one server.

    Attributes:
        answers: whether the page has been seen to answer.
        stopping: whether nothing new is begun.
        at_work: requests whose answer somebody waits for.

    Args:
        demo: the page; its ``turns`` is the queue of jobs, ``ready()`` says whether it can work.
    """

    def __init__(self, demo: Any) -> None:
        self._demo = demo
        self.answers = self.stopping = False
        self.at_work = 0

    @property
    def alive(self) -> bool:
        """Whether jobs are taken from Gradio's queue, whose loop may end but for a fault."""
        return not self._demo._queue.stopped

    @property
    def ready(self) -> bool:
        """Whether a visitor who comes now is served."""
        ready = getattr(self._demo, "ready", None)
        prepared = ready is None or bool(ready())
        return self.answers and self.alive and not self.stopping and prepared

    @property
    def jobs(self) -> int:
        """How many jobs run or wait."""
        return int(getattr(self._turns, "length", 0))

    @property
    def expected_wait(self) -> float:
        """Seconds until who comes now has their turn."""
        return float(getattr(self._turns, "expected_wait", 5.0))

    def forget_info(self) -> None:
        """Have the API described anew: Gradio keeps the server's name that was first asked for."""
        self._demo.app.api_info = None

    def waiting(self) -> Iterator[Scope]:
        """Yield the requests of the jobs that wait, in Gradio's queue."""
        for queue in self._demo._queue.event_queue_per_concurrency_id.values():
            for event in queue.queue:
                yield event.request.scope

    @property
    def idle(self) -> bool:
        """Whether every job is done and its answer delivered."""
        return self.at_work == 0 and self.jobs == 0

    def stop(self) -> None:
        """Begin nothing new."""
        self.stopping = True
        if self._turns is not None:
            self._turns.close()

    @property
    def _turns(self) -> Any:
        return getattr(self._demo, "turns", None)


class Probes(Layer):
    """Answer ``/livez`` and ``/readyz``, whatever name is asked: probes know addresses alone.

    Args:
        app: what answers everything else.
        lifecycle: what is told.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        super().__init__(app)
        self._lifecycle = lifecycle

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        if scope["path"] not in ("/livez", "/readyz"):
            await self.app(scope, receive, send)
            return
        well = self._lifecycle.alive if scope["path"] == "/livez" else self._lifecycle.ready
        body = json.dumps({"stopping": self._lifecycle.stopping, "ready": well}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if not well:
            headers.append((b"retry-after", str(_RESTART_SECONDS).encode()))
        status = 200 if well else 503
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Draining(Layer):
    """Refuse what would begin something while the server stops; count what it still owes.

    Args:
        app: what answers.
        lifecycle: says whether it stops, and keeps count.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        super().__init__(app)
        self._lifecycle = lifecycle

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        begins = scope["method"] not in _READS
        if begins and self._lifecycle.stopping:
            raise RefusedError(503, QUEUE["restarting"], "restarting", _RESTART_SECONDS)
        owed = begins or scope["path"].startswith(_ANSWERS)
        self._lifecycle.at_work += owed
        try:
            await self.app(scope, receive, send)
        finally:
            self._lifecycle.at_work -= owed
