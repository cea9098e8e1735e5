"""Malformed pictures, bombs, odd modes and hostile videos: one sentence or the right pixels.

Decoding happens in children of limited memory, since unguarded code takes all there is.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2kan.media.images import read_image
from tests.reliability.bombs import bombs, encoded, harmless, jpeg, segment, with_scans
from tests.reliability.decoding import Decoded, decoded
from tests.reliability.mutations import Mutation
from tests.serving import EXAMPLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures by Linux's own figures")

SECONDS, MEGABYTES = 0.1, 50
# Their EXIF data, behind the pixels for Pillow, are never asked for: masks are read as they are.
NO_MASK_BOMBS = ("exif.png", "exif_as_text.png", "exif.webp", "2_mb.png")
MUTANT_SECONDS = 2

Save = Callable[[str, bytes], Path]


def _written(folder: Path, files: dict[str, bytes]) -> list[Path]:
    paths = []
    for name, content in files.items():
        path = folder / name
        path.write_bytes(content)
        paths.append(path)
    return paths


def _worst(answers: list[Decoded]) -> str:
    cpu, memory = (max(answers, key=lambda one: one[place]) for place in (1, 3))
    return (
        f"at most {cpu.cpu * 1e3:.0f} ms ({cpu.name}) and {memory.megabytes:.0f} MB ({memory.name})"
    )


def _keep(faults: list[Decoded], folder: Path, save: Save) -> list[str]:
    """Save the files at fault, and say what was wrong with each."""
    for fault in faults:
        save(fault.name, (folder / fault.name).read_bytes())
    return [
        f"{fault.name}: {fault.cpu:.2f} s, {fault.megabytes:.0f} MB, {fault.said}"
        for fault in faults
    ]


@pytest.mark.row(
    "bomb", limit=f"all refused, each in < {SECONDS * 1e3:.0f} ms and < {MEGABYTES} MB"
)
@pytest.mark.parametrize("kind", ["picture", "mask"])
def test_bombs(
    kind: str, tmp_path: Path, figure: Callable[[str], None], save_failure: Save
) -> None:
    all_bombs = bombs()
    for some in all_bombs.values():
        for name in NO_MASK_BOMBS if kind == "mask" else ():
            some.pop(name, None)
    reasons = {name: reason for reason, some in all_bombs.items() for name in some}
    files = {name: one for some in all_bombs.values() for name, one in some.items()}
    answers = decoded(_written(tmp_path, files), kind)
    faults = [
        one
        for one in answers
        if not (one.refused and reasons[one.name] in one.said)
        or one.cpu > SECONDS
        or one.megabytes > MEGABYTES
    ]
    refused = f"{len(answers) - len(faults)} of {len(answers)}"
    figure(f"as {kind}: {refused} refused, {_worst(answers)}")
    assert not _keep(faults, tmp_path, save_failure)


@pytest.mark.row("bomb's honest neighbour", limit="all read, in the same time and memory")
def test_what_is_only_odd_is_read(
    tmp_path: Path, figure: Callable[[str], None], save_failure: Save
) -> None:
    answers = decoded(_written(tmp_path, harmless()))
    faults = [
        one for one in answers if not one.read or one.cpu > SECONDS or one.megabytes > MEGABYTES
    ]
    figure(f"{len(answers) - len(faults)} of {len(answers)} read, {_worst(answers)}")
    assert not _keep(faults, tmp_path, save_failure)


@pytest.mark.row("many scans", limit=f"800, 3,000 and 10,000 refused in < {SECONDS * 1e3:.0f} ms")
def test_many_scans(tmp_path: Path, figure: Callable[[str], None], save_failure: Save) -> None:
    restarts = jpeg(512, 512, restart_marker_blocks=1)
    thumbnail = b"Exif\0\0" + with_scans(150, 16, 16)  # in a segment, which is no scan
    honest = {
        "progressive.jpg": jpeg(512, 512, progressive=True),
        "cmyk.jpg": encoded(Image.new("CMYK", (512, 512), (3, 90, 5, 9)), "JPEG", progressive=True),
        "restarts.jpg": restarts,
        "thumbnail.jpg": restarts[:2] + segment(0xE1, thumbnail) + restarts[2:],
        "behind.jpg": restarts + segment(0xDA, b"") * 500,
    }
    honest["scans_100.jpg"] = with_scans(100, 64, 64, restart_marker_blocks=1)
    many = {f"scans_{count}.jpg": with_scans(count) for count in (800, 3_000, 10_000)}
    many["scans_101.jpg"] = with_scans(101, 64, 64, restart_marker_blocks=1)
    many["scans_60_of_40_mp.jpg"] = with_scans(60, 8_000, 5_000)
    answers = decoded(_written(tmp_path, {**many, **honest}))
    faults = [
        one
        for one in answers
        if not (one.refused and "scans" in one.said if one.name in many else one.read)
        or (one.name in many and (one.cpu > SECONDS or one.megabytes > MEGABYTES))
    ]
    figure(f"{len(many)} refused, {_worst(answers[: len(many)])}; {len(honest)} honest ones read")
    assert not _keep(faults, tmp_path, save_failure)


def _originals(pixels: np.ndarray) -> dict[str, bytes]:
    """A small picture in every format and several ways of each."""
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    gray16 = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(pixels[..., 1]))
    turned = [image, image.rotate(90)]
    ways: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("jpg", image, {"exif": exif}),
        ("jpg", image, {"progressive": True}),
        ("jpg", image.convert("CMYK"), {}),
        ("png", image, {"exif": exif}),
        ("png", alpha, {}),
        ("png", gray16, {}),
        ("png", image.quantize(50), {"transparency": 3}),
        ("png", image, {"save_all": True, "append_images": turned}),
        ("webp", image, {"exif": exif}),
        ("webp", alpha, {"lossless": True}),
        ("webp", image, {"save_all": True, "append_images": turned}),
        ("gif", image.quantize(50), {"comment": b"x" * 300}),
        ("gif", image, {"save_all": True, "append_images": turned}),
        ("bmp", image, {}),
        ("bmp", image.quantize(50), {}),
        ("ppm", image, {}),
        *(
            ("tiff", image, {"exif": exif, "compression": way})
            for way in (None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits")
        ),
        ("tiff", gray16, {}),
    ]
    kinds = {"jpg": "JPEG"}
    files = {
        f"{number}.{suffix}": encoded(one, kinds.get(suffix, suffix.upper()), **options)
        for number, (suffix, one, options) in enumerate(ways)
    }
    height, width = pixels.shape[:2]
    values = b" ".join(b"%d" % value for value in pixels.ravel())
    files["text.ppm"] = b"P3\n# text\n%d %d\n255\n" % (width, height) + values
    return files


def _mutant(chance: random.Random, content: bytes) -> bytes:
    """Damage a file: bytes changed (most near its head), cut, repeated or put in."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(min(len(data), chance.choice((40, 200, len(data)))))] = chance.choice(
            (0, 1, 127, 255, chance.randrange(256))
        )
    place = chance.randrange(len(data))
    match chance.randrange(6):
        case 0:
            del data[place:]
        case 1:
            data[place:place] = chance.randbytes(chance.randint(1, 40))
        case 2:
            data[place:place] = data[: chance.randint(1, 300)]
    return bytes(data)


