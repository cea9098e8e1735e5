"""Requests as bytes: what no well-behaved client would send, and what comes back."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

Headers = Sequence[tuple[str, str]]


class Answer(NamedTuple):
    """What came back.

    Attributes:
        status: 0 where the connection was closed without an answer.
        headers: by their names in lower case.
        body: as far as it was read.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def sentence(self) -> str:
        """The words of a refusal; empty where there are none."""
        try:
            told = json.loads(self.body)
        except ValueError:
            return ""
        return str(told.get("detail", "")) if isinstance(told, dict) else ""


def connect(url: str, seconds: float = 10.0, own: str = "") -> socket.socket:
    """Connect, from an own address if wanted: on Linux, all of 127.0.0.0/8 is this machine."""
    parts = urlsplit(url)
    server = (str(parts.hostname), int(parts.port or 80))
    return socket.create_connection(server, seconds, source_address=(own, 0) if own else None)


def head(method: str, path: str, headers: Headers = (), host: str = "localhost") -> bytes:
    lines = (
        [f"{method} {path} HTTP/1.1", f"Host: {host}"] if host else [f"{method} {path} HTTP/1.1"]
    )
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def ask(
    url: str,
    method: str = "GET",
    path: str = "/",
    headers: Headers = (),
    body: bytes = b"",
    host: str = "localhost",
    seconds: float = 10.0,
) -> Answer:
    """Send a request with its length, and read the answer."""
    own = {name.lower() for name, _ in headers}
    more = [] if "content-length" in own or not body else [("Content-Length", str(len(body)))]
    return send(url, head(method, path, [*headers, *more], host) + body, seconds)


def send(url: str, request: bytes, seconds: float = 10.0) -> Answer:
    """Send bytes, and read the answer: whole where its length is said, else what comes first."""
    with connect(url, seconds) as client:
        with contextlib.suppress(ConnectionError, TimeoutError):  # refused while still sending
            client.sendall(request)
        return read(client, has_body=not request.startswith(b"HEAD"))


def read(client: socket.socket, has_body: bool = True) -> Answer:
    received = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while b"\r\n\r\n" not in received and (piece := client.recv(65_536)):
            received += piece
    start, _, body = received.partition(b"\r\n\r\n")
    first, *lines = start.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/1."):
        return Answer(0, {}, b"")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    length = int(headers.get("content-length", 0)) if has_body else 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        while len(body) < length and (piece := client.recv(65_536)):
            body += piece
    return Answer(int(first.split()[1]), headers, body)


def multipart(parts: Sequence[tuple[str, bytes]], boundary: str = "edge") -> bytes:
    """A body of parts, each with its Content-Disposition."""
    lines = [
        f"--{boundary}\r\nContent-Disposition: {said}\r\n\r\n".encode() + content + b"\r\n"
        for said, content in parts
    ]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


FILE = 'form-data; name="files"; filename="x.png"'
UPLOAD = "/gradio_api/upload"
JOIN = "/gradio_api/queue/join"
_ROUTES = """
/ /config /gradio_api/info /gradio_api/openapi.json /gradio_api/app_id /theme.css
/gradio_api/startup-events /assets/x /static/x /gradio_api/file=/etc/passwd /gradio_api/queue/data
/gradio_api/queue/status /gradio_api/heartbeat/x /gradio_api/user /gradio_api/upload_progress
/gradio_api/token /manifest.json /robots.txt /pwa_icon/9 /gradio_api/call/models
/gradio_api/call/models/x /gradio_api/call/v2/models /gradio_api/run/models /gradio_api/api/x
/gradio_api/component_server /gradio_api/cancel /gradio_api/reset /gradio_api/stream/x
/gradio_api/stream/x/close /login /logout /gradio_api/custom_component/1/client/component/index.js
/gradio_api/deep_link /monitoring /gradio_api/proxy=http://127.0.0.1:1/
/gradio_api/process_recording /gradio_api/mcp/ /gradio_api/mcp/sse /gradio_api/dev/reload
/gradio_api/vibe-edit /readyz /livez /gradio_api/queue/join /gradio_api/queue/join
/gradio_api/queue/join /gradio_api/upload /gradio_api/upload /gradio_api/upload
""".split()  # noqa: SIM905
_METHODS = ["GET", "POST", "POST", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "X"]
_ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    "",
    "x" * 3_000,
    "\0",
    "../../etc/passwd",
    "\ud800",
    [],
    {},
    [[]],
    {"path": "/etc/passwd"},
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"__type__": "update"},
    {"path": "http://127.0.0.1:1/x", "url": "http://127.0.0.1:1/x"},
    "data:image/png;base64,AAAA",
    {"a": {"b": {"c": {}}}},
]
_ODD_HEADERS = [
    ("Range", "bytes=1-2-3"),
    ("Range", "bytes=" + "0-1," * 900),
    ("Range", "bytes=9-1"),
    ("Range", "bytes=²-³"),
    ("Range", "lines=1"),
    ("Range", "bytes=-"),
    ("If-Range", "\x80"),
    ("Origin", "null"),
    ("Origin", "https://elsewhere.example"),
    ("Origin", "::"),
    ("Cookie", "a" * 900),
    ("X-Forwarded-Host", "elsewhere.example"),
    ("X-Forwarded-Proto", "gopher"),
    ("Accept", "\x01"),
    ("Accept-Encoding", "br;q=x, *;q=nan"),
    ("Content-Encoding", "gzip"),
    ("Expect", "100-continue"),
    ("Upgrade", "websocket"),
    ("Authorization", "Basic ====="),
    ("X-Gradio-User", "app"),
    ("If-None-Match", '"'),
    ("If-Modified-Since", "x"),
    ("Last-Event-ID", "-1"),
]


