"""Read what the browser or an API client sent as an RGB picture or a ground truth mask.

Gradio's own image preprocessing is off: it decodes animations to palette indices, saturates 16-bit
pictures and hides why it fails. Requests may name any path: ``stored`` decides what is opened.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mask2kan.errors import ImageError, printable
from mask2kan.media.files import open_regular
from mask2kan.media.images import read_image, read_mask
from mask2kan.outputs.names import fit_stem

from .kept import upload_folder
from .samples import example_files

_LONGEST_SENT = 255  # characters of a name, as it is kept
_LONGEST_NAME = 60  # characters: file systems take 255 bytes, of which one has up to four
_NOT_HERE = (
    "The picture did not arrive, or is no longer kept here: upload it again, or choose an example."
)


def stored(payload: object) -> Path:
    """Resolve an upload to a regular file in Gradio's upload folder or among the examples.

    A path is judged by its text first: looking whether another one exists could already ask a
    machine of somebody's choice for it, and would tell strangers which files there are.

    Raises:
        ImageError: when there is no picture; for every other path in the same words, whether or not
            there is such a file.
    """
    if not payload:
        raise ImageError("No picture was given: upload one, paste one or choose an example.")
    path = payload.get("path") if isinstance(payload, Mapping) else None
    if not isinstance(path, str) or not path:
        raise ImageError("The picture was not sent as a file: upload a JPEG, PNG or WebP file.")
    absolute, folder = _absolute(path), _absolute(str(upload_folder()))
    examples = example_files()
    if "\0" not in path and (absolute in examples or _inside(absolute, folder, folder.resolve())):
        # RuntimeError for links in a circle, ValueError for what no file system can name.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            real = absolute.resolve(strict=True)
            allowed = absolute in examples or _inside(real, folder.resolve())
            if allowed and stat.S_ISREG(real.stat().st_mode):
                return real
    raise ImageError(_NOT_HERE)


def name_of(payload: Mapping[str, Any] | None) -> str:
    """Return what the visitor calls an uploaded file, fit to name others by."""
    fields = payload or {}
    name = Path(str(fields.get("orig_name") or fields.get("path") or "picture")).name
    return printable(name)[-_LONGEST_NAME:] or "picture"


def safe_stem(name: str) -> str:
    """Return a file's name without its suffix, fit to name files by on any system."""
    stem = re.sub(r"\.\w{2,5}$", "", name)
    stem = re.sub(r"[^\w.-]+", "_", stem).strip("._")[:_LONGEST_NAME]
    return fit_stem(stem, "picture", 4 * _LONGEST_NAME)


def read_upload(payload: Mapping[str, Any] | None) -> NDArray[np.uint8]:
    """Read the (H, W, 3) RGB picture behind an image component's raw value.

    Raises:
        ImageError: when there is no picture, or it cannot be read or is too large.
    """
    return read_image(_content(stored(payload)))


def given(path: object, name: object) -> dict[str, str]:
    """Check a picture that a component of ours says it has uploaded; keep the end of its name.

    Raises:
        ImageError: as ``stored``.
    """
    return {
        "path": str(stored({"path": path})),
        "orig_name": Path(str(name or "")).name[-_LONGEST_SENT:],
    }


def read_truth(
    payload: Mapping[str, Any], size: tuple[int, int], *, white_is_anomaly: bool = False
) -> NDArray[np.uint8]:
    """Read a ground truth mask, (H, W): 0 known, 1 anomaly, 255 void.

    Args:
        payload: a component's raw value.
        size: (H, W) of the picture it belongs to.
        white_is_anomaly: 255 means "anomaly" instead of "void".

    Raises:
        ImageError: when it is no mask, has another size, or values that mean nothing.
    """
    return read_mask(_content(stored(payload)), size, white_is_anomaly=white_is_anomaly)


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:  # cleaned up, or replaced, this moment
        raise ImageError(_NOT_HERE) from error


def _absolute(path: str) -> Path:
    """Make absolute by the text alone, ``..`` too."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (pathlib looks at the disk for ``..``)


def _inside(path: Path, *folders: Path) -> bool:
    return any(folder in path.parents for folder in folders)
