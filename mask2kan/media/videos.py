"""Read frames of a short video from a stranger as images, or raise an ``ImageError``.

Only regular files that begin like a video reach the decoder, which may read them as nothing else:
FFmpeg would also follow play lists, numbered series and subtitles to other files and addresses.
Nothing is sought, since where a seek lands depends on the format and encoder; so all frames up to
the last one wanted are decoded, and their number and size are bounded together. What the header
says of both may be wrong: frames are counted and measured as they come. A stream can still hold
frames larger than it says, of which OpenCV tells nothing; a server reads videos in a process of
limited memory and time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mask2kan.errors import ImageError
from mask2kan.media.files import NotRegularError, open_regular
from mask2kan.media.images import RGB
from mask2kan.media.limits import MAX_MEGAPIXELS

MAX_SECONDS = 300
MAX_FRAMES_INSIDE = 18_000  # five minutes at 60 a second
MAX_DECODED_MEGAPIXELS = 80_000  # five minutes of 4K at 30 a second
MAX_FILE_BYTES = 500_000_000
MAX_STREAMS = 100  # films bring sound, subtitles and their fonts; each takes memory of its own
THREADS = 2  # of the decoder; each keeps frames of its own
SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ogv", ".mpg", ".mpeg", ".ts")

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # MP4 and QuickTime begin so
_STILL_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
_STARTS = (b"\x1a\x45\xdf\xa3", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
_TRANSPORT_PACKET = 188
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_READERS = "mov,matroska,webm,avi,ogg,mpeg,mpegts,mpegvideo"
_opening = threading.Lock()


def is_video(path: str | Path) -> bool:
    """Whether a regular file begins like MP4, QuickTime, AVI, Matroska, WebM, Ogg or MPEG."""
    try:
        with open_regular(path) as file:
            return _begins_like_a_video(file.read(_TRANSPORT_PACKET + 1))
    except (OSError, ValueError):
        return False


def _begins_like_a_video(head: bytes) -> bool:
    if head[4:8] in _BOXES:
        return head[8:12] not in _STILL_BRANDS
    if head.startswith(b"RIFF"):
        return head[8:12] == b"AVI "
    transport = len(head) > _TRANSPORT_PACKET and head[0] == head[_TRANSPORT_PACKET] == 0x47
    return transport or head.startswith(_STARTS)


def count_frames(path: str | Path, *, max_frames: int = 60) -> int:
    """Count the frames that ``read_frames`` yields, where the video's header is right.

    Raises:
        ImageError: as ``read_frames``.
    """
    return min(_checked_count(Path(path)), max_frames)


def read_frames(path: str | Path, *, max_frames: int = 60) -> Iterator[tuple[float, RGB]]:
    """Yield up to ``max_frames`` evenly spaced frames.

    Yields:
        Seconds since the beginning, and (H, W, 3) uint8 RGB, upright; fewer than ``count_frames``
        where the video breaks off.

    Raises:
        ImageError: at the first frame, for no video or one beyond the limits.
    """
    path = Path(path)
    total = _checked_count(path)
    count = min(total, max_frames)
    middles = {int((place + 0.5) * total / count) for place in range(count)}
    empty = True
    with _opened(path) as capture:
        rate = _rate(capture)
        for index in range(total):
            if not capture.grab():
                break
            if index in middles:
                # before the frame is taken out; after it, the time is the next one's
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                decoded, frame = capture.retrieve()
                if not decoded:
                    break
                _megapixels(frame.shape[1], frame.shape[0])
                empty = False
                rgb = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
                yield seconds if seconds > 0 else index / rate, rgb
    if empty:
        raise _refusal("it has no frame that can be decoded")


def _refusal(reason: str) -> ImageError:
    return ImageError(
        f"Can't read this video: {reason}. Use MP4, WebM, MOV or AVI of at most "
        f"{MAX_SECONDS // 60} minutes and {MAX_FILE_BYTES // 10**6} MB."
    )


def _checked_count(path: Path) -> int:
    """Count the frames, once all limits are checked."""
    _check_file(path)
    with _opened(path) as capture:
        megapixels = _megapixels(
            capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        )
        most = min(MAX_FRAMES_INSIDE, int(MAX_DECODED_MEGAPIXELS / megapixels))
        stated, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), _rate(capture)
        # a browser's recordings do not state their length
        count = int(stated) if 0 < stated < np.inf else _counted(capture, most)
    if count > most:
        size = f" of {megapixels:.1f} megapixels" if most < MAX_FRAMES_INSIDE else ""
        raise _refusal(f"it has more than {most:,} frames{size}")
    if count / rate > MAX_SECONDS:
        raise _refusal(f"it is {count / rate / 60:.0f} minutes long")
    if count == 0:
        raise _refusal("it has no frame that can be decoded")
    return count


def _check_file(path: Path) -> None:
    try:
        with open_regular(path) as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(_TRANSPORT_PACKET + 1)
    except NotRegularError as error:
        raise _refusal("it is not a file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        missing = isinstance(error, FileNotFoundError)
        raise _refusal("there is no such file" if missing else reason or str(error)) from error
    if size == 0:
        raise _refusal("the file is empty")
    if size > MAX_FILE_BYTES:
        raise _refusal(f"the file has {size / 1e6:.0f} MB")
    if not _begins_like_a_video(head):
        raise _refusal("it is not a video in a known format")


def _megapixels(width: float, height: float) -> float:
    """Check a frame's size, and return its megapixels."""
    if not (width >= 1 and height >= 1):
        raise _refusal(f"its frames are {width:.0f} × {height:.0f} pixels")
    megapixels = width * height / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise _refusal(f"its frames have {megapixels:.1f} megapixels, at most {MAX_MEGAPIXELS} fit")
    return megapixels


def _counted(capture: Any, most: int) -> int:
    count = 0
    while count <= most and capture.grab():
        count += 1
    return count


def _rate(capture: Any) -> float:
    """Frames per second; 25 where the video does not say."""
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate <= 1000 else 25.0


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # FFmpeg's readers of video files only: it would take a name with a % for a series of files.
    # OpenCV passes the list on through this variable alone, which is set while a file is opened.
    with _opening:
        before = os.environ.get(_OPTIONS)
        os.environ[_OPTIONS] = (
            f"format_whitelist;{_READERS}|protocol_whitelist;file|max_streams;{MAX_STREAMS}"
        )
        try:
            # absolute, or FFmpeg takes what stands before a colon for a protocol
            bounded = [cv2.CAP_PROP_N_THREADS, THREADS]
            capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, bounded)
        finally:
            if before is None:
                del os.environ[_OPTIONS]
            else:
                os.environ[_OPTIONS] = before
    try:
        if not capture.isOpened():
            raise _refusal("it is damaged, or encoded in an unknown way")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    except cv2.error as error:
        raise _refusal("it is damaged") from error
    finally:
        capture.release()
