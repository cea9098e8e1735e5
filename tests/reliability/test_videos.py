"""Hostile videos: one sentence, or frames."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.bombs import jpeg
from tests.reliability.decoding import decoded, keep, worst, written
from tests.reliability.mutations import Mutation, turned_off

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures by Linux's own figures")

SECONDS, MEGABYTES = 2, 200


def _avi(frames: list[bytes], size: tuple[int, int], streams: int = 1, count: int = 0) -> bytes:
    """Motion JPEG with a header that says what it likes."""

    def part(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    width, height, count = *size, count or len(frames)
    main = struct.pack("<14I", 100_000, 0, 0, 0x10, count, 0, streams, 0, width, height, *[0] * 4)
    rate = struct.pack("<IHHIIIIIIII4H", 0, 0, 0, 0, 1, 10, 0, count, 0, 0, 0, 0, 0, 0, 0)
    form = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", *[0] * 5)
    stream = part(b"LIST", b"strl" + part(b"strh", b"vidsMJPG" + rate) + part(b"strf", form))
    head = part(b"LIST", b"hdrl" + part(b"avih", main) + stream * streams)
    return part(
        b"RIFF",
        b"AVI "
        + head
        + part(b"LIST", b"movi" + b"".join(part(b"00dc", frame) for frame in frames)),
    )


@pytest.mark.row("hostile video", limit="a sentence or frames, each in < 2 s and < 200 MB")
def test_hostile_videos(
    tmp_path: Path, figure: Callable[[str], None], save_failure: Callable[[str, bytes], Path]
) -> None:
    frame, large = jpeg(640, 480), jpeg(6_000, 5_000)
    refused = {
        "empty.avi": (b"", "is empty"),
        "text.mp4": (b"not a video", "not a video"),
        "streams.avi": (_avi([frame] * 10, (640, 480), streams=900), "damaged"),
        "states_frames.avi": (_avi([frame] * 10, (640, 480), count=10**9), "18,000 frames"),
        "states_minutes.avi": (_avi([frame] * 10, (640, 480), count=17_000), "minutes long"),
        "endless.avi": (_avi([b""] * 100_000, (640, 480)), "18,000 frames"),
        "junk.avi": (_avi([b"abc"] * 100_000, (640, 480)), "18,000 frames"),
        "48_mp.avi": (_avi([jpeg(8_000, 6_000)] * 2, (640, 480)), "48.0 megapixels"),
        "2500_of_40_mp.avi": (
            _avi([jpeg(7_990, 5_000)] * 2, (640, 480), count=2_500),
            "2,002 frames of 40.0 megapixels",
        ),
    }
    read = {
        "good.avi": _avi([frame] * 10, (640, 480)),
        "states_0.avi": _avi([frame] * 10, (0, 0)),
        "states_3600_mp.avi": _avi([frame] * 10, (60_000, 60_000)),
        "shrinks.avi": _avi([frame] * 5 + [jpeg(64, 48)] * 5, (640, 480)),
        "grows.avi": _avi([frame] * 5 + [large] * 5, (640, 480)),
    }
    reasons = {name: reason for name, (_, reason) in refused.items()}
    contents = {name: content for name, (content, _) in refused.items()}
    paths = written(tmp_path, {**contents, **read})
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    special = dict.fromkeys(("pipe.mp4", "zero.mp4", "folder.mp4"), "not a file")
    reasons |= {**special, "absent.mp4": "no such file"}
    specials = [tmp_path / name for name in (*special, "absent.mp4")]
    answers = decoded([*specials, *paths], "video", patience=20)
    faults = [
        one
        for one in answers
        if not (one.read if one.name in read else one.refused)
        or reasons.get(one.name, "") not in one.said
        or one.cpu > SECONDS
        or one.megabytes > MEGABYTES
    ]
    figure(f"{len(answers) - len(faults)} of {len(answers)} as they should, {worst(answers)}")
    kept = [one for one in faults if (tmp_path / one.name).is_file()]
    assert not [*keep(kept, tmp_path, save_failure), *(one.said for one in faults)]


VIDEOS, FILES = "mask2kan.media.videos", "mask2kan.media.files"
MUTATIONS = [
    turned_off("a video's frames are counted", VIDEOS, "count > most", "test_hostile"),
    turned_off("a video's length is limited", VIDEOS, "count / rate > MAX_SECONDS", "test_hostile"),
    turned_off(
        "a video's frames are measured", VIDEOS, "megapixels > MAX_MEGAPIXELS", "test_hostile"
    ),
    Mutation(
        "a video's frames and pixels are limited together",
        "test_hostile",
        VIDEOS,
        "min(MAX_FRAMES_INSIDE, int(MAX_DECODED_MEGAPIXELS / megapixels))",
        "MAX_FRAMES_INSIDE",
    ),
    Mutation(
        "a video's streams are limited", "test_hostile", VIDEOS, "|max_streams;{MAX_STREAMS}", ""
    ),
    turned_off(
        "only regular files are opened", FILES, "not stat.S_ISREG(status.st_mode):", "test_hostile"
    ),
]
