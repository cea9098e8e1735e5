"""Log records: one line each, whatever visitors sent, and the request they belong to."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from app import logs

NASTY = "name\n2026-01-01 ERROR root: forged\r\x1b[31m\u202e\u2028\x85\ud800"


def written(style: str, **more: object) -> str:
    record = logging.LogRecord("app.x", logging.INFO, "f", 1, "Refused %s", (NASTY,), None)
    record.__dict__.update(more)
    logs._add_request_id(record)
    formatter = logs.JsonFormatter() if style == "json" else logs.PlainFormatter()
    return formatter.format(record)


def test_visitors_write_no_lines_of_their_own() -> None:
    line = written("plain")
    assert line.endswith(
        r"Refused name\n2026-01-01 ERROR root: forged\r\x1b[31m\u202e\u2028\x85\ud800"
    )
    assert len(line.splitlines()) == 1
    line.encode()


def test_a_traceback_repeats_nothing_as_it_is() -> None:
    try:
        raise ValueError(NASTY)  # noqa: TRY301
    except ValueError as error:
        told = written("plain", exc_info=(ValueError, error, error.__traceback__))
    first, *traceback = told.splitlines()
    assert "Refused" in first
    assert all(line.startswith("    ") for line in traceback)
    assert not [char for char in told if char in "\r\x1b\u202e\x85"]


def test_json_has_an_object_a_line() -> None:
    with logs.of_request("abc"):
        line = written("json")
    told = json.loads(line)
    assert "\n" not in line
    assert told["message"] == f"Refused {NASTY}"
    assert (told["request"], told["level"], told["logger"]) == ("abc", "INFO", "app.x")


def test_a_request_keeps_its_id_to_itself() -> None:
    seen = []
    with logs.of_request("abc"):
        other = threading.Thread(target=lambda: seen.append(logs.request_id.get()))
        other.start()
        other.join()
        with logs.of_request(None):
            seen.append(logs.request_id.get())
    assert seen == ["-", "abc"]
    assert logs.request_id.get() == "-"


@pytest.mark.parametrize("text", ["plain words", "Zürich", "道路", "tab\there"])
def test_other_text_stays_readable(text: str) -> None:
    assert logs.escaped(text) == text.replace("\t", r"\t")
