"""Name each request, for the log and for who asked; count its answer."""

from __future__ import annotations

import secrets

from starlette.types import Message, Receive, Scope, Send

from ..logs import of_request
from .answers import Layer
from .metrics import METRICS


class Trace(Layer):
    """Give the request an id, which its log records and ``X-Request-ID`` of its answer carry.

    Always one of our own: one that was sent could be a name somebody else's records have.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        identifier = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = identifier
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", identifier.encode())]
                message = {**message, "headers": headers}
            await send(message)

        with of_request(identifier):
            try:
                await self.app(scope, receive, send_named)
            finally:
                METRICS.answered(getattr(scope.get("route"), "path", "other"), status)
