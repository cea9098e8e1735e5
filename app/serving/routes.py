"""Routes of Gradio's that this page has no use for, and names that are none: nobody has one."""

from __future__ import annotations

import re

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from ..strings import HTTP
from .answers import Layer, RefusedError
from .lifecycle import Lifecycle

_CLOSED = re.compile(
    r"/(?:gradio_api/(?:"
    r"proxy=|file/|file=\s*(?:[a-z][a-z0-9+.-]*:)?[/\\]{2}|"  # fetches addresses for anybody
    r"process_recording|stream/|"  # takes uploads past the checks of the one route for them
    r"custom_component|dev/|deep_link|profiling|run-history|runs|vibe-|undo-vibe-edit"
    r")|login|logout|monitoring|svelte/)",
    re.IGNORECASE,
)


class ClosedRoutes(Layer):
    """Answer those with a 404, and addresses in place of a file with a 403."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        if _CLOSED.match(scope["path"]):
            status = 403 if "file=" in scope["path"] else 404
            raise RefusedError(status, HTTP["closed"], "route")
        await self.app(scope, receive, send)


class FreshInfo(Layer):
    """Tell each program the name of the server that it asked for itself.

    Args:
        app: what answers.
        lifecycle: knows where the last name is kept.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        super().__init__(app)
        self._lifecycle = lifecycle

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        if scope["path"].rstrip("/") == "/gradio_api/info":
            self._lifecycle.forget_info()
        await self.app(scope, receive, send)


# What visitors' programs call their sessions, uploads and events; Gradio keeps each for a while.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
NAMED = ("session_hash", "upload_id", "event_id")
_SESSION_IN_PATH = "/gradio_api/heartbeat/"


class Names(Layer):
    """Refuse names that are too long, or no names, where an address has them."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        query = QueryParams(scope["query_string"])
        names = [value for key, value in query.multi_items() if key in NAMED]
        if scope["path"].startswith(_SESSION_IN_PATH):
            names.append(scope["path"].removeprefix(_SESSION_IN_PATH).rstrip("/"))
        if not all(map(NAME.fullmatch, names)):
            raise RefusedError(400, HTTP["name"], "name")
        await self.app(scope, receive, send)
