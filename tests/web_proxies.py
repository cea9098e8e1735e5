"""Proxies on this machine: one between a program and the web, one between visitors and the app."""

from __future__ import annotations

import contextlib
import http.client
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PER_HOP = {"connection", "keep-alive", "transfer-encoding"}
_PIECE = 65_536


class _Server:
    """Serves until closed; a context manager.

    Attributes:
        origin: scheme, address and port.
    """

    def __init__(self) -> None:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                answer(self)

            do_GET = do_HEAD = do_POST = do_CONNECT = _answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.origin = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class WebProxy(_Server):
    """Behind it there is nothing.

    Attributes:
        asked: (method, target) of all that was sent through it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.command, request.path))
        request.send_error(HTTPStatus.NOT_FOUND)


class SubPath(_Server):
    """Serves what answers at another port under a path, which it takes off, as people set up nginx.

    Attributes:
        url: where visitors go.
        strayed: targets that were asked for outside of the path.
        target_port: may be set when it is known.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self.url = f"{self.origin}{path}"
        self.strayed: list[str] = []
        self.target_port = 0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if not request.path.startswith(f"{self._path}/"):
            if request.path != "/favicon.ico":  # which browsers guess on every server
                self.strayed.append(request.path)
            request.send_error(HTTPStatus.NOT_FOUND)
            return
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in request.headers.items() if _passes(name)}
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.target_port)
        ) as target:
            target.request(request.command, request.path.removeprefix(self._path), body, headers)
            response = target.getresponse()
            request.send_response(response.status)
            for name, value in response.headers.items():
                if _passes(name):
                    request.send_header(name, value)
            request.end_headers()
            # Streams of events end when a visitor has left, or the app.
            with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
                while piece := response.read1(_PIECE):
                    request.wfile.write(piece)


def _passes(name: str) -> bool:
    return name.lower() not in _PER_HOP
