"""Frames of videos that OpenCV has written here: which, how they stand, and what is refused."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mask2kan.errors import ImageError
from mask2kan.media import videos
from mask2kan.media.videos import count_frames, is_video, read_frames

HEIGHT, WIDTH, FRAMES, RATE = 48, 64, 30, 10
# Lossy codecs: a flat area of a frame keeps its value to within this.
TOLERANCE = 12


def write_video(path: Path, codec: str = "mp4v", frames: int = FRAMES) -> Path:
    """Frame n is red 8n on the left; blue at the top right, black below it."""
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), RATE, (WIDTH, HEIGHT)
    )
    for index in range(frames):
        frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        frame[:, : WIDTH // 2] = (0, 0, 8 * index)
        frame[: HEIGHT // 2, WIDTH // 2 :] = (240, 0, 0)
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "street.mp4")


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "mp4v"), ("avi", "MJPG"), ("webm", "VP80"), ("mkv", "MJPG")]
)
def test_frames_are_evenly_spaced_and_rgb(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_video(tmp_path / f"street.{suffix}", codec)
    assert is_video(path)
    assert count_frames(path, max_frames=5) == 5
    found = list(read_frames(path, max_frames=5))
    assert [round(seconds, 2) for seconds, _ in found] == [0.3, 0.9, 1.5, 2.1, 2.7]
    for seconds, frame in found:
        assert frame.shape == (HEIGHT, WIDTH, 3)
        assert frame.dtype == np.uint8
        red = 8 * round(seconds * RATE)
        np.testing.assert_allclose(frame[HEIGHT - 8, 8], (red, 0, 0), atol=TOLERANCE)
        np.testing.assert_allclose(frame[4, WIDTH - 8], (0, 0, 240), atol=TOLERANCE)


def test_a_short_video_is_given_whole(video: Path) -> None:
    assert count_frames(video) == FRAMES
    found = list(read_frames(video))
    assert [round(seconds * RATE) for seconds, _ in found] == list(range(FRAMES))


def _display_matrix(*values: int) -> bytes:
    a, b, c, d = (value << 16 for value in values)
    return struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)


def _turned(video: Path, matrix: tuple[int, ...]) -> Path:
    """The same video with another display matrix in its track header."""
    content = bytearray(video.read_bytes())
    # type, version and flags; two dates, number, reserved, length; reserved, layer, group, volume
    start = content.index(b"tkhd") + 4 + 4 + 20 + 16
    assert content[start : start + 36] == _display_matrix(1, 0, 0, 1)
    content[start : start + 36] = _display_matrix(*matrix)
    path = video.with_name("turned.mp4")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), 3), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)],
)
def test_rotation_metadata_is_honoured(video: Path, matrix: tuple[int, ...], turns: int) -> None:
    plain = [frame for _, frame in read_frames(video, max_frames=3)]
    turned = [frame for _, frame in read_frames(_turned(video, matrix), max_frames=3)]
    for before, after in zip(plain, turned, strict=True):
        np.testing.assert_array_equal(after, np.rot90(before, turns))


def test_a_video_that_does_not_say_its_length_is_counted(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As recordings of a browser."""

    class Silent:
        def __init__(self, *arguments: object) -> None:
            self._capture = opened(*arguments)

        def get(self, name: int) -> float:
            return -1.0 if name == cv2.CAP_PROP_FRAME_COUNT else self._capture.get(name)

        def __getattr__(self, name: str) -> object:
            return getattr(self._capture, name)

    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Silent)
    assert count_frames(video, max_frames=100) == FRAMES
    assert len(list(read_frames(video, max_frames=7))) == 7


def test_a_video_that_breaks_off_gives_what_there_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mkv", "MJPG")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = list(read_frames(path))
    assert 0 < len(found) < FRAMES


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"this is not a video", "not a video"),
        ("list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\nfile:///etc/passwd\n", "not a video"),
        ("files.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video"),
        ("box.mp4", b"\0\0\0\x18ftypisom" + bytes(400), "damaged"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for ask in (count_frames, lambda path: list(read_frames(path))):
        with pytest.raises(ImageError, match=said) as caught:
            ask(path)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        next(read_frames(tmp_path / "nothing.mp4"))


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "tiff", "avif"])
def test_a_image_is_no_video(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (16, 16)).save(path)
    assert not is_video(path)
    with pytest.raises(ImageError, match="not a video"):
        next(read_frames(path))


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("MAX_SECONDS", 2, "long"),
        ("MAX_FRAMES_INSIDE", FRAMES - 1, "frames"),
        ("MAX_FILE_BYTES", 100, "MB"),
        ("MAX_MEGAPIXELS", 0.001, "megapixels"),
    ],
)
def test_limits(
    video: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, said: str
) -> None:
    monkeypatch.setattr(videos, limit, value)
    with pytest.raises(ImageError, match=said):
        next(read_frames(video))


def test_the_file_is_closed_when_the_reader_stops_early(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = []

    class Watched:
        def __init__(self, *arguments: object) -> None:
            self._capture = opened(*arguments)

        def release(self) -> None:
            released.append(self)
            self._capture.release()

        def __getattr__(self, name: str) -> object:
            return getattr(self._capture, name)

    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Watched)
    frames = read_frames(video)
    next(frames)
    frames.close()
    assert len(released) == 2


@pytest.mark.parametrize(
    ("name", "content", "sibling"),
    [
        ("a%d.png", b"OggS", "a1.png"),  # a numbered series
        ("x.idx", b"OggS\n# VobSub index file, v7\n", "x.sub"),  # subtitles
    ],
)
def test_a_video_leads_to_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, sibling: str
) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "threads;1")
    (tmp_path / name).write_bytes(content)
    Image.new("RGB", (64, 48)).save(tmp_path / sibling, "PNG")
    with pytest.raises(ImageError):
        count_frames(tmp_path / name)
    assert os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] == "threads;1"


def test_a_name_with_a_colon_is_a_file(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.rename(video.with_name("drive:12:30.mp4"))
    monkeypatch.chdir(video.parent)
    assert len(list(read_frames("drive:12:30.mp4", max_frames=3))) == 3


def test_the_decoders_threads_are_bounded(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "THREADS", 3)
    with videos._opened(video) as capture:
        assert capture.get(cv2.CAP_PROP_N_THREADS) == 3


def test_frames_and_pixels_are_bounded_together_also_where_they_are_counted(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    megapixels = HEIGHT * WIDTH / 1e6
    for rate in (FRAMES, FRAMES - 1):
        monkeypatch.setattr(videos, "MAX_DECODED_MEGAPIXELS", rate * megapixels * 1.001)
        with videos._opened(video) as capture:
            assert videos._counted(capture, rate) == FRAMES
        if rate == FRAMES:
            assert count_frames(video) == FRAMES
        else:
            with pytest.raises(ImageError, match=r"more than 29 frames of 0\.0 megapixels"):
                count_frames(video)


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs")
def test_a_pipe_is_no_video_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert not is_video(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", tmp_path):
        with pytest.raises(ImageError, match="it is not a file"):
            count_frames(path)
