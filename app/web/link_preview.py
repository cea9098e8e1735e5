"""What the server says of itself to others: link previews, and addresses on the API page.

Gradio writes its own name and address into the page's ``og:`` tags, and adds ``head=`` only when
its JavaScript runs, which the services that show previews do not wait for. The address is known
with the request alone: behind a proxy it is the proxy's.
"""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.route_utils import get_root_url
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..strings import API, PAGE

# Stands for the server's address until a request says what that is; nobody else may have it.
ROOT = "https://root.invalid"
PICTURE = Path(__file__).resolve().parents[1] / "screenshots" / "compare.webp"

_HEAD = Path(__file__).with_name("head.html")
_PAGES = ("/", "/gradio_api/info", "/gradio_api/info/")
_GRADIOS = re.compile(r'<meta\s+(?:property="og:|name="twitter:)[^>]*>\s*')


def address_of(file: Path) -> str:
    """Serve a file of ours as it is; return its address, under ``ROOT``."""
    gr.set_static_paths([file])
    return f"{ROOT}/gradio_api/file={file.as_posix()}"


class LinkPreview:
    """An ASGI middleware that completes the page's head and fills in ``ROOT``.

    Args:
        app: what answers; other requests pass to it untouched.
        root_path: as in ``launch``: where a proxy serves the app.
    """

    def __init__(self, app: ASGIApp, root_path: str | None = None) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["path"] not in _PAGES:
            await self._app(scope, receive, send)
            return
        root = get_root_url(Request(scope), scope["path"], self._root_path)
        answer = _Answer(send, functools.partial(_completed, root=root))
        await self._app(scope, receive, answer.send)


class _Answer:
    """Collect an answer, and send it on once it is whole and completed."""

    def __init__(self, send: Send, completed: Any) -> None:
        self._send, self._completed = send, completed
        self._start: Message = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        kind = dict(self._start["headers"]).get(b"content-type", b"")
        body = self._completed(self._body, is_page=kind.startswith(b"text/html"))
        length = (b"content-length", str(len(body)).encode())
        headers = [pair for pair in self._start["headers"] if pair[0] != b"content-length"]
        # A request for the head alone has the length of what it does not get.
        headers.append(length)
        await self._send({**self._start, "headers": headers})
        await self._send({**message, "body": body})


def _completed(body: bytes, *, root: str, is_page: bool) -> bytes:
    text = body.decode()
    if is_page:
        text = _GRADIOS.sub("", text).replace("</head>", f"{_head()}</head>", 1)
    return text.replace(ROOT, root.rstrip("/")).encode()


@functools.cache
def _head() -> str:
    """Fill the words into ``head.html``."""
    words = {
        "title": PAGE["title"],
        "description": API["preview"],
        "picture": address_of(PICTURE),
        "picture_of": API["preview_picture"],
        "root": ROOT,
    }
    template = _HEAD.read_text(encoding="utf-8")
    return template.format(**{name: html.escape(value) for name, value in words.items()})
