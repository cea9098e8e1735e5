"""From what the browser or an API client sent to an RGB picture.

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
from numpy.typing import NDArray

from mask2kan.errors import PictureError
from mask2kan.pictures import read_picture


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
    path = payload.get("path")
    if not isinstance(path, str) or not path:
        raise PictureError("The picture was not sent as a file: upload a JPEG, PNG or WebP file.")
    return read_picture(Path(path).read_bytes())