def fuzzed(rng: random.Random) -> bytes:
    """A request that is wrong somewhere, or nowhere."""
    path = rng.choice(_ROUTES)
    if rng.random() < 0.3:
        path += rng.choice(
            ("?", "/", "//", "%00", "?upload_id=x", "?session_hash=%ff", "/../x", "\x7f")
        )
    headers = [("X-Forwarded-For", f"10.{rng.randrange(256)}.{rng.randrange(256)}.1")]
    headers += rng.sample(_ODD_HEADERS, rng.choice((0, 0, 1, 2)))
    kind, body = rng.choice((_json, _json, _files, _noise))(rng)
    headers.append(("Content-Type", kind))
    length = len(body) if rng.random() < 0.95 else rng.choice((0, 1, len(body) + 7, "x", -1))
    headers.append(("Content-Length", str(length)))
    host = rng.choice(("localhost", "localhost", "127.0.0.1:1", "[::1]", "elsewhere.example", ""))
    return head(rng.choice(_METHODS), path, headers, host) + body


def _json(rng: random.Random) -> tuple[str, bytes]:
    said: dict[str, Any] = {
        "data": [rng.choice(_ODD) for _ in range(rng.randrange(7))],
        "fn_index": rng.choice([*range(40), 10**9, None]),
        "session_hash": rng.choice(("x", "y", None)),
        "event_data": rng.choice((None, None, *_ODD)),
        "trigger_id": rng.randrange(50),
        "component_id": rng.randrange(80),
        "fn_name": rng.choice(("ask", "explain_run", "__class__")),
    }
    for name in list(said):
        if rng.random() < 0.15:
            said[name] = rng.choice(_ODD)
        elif rng.random() < 0.05:
            del said[name]
    text = json.dumps(said).encode()
    change: Callable[[bytes], bytes] = rng.choice(_CHANGES)
    return rng.choice(("application/json", "application/json", "text/plain", "")), change(text)


_CHANGES: list[Callable[[bytes], bytes]] = [
    lambda text: text,
    lambda text: text,
    lambda text: text[: len(text) // 2],
    lambda text: text.replace(b"null", b"NaN"),
    lambda text: text.replace(b"null", b"1e999"),
    lambda text: b"[" * 100_000,
    lambda text: text.replace(b"[]", b"[" * 200 + b"]" * 200),
    lambda text: b"\xff\xfe" + text,
]


def _files(rng: random.Random) -> tuple[str, bytes]:
    boundary = rng.choice(("edge", "edge", "e" * 71, "e" * 5_000, ""))
    said = [
        FILE,
        FILE,
        'form-data; name="files"',
        'form-data; name="other"; filename="x"',
        "attachment",
        'form-data; name="files"; filename="' + "n" * 3_000 + '"',
        'form-data; name="files"; filename=""',
        'form-data; name="files"; filename="../../x"',
        'form-data; name="files"; filename=".."',
        "form-data; name=files; filename*=UTF-8''%00",
        'form-data; filename="x"',
    ]
    parts = [(rng.choice(said), rng.randbytes(rng.randrange(300))) for _ in range(rng.randrange(4))]
    body = multipart(parts, boundary)
    body = body[: rng.choice((len(body), len(body), len(body) // 2))]
    charset = rng.choice(("", "", "; charset=idna", "; charset=utf-7"))
    return f"multipart/form-data; boundary={boundary}{charset}", body


def _noise(rng: random.Random) -> tuple[str, bytes]:
    kinds = ("application/x-www-form-urlencoded", "application/octet-stream", "image/png")
    return rng.choice(kinds), rng.randbytes(rng.randrange(2_000))
