"""Bound what is sent: uploads while they stream, everything else whole before Gradio sees it."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..files.kept import upload_folder
from ..strings import HTTP, UPLOAD
from .answers import Layer, RefusedError
from .clients import Allowance, Rate
from .routes import NAME, NAMED
from .uploads import CheckedUpload

_UPLOAD = "/gradio_api/upload"
_READS = ("GET", "HEAD", "OPTIONS")
_DEEPEST = 32  # levels of JSON; the page's own have eight
_MOST_KEPT = 64 * 2**20  # bytes of unfinished bodies, all clients together
_RETRY_SECONDS = 5
_LEFT_FREE = 10**9  # bytes of the disk
_FILES_LEFT = 20_000
_DISK_RETRY_SECONDS = 120  # what others have left is swept by then

_SIGNS = [bytes([sign]) for sign in b'[{,:"\\']
_MOST_SIGNS = 50_000  # a batch of 200 files has some 10,000
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_TEXT = re.compile(rb'"[^"]*"')
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


class Sizes(NamedTuple):
    """How many bytes a request may have.

    Attributes:
        upload: one that brings files, all of them together.
        other: any other.
    """

    upload: int
    other: int = 2 * 10**6


class Bodies(Layer):
    """Refuse what is too large, too deep or no JSON; at most one byte too many is read.

    Args:
        app: what answers.
        sizes: the limits.
        allowance: bytes that a client of another machine may upload; None for no bound.
    """

    def __init__(self, app: ASGIApp, sizes: Sizes, allowance: Rate | None = None) -> None:
        super().__init__(app)
        self._sizes = sizes
        self._allowance = Allowance(allowance)
        self._kept = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        headers = Headers(scope=scope)
        if scope["method"] in _READS:
            await self.app(scope, receive, send)
        elif scope["path"] == _UPLOAD:
            _require_room()
            limited = _Limited(headers, receive, self._sizes.upload)
            spend = self._allowance.spender(scope, least=limited.declared)
            await CheckedUpload(headers, limited.receive, spend).answer(self.app, scope, send)
        else:
            body = await self._read(_Limited(headers, receive, self._sizes.other))
            if body and _may_be_json(headers):
                check_json(body)
            elif body:
                raise RefusedError(415, HTTP["kind"], "kind")
            await self.app(scope, _replay(body, receive), send)

    async def _read(self, limited: _Limited) -> bytes:
        pieces: list[bytes] = []
        with self._keeping() as keep:
            while True:
                message = await limited.receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError(400, HTTP["json"].format(why=HTTP["cut"]), "cut")
                pieces.append(message.get("body", b""))
                keep(len(pieces[-1]))
                if not message.get("more_body", False):
                    return b"".join(pieces)

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[Any]:
        """Count the bytes that are kept for requests that have not come to their end."""
        kept = 0

        def keep(size: int) -> None:
            nonlocal kept
            kept += size
            self._kept += size
            if self._kept > _MOST_KEPT:
                sentence = HTTP["too_much_at_once"].format(seconds=_RETRY_SECONDS)
                raise RefusedError(503, sentence, "too much at once", _RETRY_SECONDS)

        try:
            yield keep
        finally:
            self._kept -= kept


class _Limited:
    """A request's body, up to a limit.

    Attributes:
        declared: bytes that it is said to have; 0 where that is not said.
    """

    def __init__(self, headers: Headers, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        self._size = 0
        declared = headers.get("content-length", "")
        self.declared = int(declared[:20]) if declared.isdecimal() else 0
        if self.declared > most:
            raise self._refusal()

    async def receive(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self._most:
            raise self._refusal()
        return message

    def _refusal(self) -> RefusedError:
        limit = f"{self._most / 1e6:.4g} MB"
        return RefusedError(413, HTTP["too_large"].format(limit=limit), "size")


def _may_be_json(headers: Headers) -> bool:
    kind = headers.get("content-type")
    return kind is None or "json" in kind.lower()


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand on a body that has been read, then whatever comes after it: the visitor's leaving."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return whole.pop() if whole else await receive()

    return receive_again


def _require_room() -> None:
    """Take no upload where the disk would soon be full: what runs needs some of it, too."""
    folder = upload_folder()
    place = folder if folder.is_dir() else folder.parent
    if shutil.disk_usage(place).free < _LEFT_FREE or _files_left(place) < _FILES_LEFT:
        raise RefusedError(507, UPLOAD["disk"], "disk", _DISK_RETRY_SECONDS)


def _files_left(place: Path) -> float:
    """Count the files that a disk still takes, where it has a limit and says so."""
    if not hasattr(os, "statvfs"):
        return math.inf
    state = os.statvfs(place)
    return state.f_favail if state.f_files else math.inf


def check_json(body: bytes) -> None:
    """Refuse JSON that Python would read in its own ways, or at great length.

    Raises:
        RefusedError: for what is no JSON, more than 32 levels deep, or holds a number that is none
            or a session's name that is none.
    """
    if sum(map(body.count, _SIGNS)) > _MOST_SIGNS:  # each costs far more than its byte
        raise RefusedError(413, HTTP["items"].format(most=_MOST_SIGNS), "items")
    if deepest(body) > _DEEPEST:
        raise _no_json(f"it is more than {_DEEPEST} levels deep")
    try:
        told = json.loads(body, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _no_json(str(error)[:200]) from error
    names = [told[key] for key in NAMED if key in told] if isinstance(told, dict) else []
    if not all(name is None or (isinstance(name, str) and NAME.fullmatch(name)) for name in names):
        raise RefusedError(400, HTTP["name"], "name")


def deepest(body: bytes) -> int:
    """Count the levels of JSON, without building anything of it."""
    outside = _TEXT.sub(b"", _ESCAPE.sub(b"", body))
    steps = memoryview(outside.translate(_STEPS, _NO_BRACKETS)).cast("b")
    return max(itertools.accumulate(steps), default=0)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _no_json(why: str) -> RefusedError:
    return RefusedError(400, HTTP["json"].format(why=why), "json")
