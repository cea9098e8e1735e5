"""Check an upload while it streams to Gradio, which reads the same bytes a moment later.

Gradio removes what it has written of an upload only where its own parser fails, so a refusal
reaches it as that, and nothing is left of what was refused or broken off.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..strings import HTTP, UPLOAD
from .answers import RefusedError

_LONGEST_BOUNDARY = 70  # characters, of RFC 2046
_MOST_PARTS = 400  # a batch has 200 pictures, each with ground truth
_MOST_HEADERS = 4_096  # bytes of one part's
_LONGEST_NAME = 1_000  # bytes; Gradio shortens it further
_FILE = 65_536  # bytes that a file costs beside its own: disks also run out of files
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


class CheckedUpload:
    """One request that brings files.

    Args:
        headers: of the request.
        receive: its body.
        spend: told the bytes that are about to be kept; refuses what is too much.

    Raises:
        RefusedError: for headers that promise nothing readable.
    """

    def __init__(self, headers: Headers, receive: Receive, spend: Callable[[int], None]) -> None:
        kind, options = parse_options_header(headers.get("content-type", ""))
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data":
            raise _refusal(UPLOAD["kind"])
        if not 1 <= len(boundary) <= _LONGEST_BOUNDARY:
            raise _refusal(UPLOAD["boundary"].format(most=_LONGEST_BOUNDARY))
        if options.get(b"charset", b"utf-8").lower() != b"utf-8":
            raise _refusal(UPLOAD["charset"])
        self._receive, self._spend = receive, spend
        self._refusal: RefusedError | None = None
        self._parts = _Parts(spend)
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._parts.begin,
                "on_header_field": self._parts.header_name,
                "on_header_value": self._parts.header_value,
                "on_header_end": self._parts.header_end,
                "on_headers_finished": self._parts.headers_end,
                "on_end": self._parts.end,
            },
        )

    async def answer(self, app: ASGIApp, scope: Scope, send: Send) -> None:
        """Let the app answer.

        Raises:
            RefusedError: in place of its answer, where the body breaks a rule.
        """

        async def send_unless_refused(message: Message) -> None:
            if self._refusal is None:
                await send(message)

        await app(scope, self._checked, send_unless_refused)
        if self._refusal is not None:
            raise self._refusal

    async def _checked(self) -> Message:
        try:
            message = await self._receive()
            if self._parts.ended:  # whatever follows is not read
                return message
            self._spend(len(message.get("body", b"")))
            self._parser.write(message.get("body", b""))
            if not message.get("more_body", False) and not self._parts.ended:
                raise _refusal(HTTP["cut"])  # also where the visitor has left
        except RefusedError as refusal:
            self._refusal = refusal
        except FormParserError as error:
            self._refusal = _refusal(str(error)[:200])
        else:
            return message
        raise MultiPartException(self._refusal.sentence)


class _Parts:
    """What a parser tells of an upload's parts, checked."""

    def __init__(self, spend: Callable[[int], None]) -> None:
        self.ended = False
        self._spend = spend
        self._count = 0
        self._size = 0
        self._name, self._value = b"", b""
        self._disposition = b""

    def begin(self) -> None:
        self._count += 1
        if self._count > _MOST_PARTS:
            raise _refusal(UPLOAD["parts"].format(most=_MOST_PARTS))
        self._spend(_FILE)
        self._size = 0
        self._disposition = b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._measure(end - start)
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._measure(end - start)
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != b"files" or b"filename" not in options:
            raise _refusal(UPLOAD["no_file"])
        name = options[b"filename"]
        last = name.replace(b"\\", b"/").rpartition(b"/")[2]
        if len(name) > _LONGEST_NAME or _CONTROL.search(name) or last in (b".", b".."):
            raise _refusal(UPLOAD["name"].format(most=_LONGEST_NAME))

    def end(self) -> None:
        self.ended = True

    def _measure(self, size: int) -> None:
        self._size += size
        if self._size > _MOST_HEADERS:
            raise _refusal(UPLOAD["headers"].format(most=_MOST_HEADERS))


def _refusal(why: str) -> RefusedError:
    return RefusedError(400, HTTP["upload"].format(why=why), "upload")
