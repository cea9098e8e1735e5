"""Texts of the command line and values of a file, converted to the type a field declares."""

from __future__ import annotations

import ast
from typing import Any, get_args, get_origin

from mask2kan.errors import ConfigError, shortened

UNSET = ("none", "null", "~")
_BRACKETS = ("()", "[]")


def is_unset(value: Any) -> bool:
    """Whether a value says that a field be left to its default."""
    return value is None or (isinstance(value, str) and value.strip().lower() in UNSET)


def converted(key: str, declared: Any, value: Any, example: Any) -> Any:
    """Convert a value to a declared type: ``bool``, ``int``, ``float``, ``str``, a tuple of these.

    Tuples are also written as people type them: ``a,b``, ``[a, b]`` or, for a single one, ``a``.

    Args:
        key: the field, for the message.
        declared: the field's type.
        value: a text, or what a file holds.
        example: a value that fits, for the message.

    Raises:
        ConfigError: for a value of another type.
    """
    try:
        return _convert(declared, value)
    except (ValueError, TypeError) as error:
        shown = f"{key} is {shortened(repr(value))}"
        if get_origin(declared) is tuple:
            form = f"the form of {example!r}" if example else "values with commas between them"
            raise ConfigError(f"{shown}; expected {form}.") from error
        kind = getattr(declared, "__name__", str(declared))
        raise ConfigError(f"{shown}; expected {kind}, such as {example!r}.") from error


def _convert(declared: Any, value: Any) -> Any:
    """Convert one value.

    Raises:
        ValueError, TypeError: when it is of another type.
    """
    if get_origin(declared) is tuple:
        kind = get_args(declared)[0]
        return tuple(_convert(kind, item) for item in _items(value))
    if isinstance(value, str):
        value = _unquoted(value)
    if declared is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if declared is bool or not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise TypeError
    if declared is int and isinstance(value, float):
        raise TypeError
    return declared(value) if declared in (int, float) else str(value)


def _items(value: Any) -> list[Any]:
    """Split what stands for several values."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, str):
        return [value]
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        text = value.strip()
        if text[:1] + text[-1:] in _BRACKETS:
            text = text[1:-1]
        return [item.strip() for item in text.split(",") if item.strip()]
    return list(literal) if isinstance(literal, (list, tuple)) else [literal]


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text
