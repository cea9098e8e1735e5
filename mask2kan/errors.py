"""Errors a user of Mask2KAN can cause.

Every message is one line: what failed, what was found, what was expected and what to do; the
command line and the app show it as it is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

# Control characters, which move a terminal's cursor; line ends; signs that turn the direction of
# what follows or are invisible; halves of characters.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069"
    "\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb\\U000e0000-\\U000e007f]"
)


class Mask2KANError(Exception):
    """Base of all errors of this package."""


class ConfigError(Mask2KANError):
    """An unknown name, or a value that does not fit."""


class CheckpointError(Mask2KANError):
    """A missing, damaged or unsafe checkpoint, or one of another architecture.

    Its message quotes what strangers wrote, so it is put on one line and cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(plain_line(message))


class WriteError(Mask2KANError):
    """A file that cannot be written."""


class ImageError(Mask2KANError):
    """An image or video that cannot be read, or is too large."""


class NumericsError(Mask2KANError):
    """Numbers that are not finite."""


class BackendError(Mask2KANError):
    """A device, backend or package that this machine does not have."""


class OutOfMemoryError(Mask2KANError):
    """The device has not enough memory for this image and model."""


def printable(text: str) -> str:
    """Leave out what is no text: names from strangers reach terminals, logs and pages."""
    return _UNPRINTABLE.sub("", text)


def shortened(value: object) -> str:
    """Shorten a value for a message: a request may hold megabytes in place of a name."""
    return _shortened(str, value)


def shown(value: object) -> str:
    """Do the same with a value as Python writes it, text in quotes."""
    return _shortened(repr, value)


def _shortened(form: Callable[[object], str], value: object) -> str:
    try:
        text = printable(form(value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a number too long to write"
    return text if len(text) <= 120 else f"{text[:120]}…"


def plain_line(text: str, most: int = 2000) -> str:
    """Put a stranger's text on one line: what cannot be printed is a space, the rest is cut."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * most])
    shown = " ".join(shown.split())
    return shown if len(shown) <= most else f"{shown[:most]}…"


def one_line(error: BaseException) -> str:
    """Shorten an error's message to one line of at most 120 characters; its type without one."""
    return plain_line(str(error))[:120] or type(error).__name__


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """Say that a name (of a ``kind`` such as "model") is unknown; list the nearest and all."""
    names, name = sorted(choices), shortened(name)
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"Nearest: {', '.join(nearest)}. " if nearest else ""
    return f"Unknown {kind} {name!r}. {hint}Known: {', '.join(names)}."