@pytest.mark.row(
    "malformed picture", limit=f"0 crashes, 0 without a sentence, 0 over {MUTANT_SECONDS} s"
)
def test_mutants(
    tmp_path: Path,
    scale: Callable[[int, int], int],
    seed: int,
    figure: Callable[[str], None],
    save_failure: Save,
) -> None:
    chance, count = random.Random(seed), scale(400, 10_000)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    originals = _originals(pixels)
    assert all(one.read for one in decoded(_written(tmp_path, originals)))
    names = sorted(originals)
    mutants = {}
    for number in range(count):
        name = names[number % len(names)]
        mutants[f"{number}_{name}"] = _mutant(chance, originals[name])
    answers = decoded(_written(tmp_path, mutants))
    faults = [one for one in answers if not (one.read or one.refused) or one.cpu > MUTANT_SECONDS]
    crashes = sum(one.said.startswith("crashed") for one in answers)
    read = sum(one.read for one in answers)
    figure(
        f"{count:,} mutants of {len(names)} pictures: {crashes} crashes, {len(faults)} faults, "
        f"{read:,} read all the same, {_worst(answers)}"
    )
    assert len(answers) == count
    assert not _keep(faults, tmp_path, save_failure)


@pytest.mark.row("odd mode, EXIF, alpha", limit="twins identical, of JPEG ≥ 98 % of pixels")
def test_twins(figure: Callable[[str], None]) -> None:
    """The same picture in another way is the same array."""
    original = read_image(EXAMPLE)
    image = Image.fromarray(original)
    few = image.quantize(200)
    opaque = image.copy()
    opaque.putalpha(255)
    twins = {"RGBA": (image, encoded(opaque, "PNG"))}
    for name in ("PNG", "GIF", "TIFF", "BMP"):
        twins[f"palette {name}"] = (few, encoded(few, name))
    for name, options in {
        "PNG": {},
        "BMP": {},
        "PPM": {},
        "TIFF": {},
        "WEBP": {"lossless": True, "exact": True},
    }.items():
        twins[name] = (image, encoded(image, name, **options))
    turns = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = image if turn is None else image.transpose(turn)
        for name in ("PNG", "TIFF"):
            twins[f"EXIF {orientation}, {name}"] = (image, encoded(stored, name, exif=exif))
    different = [
        name
        for name, (meant, content) in twins.items()
        if not np.array_equal(read_image(content), np.asarray(meant.convert("RGB")))
    ]
    shares = {}
    for quality in (90, 95):
        for way, options in {"": {}, ", progressive": {"progressive": True}}.items():
            near = read_image(encoded(image, "JPEG", quality=quality, **options))
            distance = np.abs(near.astype(int) - original).max(axis=2)
            shares[f"{quality}{way}"] = float((distance <= 24).mean())
    worst = min(shares, key=shares.__getitem__)
    figure(
        f"{len(twins) - len(different)} of {len(twins)} identical; JPEG {worst}: "
        f"{shares[worst]:.1%} of pixels within 24 of 255"
    )
    assert not different
    assert shares[worst] >= 0.98


