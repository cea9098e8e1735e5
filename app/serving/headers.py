"""Headers: what answers say to browsers, and what of requests Gradio is not shown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import Layer

# Gradio's page writes inline scripts and styles, and compiles the scripts of its components.
_PAGE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors {frames}"
)
# A file that a visitor sent, opened in a tab of its own: nothing in it runs.
_FILE = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"
_FILES = ("/gradio_api/file=", "/gradio_api/file/")
_SPACES = "'self' https://huggingface.co https://*.hf.space"

_SIMPLE_RANGE = re.compile(rb"bytes=(?:(\d{1,15})-(\d{0,15})|-\d{1,15})", re.ASCII)


class SecurityHeaders(Layer):
    """Tell browsers what the page and files may do.

    Args:
        app: what answers.
        on_spaces: Spaces show the page in a frame of theirs.
    """

    def __init__(self, app: ASGIApp, on_spaces: bool = False) -> None:
        super().__init__(app)
        self._page = _PAGE.format(frames=_SPACES if on_spaces else "'self'")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        policy = _FILE if scope["path"].startswith(_FILES) else self._page

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                headers["Content-Security-Policy"] = policy
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                message = {**message, "headers": headers.raw}
            await send(message)

        await self.app(scope, receive, send_with_headers)


class RetryAfter(Layer):
    """Say when to try again where Gradio itself answers with a 429 or 503: its queue is full.

    Args:
        app: what answers.
        wait: seconds until it is worth it.
    """

    def __init__(self, app: ASGIApp, wait: Callable[[], float]) -> None:
        super().__init__(app)
        self._wait = wait

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (429, 503):
                seconds = str(max(1, math.ceil(self._wait()))).encode()
                headers = [*message["headers"], (b"retry-after", seconds)]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_header)


class Ranges(Layer):
    """Ignore what is no single simple range, as RFC 9110 allows; Gradio can't read it."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        ranges = [value for name, value in scope["headers"] if name == b"range"]
        if ranges and not (len(ranges) == 1 and _is_simple(ranges[0])):
            headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
            scope["headers"] = headers
        await self.app(scope, receive, send)


def _is_simple(value: bytes) -> bool:
    simple = _SIMPLE_RANGE.fullmatch(value.strip())
    if simple is None:
        return False
    first, last = simple.groups()
    return not (first and last) or int(first) <= int(last)
