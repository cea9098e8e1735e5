"""Routes of Gradio's that this page has no use for: nobody else shall have one."""

from __future__ import annotations

import re

from starlette.types import Receive, Scope, Send

from ..strings import HTTP
from .answers import Layer, RefusedError

_CLOSED = re.compile(
    r"/(?:gradio_api/(?:"
    r"proxy=|file=\s*(?:[a-z][a-z0-9+.-]*:)?[/\\]{2}|"  # fetches addresses for whoever asks
    r"process_recording|stream/|"  # takes uploads past the checks of the one route for them
    r"dev/|deep_link|profiling|run-history|runs|vibe-|undo-vibe-edit"
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