@pytest.mark.row("40 megapixels", limit="read; at most 330 MB, 16 bits 500, WebP 680")
def test_the_largest_pictures_are_read(
    tmp_path: Path,
    scale: Callable[[Any, Any], Any],
    figure: Callable[[str], None],
    save_failure: Save,
) -> None:
    image = Image.new("RGB", (8_000, 5_000), (3, 4, 5))
    dark = Image.fromarray(np.full((5_000, 8_000), 900, np.uint16))
    files = {"sixteen.png": (encoded(dark, "PNG", compress_level=1), 500)}
    for name, kind, options, most in scale(
        [("a.jpg", "JPEG", {}, 330)],
        [
            ("a.jpg", "JPEG", {}, 330),
            ("b.jpg", "JPEG", {"progressive": True}, 450),  # it keeps all coefficients
            ("a.png", "PNG", {"compress_level": 1}, 330),
            ("a.tif", "TIFF", {"compression": "tiff_lzw"}, 330),
            ("a.webp", "WEBP", {"method": 0, "quality": 50}, 680),  # libwebp keeps two canvases
        ],
    ):
        files[name] = (encoded(image, kind, **options), most)
    answers = decoded(_written(tmp_path, {name: file[0] for name, file in files.items()}))
    faults = [one for one in answers if not one.read or one.megabytes > files[one.name][1]]
    told = ", ".join(f"{one.name} {one.megabytes:.0f} MB {one.cpu:.1f} s" for one in answers)
    figure(told)
    assert not _keep(faults, tmp_path, save_failure)


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
def test_hostile_videos(tmp_path: Path, figure: Callable[[str], None], save_failure: Save) -> None:
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
    paths = _written(tmp_path, {**contents, **read})
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
        or one.cpu > MUTANT_SECONDS
        or one.megabytes > 200
    ]
    figure(f"{len(answers) - len(faults)} of {len(answers)} as they should, {_worst(answers)}")
    kept = [one for one in faults if (tmp_path / one.name).is_file()]
    assert not [*_keep(kept, tmp_path, save_failure), *(one.said for one in faults)]


BOUNDS, LIMITS, DIRECTORIES, PIXELS, IMAGES, VIDEOS, FILES = (
    f"mask2kan.media.{name}"
    for name in ("bounds", "limits", "directories", "pixels", "images", "videos", "files")
)


def _off(guard: str, module: str, condition: str, test: str = "test_bombs") -> Mutation:
    return Mutation(guard, test, module, f"if {condition}", f"if False and {condition}")


