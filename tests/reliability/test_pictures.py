"""Malformed pictures, bombs and odd modes: one sentence or the right pixels.

Decoding happens in children of limited memory, since unguarded code takes all there is.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2kan.media.images import read_image
from tests.reliability.bombs import (
    bombs,
    encoded,
    harmless,
    jpeg,
    mutant_of,
    originals_of,
    segment,
    with_scans,
)
from tests.reliability.decoding import decoded, keep, worst, written
from tests.reliability.mutations import Mutation, turned_off
from tests.serving import EXAMPLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures by Linux's own figures")

SECONDS, MEGABYTES = 0.1, 50
# Their EXIF data, behind the pixels for Pillow, are never asked for: masks are read as they are.
NO_MASK_BOMBS = ("exif.png", "exif_as_text.png", "exif.webp", "2_mb.png")
MUTANT_SECONDS = 2

Save = Callable[[str, bytes], Path]


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
    answers = decoded(written(tmp_path, files), kind)
    faults = [
        one
        for one in answers
        if not (one.refused and reasons[one.name] in one.said)
        or one.cpu > SECONDS
        or one.megabytes > MEGABYTES
    ]
    refused = f"{len(answers) - len(faults)} of {len(answers)}"
    figure(f"as {kind}: {refused} refused, {worst(answers)}")
    assert not keep(faults, tmp_path, save_failure)


@pytest.mark.row("bomb's honest neighbour", limit="all read, in the same time and memory")
def test_what_is_only_odd_is_read(
    tmp_path: Path, figure: Callable[[str], None], save_failure: Save
) -> None:
    answers = decoded(written(tmp_path, harmless()))
    faults = [
        one for one in answers if not one.read or one.cpu > SECONDS or one.megabytes > MEGABYTES
    ]
    figure(f"{len(answers) - len(faults)} of {len(answers)} read, {worst(answers)}")
    assert not keep(faults, tmp_path, save_failure)


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
    answers = decoded(written(tmp_path, {**many, **honest}))
    faults = [
        one
        for one in answers
        if not (one.refused and "scans" in one.said if one.name in many else one.read)
        or (one.name in many and (one.cpu > SECONDS or one.megabytes > MEGABYTES))
    ]
    figure(f"{len(many)} refused, {worst(answers[: len(many)])}; {len(honest)} honest ones read")
    assert not keep(faults, tmp_path, save_failure)


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
    originals = originals_of(pixels)
    assert all(one.read for one in decoded(written(tmp_path, originals)))
    names = sorted(originals)
    mutants = {}
    for number in range(count):
        name = names[number % len(names)]
        mutants[f"{number}_{name}"] = mutant_of(chance, originals[name])
    answers = decoded(written(tmp_path, mutants))
    faults = [one for one in answers if not (one.read or one.refused) or one.cpu > MUTANT_SECONDS]
    crashes = sum(one.said.startswith("crashed") for one in answers)
    read = sum(one.read for one in answers)
    figure(
        f"{count:,} mutants of {len(names)} pictures: {crashes} crashes, {len(faults)} faults, "
        f"{read:,} read all the same, {worst(answers)}"
    )
    assert len(answers) == count
    assert not keep(faults, tmp_path, save_failure)


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
    answers = decoded(written(tmp_path, {name: file[0] for name, file in files.items()}))
    faults = [one for one in answers if not one.read or one.megabytes > files[one.name][1]]
    told = ", ".join(f"{one.name} {one.megabytes:.0f} MB {one.cpu:.1f} s" for one in answers)
    figure(told)
    assert not keep(faults, tmp_path, save_failure)


BOUNDS, LIMITS, DIRECTORIES, PIXELS, IMAGES = (
    f"mask2kan.media.{name}" for name in ("bounds", "limits", "directories", "pixels", "images")
)


MUTATIONS = [
    turned_off("pixels are limited", LIMITS, "megapixels > MAX_MEGAPIXELS", "test_bombs"),
    Mutation("bounds are checked", "test_bombs", IMAGES, "check_bounds(file, size)", "pass"),
    turned_off("sides are limited", LIMITS, "max(width, height) > MAX_SIDE", "test_bombs"),
    turned_off("scans are limited", LIMITS, "scans > MAX_SCANS", "test_many_scans"),
    turned_off(
        "scans and pixels are limited together",
        LIMITS,
        "scans * megapixels > MAX_SCANNED",
        "test_many_scans",
    ),
    turned_off("a JPEG's segments are counted", BOUNDS, "segments > MAX_SEGMENTS", "test_bombs"),
    turned_off(
        "bytes between a JPEG's segments are counted", BOUNDS, "padding > MAX_PADDING", "test_bombs"
    ),
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
    turned_off(
        "what follows a JPEG is not read", BOUNDS, "kind == _END and scans", "test_many_scans"
    ),
    Mutation("a JPEG's EXIF data are checked", "test_bombs", BOUNDS, "    check_exif(exif)\n", ""),
    Mutation(
        "a JPEG's index of pictures is checked",
        "test_bombs",
        BOUNDS,
        "check_exif(body[4:])",
        "pass",
    ),
    turned_off("a PNG's chunks are counted", BOUNDS, "chunks > most", "test_bombs"),
    turned_off(
        "a PNG's packed texts are counted",
        BOUNDS,
        "compressed > MAX_COMPRESSED_CHUNKS",
        "test_bombs",
    ),
    turned_off("a GIF's blocks are counted", BOUNDS, "blocks > MAX_GIF_BLOCKS", "test_bombs"),
    turned_off(
        "pixels decoded in Python are limited",
        BOUNDS,
        "pixels * samples > MAX_SLOW_SAMPLES",
        "test_bombs",
    ),
    turned_off(
        "runs without pixels are limited",
        BOUNDS,
        "size > 4 * width * height + 100_000",
        "test_bombs",
    ),
    turned_off("a PPM's header is limited", BOUNDS, "len(head) == MAX_PADDING", "test_bombs"),
    turned_off(
        "a PPM's comments are counted",
        BOUNDS,
        'file.read().count(b"#") > MAX_PPM_COMMENTS',
        "test_bombs",
    ),
    Mutation(
        "a bitmap's header is limited",
        "test_bombs",
        BOUNDS,
        'b"P3", b"P4", b"P5"',
        'b"P3", b"P5"',
    ),
    Mutation(
        "PPMs of odd kinds are refused",
        "test_bombs",
        BOUNDS,
        "elif other := _OTHER_PPM.match(head):",
        "elif other := None:",
    ),
    turned_off("a TIFF names every tag once", DIRECTORIES, "once and tag in entries", "test_bombs"),
    turned_off("a TIFF's numbers are whole", DIRECTORIES, "odd is not None", "test_bombs"),
    Mutation(
        "scans are counted in strips and tiles", "test_bombs", DIRECTORIES, "if both or", "if"
    ),
    turned_off("EXIF data are limited", DIRECTORIES, "len(data) > MAX_EXIF_BYTES", "test_bombs"),
    turned_off(
        "a directory's entries are counted", DIRECTORIES, "count > MAX_ENTRIES", "test_bombs"
    ),
    turned_off(
        "a directory's values are added up",
        DIRECTORIES,
        "claimed > 2 * most + _SLACK",
        "test_bombs",
    ),
    Mutation(
        "directories inside are checked",
        "test_bombs",
        DIRECTORIES,
        "if start else {}",
        "if False else {}",
    ),
    turned_off(
        "a TIFF's strips are counted",
        DIRECTORIES,
        "min(strips, size // 2) > MAX_STRIPS",
        "test_bombs",
    ),
    turned_off(
        "a TIFF's tiles are measured", DIRECTORIES, "tile > max(MAX_TILE, 2 * pixels)", "test_bombs"
    ),
    turned_off(
        "a TIFF's JPEG scans are counted",
        DIRECTORIES,
        "tiff.number(entries, _COMPRESSION) in (_JPEG, _OLD_JPEG)",
        "test_bombs",
    ),
    Mutation("EXIF data are checked", "test_bombs", PIXELS, "    _check_exif(image)\n", ""),
    Mutation("few formats are tried", "test_bombs", IMAGES, "file, formats=formats", "file"),
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
]
