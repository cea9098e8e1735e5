"""From what the browser or an API client sent to an RGB picture or a ground truth mask.

Gradio's own image preprocessing is switched off for every event: it decodes animations to palette
indices, saturates 16-bit pictures and hides the reason when it fails. What arrives here is the
uploaded file itself, which ``mask2kan.pictures`` decodes. Gradio has checked before that the path
lies in its upload folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gradio.utils import get_upload_folder
from numpy.typing import NDArray
from PIL import Image

from mask2kan.errors import PictureError
from mask2kan.pictures import read_picture

_EXPECTED = "0 for known, 1 for anomaly and 255 for void"
_MASK_MODES = ("1", "L", "P", "RGB", "RGBA")


def read_upload(payload: Mapping[str, Any] | None) -> NDArray[np.uint8]:
    """The picture behind an image component's raw value.

    Args:
        payload: Gradio's description of an uploaded file (``path`` is its place on disk).

    Returns:
        (H, W, 3) RGB.

    Raises:
        PictureError: when there is no picture, or it cannot be read or is too large.
    """
    if not payload:
        raise PictureError("No picture was given: upload one, paste one or choose an example.")
    return read_picture(_path(payload).read_bytes())


def given(event: object) -> dict[str, str]:
    """The picture that a component of ours says it has uploaded.

    What a browser says is not to be trusted: only files in the upload folder are taken.

    Raises:
        PictureError: for any other path.
    """
    said = event if isinstance(event, Mapping) else {}
    path, folder = Path(str(said.get("path", ""))), Path(get_upload_folder()).resolve()
    if not path.is_file() or folder not in path.resolve().parents:
        raise PictureError("The picture did not arrive: try again, or use the upload field.")
    return {"path": str(path), "orig_name": Path(str(said.get("name", path.name))).name}


def read_truth(
    payload: Mapping[str, Any], size: tuple[int, int], *, white_is_anomaly: bool = False
) -> NDArray[np.uint8]:
    """The ground truth mask behind a component's raw value.

    Args:
        payload: as for ``read_upload``.
        size: (H, W) of the picture it belongs to.
        white_is_anomaly: 255 means "anomaly", as in black and white masks, instead of "void".

    Returns:
        (H, W): 0 known, 1 anomaly, 255 void.

    Raises:
        PictureError: when it is no mask, has another size, or values that mean nothing.
    """
    try:
        with Image.open(_path(payload)) as opened:
            _check_mask(opened, size)
            # The indices of a palette, the first of equal channels; 1-bit masks are 0 and 255.
            values = np.asarray(opened.convert("L") if opened.mode == "1" else opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError("Can't read the ground truth: it is no picture file.") from error
    if values.ndim == 3:
        values = values[..., 0]
    labels = values.astype(np.uint8)
    if white_is_anomaly:
        labels = np.where(labels == 255, 1, labels).astype(np.uint8)
    unknown = sorted(set(np.unique(labels).tolist()) - {0, 1, 255})
    if unknown:
        raise PictureError(
            f"The ground truth has the values {', '.join(map(str, unknown[:6]))}; it needs "
            f"{_EXPECTED}."
        )
    return labels


def _check_mask(opened: Image.Image, size: tuple[int, int]) -> None:
    if opened.size != size[::-1]:
        raise PictureError(
            f"The ground truth has {opened.width}×{opened.height} pixels, the picture "
            f"{size[1]}×{size[0]}: they must be equal."
        )
    if opened.mode not in _MASK_MODES:
        raise PictureError(f"The ground truth is no 8-bit mask: it needs {_EXPECTED}.")


def _path(payload: Mapping[str, Any]) -> Path:
    path = payload.get("path")
    if not isinstance(path, str) or not path:
        raise PictureError("The picture was not sent as a file: upload a JPEG, PNG or WebP file.")
    return Path(path)
