"""Make playable films of a video's frames as they were drawn.

VP8 in WebM: of what OpenCV's wheels can write, the format that browsers play and that is written
fastest (VP9 takes four times as long; MPEG-4 part 2 does not play, H.264 is not in the wheels).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mask2kan.media.images import RGB

logger = logging.getLogger(__name__)

SUFFIX = ".webm"
SLOWEST, FASTEST = 4.0, 30.0  # frames a second


def rate_of(seconds: Sequence[float]) -> float:
    """Return the frames per second with which a film of these moments takes as long as they did.

    Never below ``SLOWEST``: a minute's sixty frames are then a film of fifteen seconds.
    """
    span = seconds[-1] - seconds[0]
    rate = (len(seconds) - 1) / span if span > 0 else SLOWEST
    return min(FASTEST, max(SLOWEST, rate))


def write_film(frames: Sequence[Path], rate: float, target: Path) -> bool:
    """Write picture files of one size as a film, or nothing where OpenCV has no VP8.

    FFmpeg mentions on the error stream that WebM has no tag of that name; it needs none.

    Returns:
        Whether there is a film.
    """
    height, width = (side - side % 2 for side in _read(frames[0]).shape[:2])  # VP8 halves colours
    writer = cv2.VideoWriter(
        str(target), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"VP80"), rate, (width, height)
    )
    try:
        if not writer.isOpened():
            logger.warning("OpenCV can write no VP8 here, so a video has no film.")
            return False
        for path in frames:
            writer.write(np.ascontiguousarray(_read(path)[:height, :width]))
    finally:
        writer.release()
    return target.is_file()


def _read(path: Path) -> RGB:
    """Read a picture of ours, in OpenCV's order of colours."""
    return np.asarray(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR), np.uint8)
