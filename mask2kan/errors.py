"""Errors a user of Mask2KAN can cause, one small class per kind.

Every message is one line that says what failed, what was found, what was expected and what
to do; the command line and the app show it as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Mask2KANError(Exception):
    """Base of every error this package raises for input it cannot use."""


class ConfigError(Mask2KANError):
    """A model name, option or value that does not exist or does not fit the others."""


class CheckpointError(Mask2KANError):
    """A checkpoint that is missing, damaged, unsafe or of another architecture."""


class WriteError(Mask2KANError):
    """A file that cannot be written: a full disk, a folder without permission."""


class ImageError(Mask2KANError):
    """An image that cannot be read, or is too large."""


class NumericsError(Mask2KANError):
    """Non-finite numbers where the result would be meaningless."""


class BackendError(Mask2KANError):
    """An operator backend was asked for that this machine does not have."""


class OutOfMemoryError(Mask2KANError):
    """The device has not enough memory for this image and model."""


def shortened(value: object) -> str:
    """A value as a message repeats it: a request may hold megabytes in place of a name."""
    text = str(value)
    return text if len(text) <= 120 else f"{text[:120]}…"


def unknown(kind: str, found: str, known: Iterable[str]) -> str:
    """Message for an unknown name: what was found, the nearest names, and all of them.

    Args:
        kind: what the name stands for, e.g. ``"model"``.
        found: the name as the user wrote it.
        known: every name that would have been right.
    """
    names = sorted(known)
    found = shortened(found)
    nearest = difflib.get_close_matches(found, names, n=3, cutoff=0.4)
    hint = f"Nearest: {', '.join(nearest)}. " if nearest else ""
    return f"Unknown {kind} {found!r}. {hint}Known: {', '.join(names)}."
