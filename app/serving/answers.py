"""What every layer is made of, and the outermost one: no request is answered with a 500.

A layer refuses by raising ``RefusedError``; ``Answers`` turns that into an answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..strings import HTTP
from .metrics import METRICS

logger = logging.getLogger(__name__)

# Until a client that is still sending has read why it should not: else its connection breaks.
_LINGER_SECONDS = 2.0


class RefusedError(Exception):
    """A request is not taken.

    Attributes:
        status: of the answer.
        sentence: what was found, what is expected.
        reason: one word, for the metrics.
        retry_after: seconds after which it is worth trying again; None for never.
    """

    def __init__(
        self, status: int, sentence: str, reason: str, retry_after: int | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.reason, self.retry_after = reason, retry_after


class Layer:
    """An ASGI middleware that looks at HTTP requests alone; others pass.

    Args:
        app: what answers the requests that it lets through.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI calls it."""
        if scope["type"] == "http":
            await self.handle(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        await self.app(scope, receive, send)


class Answers(Layer):
    """Answer refusals in a sentence, and what Gradio stumbles over with a 400.

    Our own callbacks never raise: an exception that escapes its routes was caused by the request.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        exchange = _Exchange(receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except RefusedError as refusal:
            METRICS.refused(refusal.reason)
            await exchange.refuse(refusal)
        except Exception as error:
            logger.warning("Can't answer %.200s: %.200s", scope["path"], repr(error))
            logger.debug("It was", exc_info=True)
            exchange.is_replaced = True
        if exchange.is_replaced:
            METRICS.refused("not understood")
            await exchange.refuse(RefusedError(400, HTTP["not_understood"], "not understood"))


class _Exchange:
    """A request and its answer, while it is not known yet how that ends."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._sent_whole = False  # the request
        self._started = False  # the answer
        self.is_replaced = False  # which holds where Starlette answers, and raises right after

    async def receive(self) -> Message:
        message = await self._receive()
        self._sent_whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == 500:
                self.is_replaced = not _is_json(message)
                message = {**message, "status": 400}
            self._started = not self.is_replaced
        if not self.is_replaced:
            await self._send(message)

    async def refuse(self, refusal: RefusedError) -> None:
        if self._started:
            return
        # Gradio's page and clients read either.
        body = json.dumps({"detail": refusal.sentence, "error": refusal.sentence}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", str(refusal.retry_after).encode()))
        start = {"type": "http.response.start", "status": refusal.status, "headers": headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        await self._linger()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        end = time.monotonic() + _LINGER_SECONDS
        while not self._sent_whole and (left := end - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self.receive(), left)
            except asyncio.TimeoutError:
                return


def _is_json(message: Message) -> bool:
    kind: bytes = dict(message["headers"]).get(b"content-type", b"")
    return kind.startswith(b"application/json")
