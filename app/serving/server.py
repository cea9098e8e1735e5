"""Serve the page through uvicorn, until a signal; then finish what was begun."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import fastapi
import gradio as gr
import httpx
import uvicorn
from starlette.middleware import Middleware
from starlette.routing import Mount

from ..startup import Settings, StartError, listening_sockets
from ..web.link_preview import LinkPreview
from ..web.theme import CSS, theme
from ..work.gradio_bounds import bound
from .connections import AT_ONCE, BACKLOG, Connection, raise_descriptor_limit
from .lifecycle import Lifecycle
from .metrics import METRICS
from .stack import stack

logger = logging.getLogger(__name__)

_FINISH_SECONDS = 30.0  # for jobs that run or wait when the server is told to stop
_CLOSE_SECONDS = 2  # for connections after that
_EXIT_SECONDS = 5.0  # for threads after that
_OPTIONS: dict[str, Any] = {
    "css": CSS,
    "footer_links": ["api", "gradio"],
    "show_error": False,
    "ssr_mode": False,
    "pwa": False,
    "run_history": False,
    "enable_monitoring": False,
    "max_file_size": "64mb",
}


def serve(demo: Any, settings: Settings) -> None:
    """Serve until told to stop, and every job that was taken has its answer.

    Raises:
        StartError: where the address cannot be had, or the metrics' port.
    """
    lifecycle = Lifecycle(demo)
    _count(lifecycle, demo, settings)
    sockets = listening_sockets(settings.host, settings.port)
    Connection.most = raise_descriptor_limit()
    server = Server(build_app(demo, settings, lifecycle), demo, settings, lifecycle)
    server.run(sockets=sockets)
    # A job that never ends would keep its thread, and that the process.
    watchdog = threading.Timer(_EXIT_SECONDS, os._exit, (0,))
    watchdog.daemon = True
    watchdog.start()


def launch(demo: Any, settings: Settings) -> None:
    """Do the same where ZeroGPU replaces ``launch``, which has to be called then.

    The layers are the same; time limits and stopping are the platform's.

    Raises:
        OSError: where the port is taken.
        ValueError: where the page does not answer within Gradio's three seconds.
    """
    lifecycle = Lifecycle(demo)
    demo.launch(
        server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
        server_port=settings.port,
        root_path=settings.root_path,
        theme=theme(),
        app_kwargs={"middleware": [*stack(settings, lifecycle), _link_preview(settings)]},
        share=False,
        strict_cors=True,
        mcp_server=settings.mcp,
        prevent_thread_lock=True,
        **_OPTIONS,
    )
    bound(demo.app, demo)
    lifecycle.answers = True
    demo.prepare()  # not before: it would slow down that answer
    demo.block_thread()


def build_app(demo: Any, settings: Settings, lifecycle: Lifecycle) -> fastapi.FastAPI:
    """Put the page behind the layers, with all that ``launch`` would set."""
    outer = fastapi.FastAPI(
        middleware=stack(settings, lifecycle), openapi_url=None, docs_url=None, redoc_url=None
    )
    gr.mount_gradio_app(
        outer,
        demo,
        path="/",
        server_name=settings.host,
        server_port=settings.port,
        root_path=settings.root_path,
        theme=theme(),
        app_kwargs={"middleware": [_link_preview(settings)]},
        mcp_server=settings.mcp,
        **_OPTIONS,
    )
    [mounted] = (route.app for route in outer.routes if isinstance(route, Mount))
    bound(mounted, demo)
    demo.app = demo.server_app = mounted
    demo.server, demo.local_url = None, f"{settings.url}/"
    # Gradio looks at files' paths only in pages that were launched.
    demo.has_launched = True
    if settings.mcp:
        if demo.mcp_server_obj is None:
            raise RuntimeError(demo.mcp_error)
        demo.mcp_server_obj._local_url = demo.local_url  # its tools ask the page itself
    return outer


def _link_preview(settings: Settings) -> Middleware:
    return Middleware(LinkPreview, settings.root_path)


def _count(lifecycle: Lifecycle, demo: Any, settings: Settings) -> None:
    if settings.metrics_port is None:
        return
    try:
        METRICS.serve(settings.metrics_port, settings.host, lambda: lifecycle.jobs)
    except OSError as error:
        raise StartError(
            f"Can't listen on {settings.host}:{settings.metrics_port} ({error.strerror}): set "
            "MASK2KAN_METRICS_PORT to a port that is free."
        ) from error
    if turns := getattr(demo, "turns", None):
        turns.observe = METRICS.job


class Server(uvicorn.Server):
    """uvicorn, which at the first signal finishes what was begun, and at the second one exits.

    Args:
        app: what it serves.
        demo: the page.
        settings: what the app is started with.
        lifecycle: told how far it is.
    """

    def __init__(
        self, app: fastapi.FastAPI, demo: Any, settings: Settings, lifecycle: Lifecycle
    ) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            backlog=AT_ONCE,
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # the layers' outermost one reads them
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )
        super().__init__(config)
        self._app, self._demo = app, demo
        self._settings, self._lifecycle = settings, lifecycle
        self._stop_at = float("inf")
        self._opening: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and see the page answer."""
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(BACKLOG)  # asyncio has one number for both
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        """Ask for the page as a visitor would; only then compute what every visitor sees first."""
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url=self._settings.url) as client:
            answer = await client.get("/", headers={"Host": "localhost"})
        if answer.status_code != 200:
            logger.error("The page answers with %d", answer.status_code)
            return
        self._lifecycle.answers = True
        logger.info("Open %s", self._settings.url)
        self._demo.prepare()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at a signal."""
        if self._lifecycle.stopping:
            os._exit(128 + sig)
        self._lifecycle.stopping = True
        self._stop_at = time.monotonic() + _FINISH_SECONDS

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to go."""
        if self._lifecycle.stopping:
            self._lifecycle.stop()  # not in the signal's handler: a lock may be held there
            late = time.monotonic() > self._stop_at
            if late:
                logger.warning("Stopping with %d jobs unfinished", self._lifecycle.jobs)
            self.should_exit = self.should_exit or late or self._lifecycle.idle
        return await super().on_tick(counter)

    async def shutdown(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """End what streams for ever, then every connection."""
        self._demo.close(verbose=False)
        await super().shutdown(list(sockets or ()))