MUTATIONS = [
    _off("pixels are limited", LIMITS, "megapixels > MAX_MEGAPIXELS"),
    Mutation("bounds are checked", "test_bombs", IMAGES, "check_bounds(file, size)", "pass"),
    _off("sides are limited", LIMITS, "max(width, height) > MAX_SIDE"),
    _off("scans are limited", LIMITS, "scans > MAX_SCANS", "test_many_scans"),
    _off(
        "scans and pixels are limited together",
        LIMITS,
        "scans * megapixels > MAX_SCANNED",
        "test_many_scans",
    ),
    _off("a JPEG's segments are counted", BOUNDS, "segments > MAX_SEGMENTS"),
    _off("bytes between a JPEG's segments are counted", BOUNDS, "padding > MAX_PADDING"),
    Mutation(
        "a scan's data are skipped up to what is a marker",
        "test_many_scans",
        BOUNDS,
        r"\x01-\xcf\xd8-\xfe",
        r"\x01-\xfe",
    ),
    Mutation(
        "a JPEG's segments are skipped by their length",
        "test_many_scans",
        BOUNDS,
        "position += length\n            segments",
        "segments",
    ),
    Mutation(
        "markers without a length are known",
        "test_bombs",
        BOUNDS,
        "_END, *range(0xF0, 0xFE)",
        "_END",
    ),
    _off("what follows a JPEG is not read", BOUNDS, "kind == _END and scans", "test_many_scans"),
    Mutation("a JPEG's EXIF data are checked", "test_bombs", BOUNDS, "    check_exif(exif)\n", ""),
    Mutation(
        "a JPEG's index of pictures is checked",
        "test_bombs",
        BOUNDS,
        "check_exif(body[4:])",
        "pass",
    ),
    _off("a PNG's chunks are counted", BOUNDS, "chunks > most"),
    _off("a PNG's packed texts are counted", BOUNDS, "compressed > MAX_COMPRESSED_CHUNKS"),
    _off("a GIF's blocks are counted", BOUNDS, "blocks > MAX_GIF_BLOCKS"),
    _off("pixels decoded in Python are limited", BOUNDS, "pixels * samples > MAX_SLOW_SAMPLES"),
    _off("runs without pixels are limited", BOUNDS, "size > 4 * width * height + 100_000"),
    _off("a PPM's header is limited", BOUNDS, "len(head) == MAX_PADDING"),
    _off("a PPM's comments are counted", BOUNDS, 'file.read().count(b"#") > MAX_PPM_COMMENTS'),
    _off("EXIF data are limited", DIRECTORIES, "len(data) > MAX_EXIF_BYTES"),
    _off("a directory's entries are counted", DIRECTORIES, "count > MAX_ENTRIES"),
    _off("a directory's values are added up", DIRECTORIES, "claimed > 2 * most + _SLACK"),
    Mutation(
        "directories inside are checked",
        "test_bombs",
        DIRECTORIES,
        "if start else {}",
        "if False else {}",
    ),
    _off("a TIFF's strips are counted", DIRECTORIES, "min(strips, size // 2) > MAX_STRIPS"),
    _off("a TIFF's tiles are measured", DIRECTORIES, "tile > max(MAX_TILE, 2 * pixels)"),
    _off(
        "a TIFF's JPEG scans are counted",
        DIRECTORIES,
        "tiff.number(entries, _COMPRESSION) in (_JPEG, _OLD_JPEG)",
    ),
    Mutation("EXIF data are checked", "test_bombs", PIXELS, "    _check_exif(image)\n", ""),
    Mutation("few formats are tried", "test_bombs", IMAGES, "file, formats=FORMATS", "file"),
    Mutation(
        "whatever a decoder raises becomes a reason",
        "test_mutants",
        IMAGES,
        'except Exception as error:\n        raise Unfit(f"it is cut off',
        'except ZeroDivisionError as error:\n        raise Unfit(f"it is cut off',
    ),
    Mutation(
        "whatever a header's parser raises becomes a reason",
        "test_mutants",
        IMAGES,
        "except Exception as error:  # Pillow's parsers",
        "except ZeroDivisionError as error:  #",
    ),
    Mutation("pixels go band by band", "test_the_largest", PIXELS, "1 << 20", "1 << 40"),
    Mutation(
        "no copy is made of our own images",
        "test_the_largest",
        PIXELS,
        "image.copy() if file is None else image",
        "image.copy()",
    ),
    Mutation(
        "orientation is applied",
        "test_twins",
        PIXELS,
        "ImageOps.exif_transpose(image, in_place=True)",
        "pass",
    ),
    _off("a video's frames are counted", VIDEOS, "count > most", "test_hostile"),
    _off("a video's length is limited", VIDEOS, "count / rate > MAX_SECONDS", "test_hostile"),
    _off("a video's frames are measured", VIDEOS, "megapixels > MAX_MEGAPIXELS", "test_hostile"),
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
    _off(
        "only regular files are opened", FILES, "not stat.S_ISREG(status.st_mode)", "test_hostile"
    ),
]
