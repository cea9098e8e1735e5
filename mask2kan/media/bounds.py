"""Refuse image files that ask for far more time or memory than their pixels explain.

Pillow reads a file's comments, chunks and directories before anybody can ask how large the image
is, and decodes a few old formats in Python. Without bounds some kilobytes hold a core for a minute
or take all memory. Each rule counts, in the bytes alone and before Pillow sees them, something that
honest files have little of. What is malformed passes: Pillow says better what is wrong with it.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from mask2kan.media.directories import MAX_EXIF_BYTES, check_exif, check_tiff
from mask2kan.media.limits import Unfit, check_scans, check_size

MAX_SEGMENTS = 2_000  # of a JPEG; 10 MB of metadata take 160
MAX_PADDING = 65_536  # bytes between a JPEG's segments, or of a PPM's header
MAX_CHUNKS = 10_000  # of a PNG, and one more for each kilobyte of it
MAX_COMPRESSED_CHUNKS = 32  # of a PNG; each may unpack to a megabyte of text or colour profile
MAX_GIF_BLOCKS = 2_500  # of up to 255 bytes, before a GIF's first frame
MAX_SLOW_SAMPLES = 5_000_000  # decoded one by one in Python, in up to a microsecond each
MAX_PPM_COMMENTS = 1_000

_SCAN, _END, _EXIF, _MPF = 0xDA, 0xD9, 0xE1, 0xE2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, 0xC8, 0xD8, _END, *range(0xF0, 0xFE)})
# Neither a stuffed zero nor a restart marker: both stand inside of scans.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]")
# What else Pillow takes for a PPM; its decoder of most is written in Python.
_OTHER_PPM = re.compile(rb"P(?:0CMYK|yRGBA|yCMYK|(?:f|yP)\s)")


def check_bounds(file: BinaryIO, size: int) -> None:
    """Check a file of ``size`` bytes by the rules of its format, and go back to its beginning.

    Raises:
        Unfit: for the first rule that it breaks.
    """
    head = file.read(16)
    file.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        _check_jpeg(file)
    elif head.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(file, size)
    elif head.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(file)
    elif head.startswith((b"II", b"MM")):
        check_tiff(file, size)
    elif head.startswith(b"BM"):
        _check_bmp(file, size)
    elif head[:4] == b"RIFF" and head[8:] == b"WEBPVP8X":
        _check_webp(file)
    elif head[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
        _check_ppm(file, plain=head[:2] < b"P4")
    elif other := _OTHER_PPM.match(head):
        raise Unfit(f"it is a PPM of the kind {other[0].decode().strip()}, expected P1 to P6")
    file.seek(0)


def _check_jpeg(file: BinaryIO) -> None:
    """Walk the markers as libjpeg does, from one scan to the next until the image ends."""
    content = file.read()
    position = 2
    segments = scans = pixels = padding = 0
    exif = b""
    while marker := _MARKER.search(content, position):
        padding += 0 if scans else marker.start() - position
        position, kind = marker.end(), marker[1][0]
        if kind == _END and scans:
            break
        if kind not in _WITHOUT_LENGTH:
            length = max(2, int.from_bytes(content[position : position + 2], "big"))
            body = content[position + 2 : position + length]
            position += length
            segments += 1
            if kind == _SCAN:
                scans += 1
            elif kind in _FRAMES:
                height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
                pixels = max(pixels, height * width)
            elif kind == _EXIF and body[:6] == b"Exif\0\0" and len(exif) <= MAX_EXIF_BYTES:
                exif += body[6:]
            elif kind == _MPF and body[:4] == b"MPF\0":
                check_exif(body[4:])
        check_scans(scans, pixels)
        if segments > MAX_SEGMENTS:
            raise Unfit(f"it has more than {MAX_SEGMENTS:,} segments")
        if padding > MAX_PADDING:
            raise Unfit(f"it has more than {MAX_PADDING:,} bytes between its segments")
    check_exif(exif)


def _check_png(file: BinaryIO, size: int) -> None:
    most = MAX_CHUNKS + size // 1000
    position, chunks, compressed = 8, 0, 0
    while len(head := _at(file, position, 8)) == 8 and head[4:] != b"IEND":
        position += 12 + int.from_bytes(head[:4], "big")
        chunks += 1
        compressed += head[4:] in (b"zTXt", b"iTXt", b"iCCP")
        if chunks > most:
            raise Unfit(f"it has more than {most:,} chunks in {size:,} bytes")
        if compressed > MAX_COMPRESSED_CHUNKS:
            raise Unfit(f"it has more than {MAX_COMPRESSED_CHUNKS} texts and colour profiles")


def _check_gif(file: BinaryIO) -> None:
    """Count the blocks before the first frame; Pillow joins comments at ever greater length."""
    flags = file.read(13)[10:11]
    file.read(6 << (flags[0] & 7) if flags >= b"\x80" else 0)
    blocks = 0
    while blocks <= MAX_GIF_BLOCKS and (kind := file.read(1)) not in (b"", b",", b";"):
        blocks += 1
        if kind == b"!":
            label, block = file.read(1), _gif_block(file)
            if label == b"\xff" and block.startswith(b"NETSCAPE2.0"):
                _gif_block(file)
            # Of any but a comment Pillow reads on, even after an end.
            while blocks <= MAX_GIF_BLOCKS and (block or label != b"\xfe"):
                block = _gif_block(file)
                if not block:
                    break
                blocks += 1
    if blocks > MAX_GIF_BLOCKS:
        raise Unfit(f"it has more than {MAX_GIF_BLOCKS:,} blocks before its first frame")


def _gif_block(file: BinaryIO) -> bytes:
    length = file.read(1)
    return file.read(length[0]) if length else b""


def _check_bmp(file: BinaryIO, size: int) -> None:
    """Bound images of run lengths, which are decoded in Python."""
    head = file.read(34)
    width = int.from_bytes(head[18:22], "little")
    height = abs(int.from_bytes(head[22:26], "little", signed=True))
    if int.from_bytes(head[14:18], "little") >= 40 and head[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        _check_slow(width * height, 1, "run lengths")
        if size > 4 * width * height + 100_000:
            raise Unfit(f"it has {size:,} bytes of run lengths for {width} × {height} pixels")


def _check_webp(file: BinaryIO) -> None:
    """Bound the canvas of an animation, which is made before anybody can ask for its size."""
    head = file.read(30)
    if len(head) == 30:
        check_size(*(int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27)))


def _check_ppm(file: BinaryIO, *, plain: bool) -> None:
    """Bound text, and values up to another largest than a byte's: decoded in Python, too."""
    head = file.read(MAX_PADDING)
    kind, *words = _COMMENT.sub(b"", head).split(None, 4)[:4]
    try:
        width, height = int(words[0]), int(words[1])
        bits = kind in (b"P1", b"P4")
        largest = 1 if bits else int(words[2])
    except (IndexError, ValueError):
        if len(head) == MAX_PADDING:
            raise Unfit(f"its header has more than {MAX_PADDING:,} bytes, or none") from None
        return
    samples = 3 if kind in (b"P3", b"P6") else 1
    if plain:
        _check_slow(width * height, samples, "text")
        file.seek(0)
        if file.read().count(b"#") > MAX_PPM_COMMENTS:
            raise Unfit(f"it has more than {MAX_PPM_COMMENTS:,} comments")
    elif not bits and largest != 255 and (kind, largest) != (b"P5", 65_535):
        wide_gray = kind == b"P5" and largest > 255  # takes twice as long
        _check_slow(width * height, 2 if wide_gray else samples, f"numbers up to {largest}")


def _check_slow(pixels: int, samples: int, stored_as: str) -> None:
    if pixels * samples > MAX_SLOW_SAMPLES:
        most = MAX_SLOW_SAMPLES / samples / 1e6
        raise Unfit(
            f"its {pixels / 1e6:.1f} megapixels are stored as {stored_as}, of which at most "
            f"{most:.1f} fit"
        )


def _at(file: BinaryIO, position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)
