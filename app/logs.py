"""Write the log: a line per record, with the request it belongs to, plain or as JSON.

Visitors' text ends up in log lines. In the plain format every control character of it is escaped,
so that nobody can write a line that looks like another record, or colours that hide one.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import unicodedata
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

_NO_REQUEST = "-"
_HIDDEN = {"Cc", "Cf", "Zl", "Zp"}  # control, direction, line and paragraph separators
_QUIET = {  # a line for each request, each font of a PDF, each upload that is odd
    "httpx": logging.WARNING,
    "fontTools": logging.WARNING,
    "python_multipart": logging.ERROR,
}

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default=_NO_REQUEST)


@contextlib.contextmanager
def of_request(identifier: str | None) -> Iterator[None]:
    """Give the records written meanwhile a request's id; None changes nothing."""
    token = request_id.set(identifier or request_id.get())
    try:
        yield
    finally:
        request_id.reset(token)


def write_log(style: str = "plain") -> None:
    """Send all records to stderr.

    Args:
        style: "plain", or "json" for one JSON object a line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else PlainFormatter())
    handler.addFilter(_add_request_id)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True


class PlainFormatter(logging.Formatter):
    """For people: time, level, logger, request and message; tracebacks on lines of their own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s]: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Write one record as one line."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Write a traceback, whose messages may repeat what a visitor sent."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"    {escaped(line)}" for line in lines)


class JsonFormatter(logging.Formatter):
    """For programs: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        told = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "request": getattr(record, "request_id", _NO_REQUEST),
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def escaped(text: str) -> str:
    r"""Write control characters as in Python's source, such as ``\n``."""
    if text.isascii() and text.isprintable():
        return text
    return (
        "".join(
            char.encode("unicode_escape").decode()
            if unicodedata.category(char) in _HIDDEN
            else char
            for char in text
        )
        .encode("utf-8", "backslashreplace")
        .decode()
    )
