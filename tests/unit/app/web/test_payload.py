"""What Python sends to the viewer is what its JavaScript expects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, is_typeddict

import pytest

from app.web import payload

SCRIPT = Path(payload.__file__).parent / "viewer" / "payload.js"
TABLES: dict[str, Any] = {
    name: value for name, value in vars(payload).items() if is_typeddict(value)
}


def typedefs(script: str) -> dict[str, list[str]]:
    """List the fields of each typedef of an object by its name."""
    fields = {
        name: re.findall(r"(?:^|,)\s*(\w+)\??\s*:", inside)
        for inside, name in re.findall(r"@typedef \{\{(.+?)\}\} (\w+)", script)
    }
    for name, lines in re.findall(r"@typedef \{object\} (\w+)\n((?: \* @property .*\n)*)", script):
        fields[name] = re.findall(r"@property \{.+?\} \[?(\w+)", lines)
    return fields


DEFINED = typedefs(SCRIPT.read_text(encoding="utf-8"))


def test_typedefs_are_read_as_they_are_written() -> None:
    script = """
    /** @typedef {{path: string, url?: string | null}} File */
/**
 * @typedef {object} Side
 * @property {'left' | 'right'} side which
 * @property {number[][]} [curve]
 */
/** @param {string} other */
"""
    assert typedefs(script) == {"File": ["path", "url"], "Side": ["side", "curve"]}


def test_both_sides_know_the_same_types() -> None:
    # Answers are a part of Result, and files are described by Gradio.
    assert {*DEFINED} - {"File"} == {*TABLES} - {"Answers"}


@pytest.mark.parametrize("name", sorted({*TABLES} - {"Answers"}))
def test_fields_are_the_same_in_python_and_javascript(name: str) -> None:
    assert sorted(DEFINED[name]) == sorted(TABLES[name].__annotations__)


def test_a_result_has_what_answers_have() -> None:
    assert {*payload.Answers.__annotations__} < {*DEFINED["Result"]}
