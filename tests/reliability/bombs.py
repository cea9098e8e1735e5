"""Small files that ask for much, their honest neighbours, and damaged ones."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
PIXELS = 2_000 * 2_000  # of a JPEG of many scans


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def zeros(count: int) -> bytes:
    """``count`` bytes of 0, deflated."""
    packer, step = zlib.compressobj(9), 1 << 20
    parts = [packer.compress(bytes(min(step, count - done))) for done in range(0, count, step)]
    return b"".join([*parts, packer.flush()])


def chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(width: int, height: int, before: bytes = b"", after: bytes = b"", **header: int) -> bytes:
    """A PNG whose header says that size; the pixels are there if it is a small one."""
    depth, colour, interlaced = (header.get(name, 0) for name in ("depth", "colour", "interlaced"))
    said = struct.pack(">IIBBBBB", width, height, depth or 8, colour, 0, 0, interlaced)
    pixels = chunk(b"IDAT", zeros((width + 1) * height if width * height < 1e6 else 1000))
    return PNG + chunk(b"IHDR", said) + before + pixels + after + chunk(b"IEND", b"")


def directory(entries: int, size: int) -> bytes:
    """EXIF data: ``entries`` values, each of which is the whole of ``size`` bytes."""
    body = struct.pack("<H", entries)
    for tag in range(entries):
        body += struct.pack("<HHLL", tag + 1000, 1, size - 8, 8)
    return (b"II*\0" + struct.pack("<L", 8) + body).ljust(size, b"\0")


def tiff(
    tags: Mapping[int, Sequence[int] | tuple[int, int]] = {},
    data: bytes = b"\0" * 64,
    size: tuple[int, int] = (8, 8),
    shared: Iterable[int] = (),
    loop: bool = False,
    first: Mapping[int, Sequence[int]] = {},
    kinds: Mapping[int, int] = {},
) -> bytes:
    """A gray TIFF; each tag of ``shared`` names all of ``data`` for its value.

    The tags of ``first`` stand before all others, which may repeat them; ``kinds`` are types of
    tags that are not LONG.
    """
    plain = {256: [size[0]], 257: [size[1]], 258: [8], 259: [1], 262: [1], 273: [8], 277: [1]}
    values: dict[int, Any] = {**plain, 278: [size[1]], 279: [len(data)], **tags}
    shared = list(shared)
    start = 8 + len(data)
    listed = [*first.items(), *values.items()]
    outside = start + 2 + 12 * (len(listed) + len(shared)) + 4
    entries, extra = [], b""
    for tag, numbers in listed:
        packed = struct.pack(f"<{len(numbers)}L", *numbers)
        place = packed if len(packed) == 4 else struct.pack("<L", outside + len(extra))
        extra += packed if len(packed) > 4 else b""
        entries.append(struct.pack("<HHL", tag, kinds.get(tag, 4), len(numbers)) + place)
    entries += [struct.pack("<HHLL", tag, 1, len(data), 8) for tag in shared]
    following = struct.pack("<L", start if loop else 0)
    head = b"II*\0" + struct.pack("<L", start) + data + struct.pack("<H", len(entries))
    return head + b"".join(entries) + following + extra


def jpeg(width: int = 16, height: int = 16, **options: Any) -> bytes:
    return encoded(Image.new("RGB", (width, height), (90, 120, 30)), "JPEG", **options)


def segment(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body


def with_scans(count: int, width: int = 512, height: int = 512, **options: Any) -> bytes:
    """A progressive JPEG of ``count`` scans: its last one over and over."""
    whole = jpeg(width, height, progressive=True, **options)
    more = count - whole.count(b"\xff\xda")
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * more + b"\xff\xd9"


def gif(extensions: bytes) -> bytes:
    whole = encoded(Image.new("P", (16, 16)), "GIF")
    frame = whole.rindex(b",\0\0\0\0")
    return whole[:frame] + extensions + whole[frame:]


def bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP in run lengths."""
    header = struct.pack("<IiiHHIIIIII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = b"".join(bytes((value, 255 - value, 0, 0)) for value in range(256))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + palette + runs


def webp_canvas(width: int, height: int) -> bytes:
    """An animated WebP of one small frame on a canvas of that size."""
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    whole = bytearray(encoded(red, "WEBP", save_all=True, append_images=[blue]))
    whole[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(whole)


def bombs() -> dict[str, dict[str, bytes]]:
    """What is to be refused at once: by the reason to be told, by name."""
    text = b"\nexif\n250000\n" + directory(3_000, 250_000).hex().encode()
    plain = jpeg()
    start, rest = plain[:2], plain[2:]
    strip = with_scans(80, 512, 512)
    wide = {256: [3_000], 257: [3_500], 258: [8, 8, 8], 259: [7], 262: [6], 277: [3], 278: [3_500]}
    megabyte, tile = zeros(1_000_000), zeros(100_000_000)
    small = {259: [8], 322: [64], 323: [64], 324: [8], 325: [len(tile)]}
    large = {322: [30_000], 323: [30_000]}
    return {
        "it is not an image in a known format": {
            "targa.png": encoded(Image.new("RGB", (16, 16)), "TGA", compression="tga_rle"),
            "targa.jpg": encoded(Image.new("RGB", (16, 16)), "TGA"),
        },
        "megapixels": {
            "50000.png": png(50_000, 50_000),
            "178_mp.png": png(13_376, 13_376),
            "41_mp.png": png(8_001, 5_125),
            "2e31.png": png(2**31 - 1, 1),
            "canvas.webp": webp_canvas(16_000, 10_000),
            "extent.gif": gif(b"," + struct.pack("<4HB", 60_000, 60_000, 5_000, 5_000, 0)),
            "extent_81_mp.gif": gif(b"," + struct.pack("<4HB", 0, 0, 9_000, 9_000, 0)),
        },
        "": {"width_0.png": png(0, 10), "samples.tif": tiff({277: [60_000]})},
        "too large for": {
            "text_50_mb.png": png(8, 8, chunk(b"zTXt", b"k\0\0" + zeros(50_000_000)))
        },
        "a side has at most": {"strip.png": png(40_000_000, 1)},
        "texts and colour profiles": {
            "texts.png": png(8, 8, chunk(b"zTXt", b"k\0\0" + megabyte) * 60),
            "translated.png": png(8, 8, chunk(b"iTXt", b"k\0\1\0\0\0" + megabyte) * 60),
            "profiles.png": png(8, 8, chunk(b"iCCP", b"k\0\0" + megabyte) * 500),
        },
        "chunks": {
            "before.png": png(8, 8, chunk(b"prVt", b"") * 200_000),
            "behind.png": png(8, 8, after=chunk(b"prVt", b"") * 200_000),
        },
        "a directory claims": {
            "exif.png": png(8, 8, chunk(b"eXIf", directory(3_000, 250_000))),
            "exif_as_text.png": png(
                8, 8, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
            ),
            "exif.webp": encoded(
                Image.new("RGB", (16, 16)), "WEBP", exif=directory(3_000, 250_000)
            ),
            "exif.jpg": start + segment(0xE1, b"Exif\0\0" + directory(3_900, 60_000)) + rest,
            "hidden.jpg": start
            + (b"\xff\xf0" + segment(0xE1, b"Exif\0\0" + directory(3_900, 60_000)))
            + rest,
            "pictures.jpg": start + segment(0xE2, b"MPF\0" + directory(3_900, 60_000)) + rest,
            "shared.tif": tiff(data=bytes(300_000), shared=range(40_000, 43_000)),
            "inside.tif": tiff({0x8769: [8]}, data=directory(3_000, 250_000)[8:]),
        },
        "EXIF data": {"2_mb.png": png(8, 8, chunk(b"eXIf", bytes(2_000_000)))},
        "entries": {"entries.tif": tiff(shared=range(40_000, 50_000))},
        "segments": {
            "segments.jpg": start + segment(0xE5, b"") * 500_000 + rest,
            "tables.jpg": start + segment(0xC4, b"") * 500_000 + rest,
        },
        "between its segments": {
            "padding.jpg": start + b"\xff" * 5_000_000 + rest,
            "junk.jpg": start + segment(0xE5, b"") + bytes(5_000_000) + rest,
        },
        "blocks before its first frame": {
            "comment.gif": gif(b"!\xfe" + (b"\xff" + b"a" * 255) * 8_000 + b"\0"),
            "comments.gif": gif(b"!\xfe\1a\0" * 100_000),
        },
        "strips or tiles": {
            "strips.tif": tiff({273: [8] * 200_000, 278: [1], 279: [1] * 200_000}, size=(1, 60_000))
        },
        "its tiles": {
            "tile.tif": tiff(
                {259: [8], 322: [30_000], 323: [30_000], 324: [8], 325: [900_000]}, data=tile
            )
        },
        "has tag 322 twice": {"twice.tif": tiff(small, data=tile, first=large)},
        "no whole number": {
            "signed.tif": tiff({**small, **large}, data=tile, kinds={322: 9, 323: 9}),
            "signed_jpeg.tif": tiff({**wide, 279: [len(strip)]}, data=strip, kinds={259: 9}),
        },
        "scans": {
            "scans.tif": tiff({**wide, 279: [len(strip)]}, data=strip),
            "lists.tif": tiff(
                {**wide, 279: [len(strip)]}, data=strip, first={324: [8], 325: [100]}
            ),
        },
        "a PPM of the kind": {
            "cmyk.ppm": b"P0CMYK 4000 250 254\n" + bytes(4_000_000),
            "palette.ppm": b"PyP 4000 1000 254\n" + bytes(4_000_000),
            "float.ppm": b"Pf #" + b"a" * 5_000_000 + b"\n8 8\n1.0\n" + bytes(256),
        },
        "stored as": {
            "skips_rows.bmp": bmp(39_000_000, 1, b"\0\2\xff\x14"),
            "ends_rows.bmp": bmp(8_000, 5_000, b"\1\0\0\0\0\1"),
            "text.ppm": b"P3\n8000 5000\n255\n" + b"0 " * 192,
            "largest_1023.ppm": b"P6\n3000 2000\n1023\n" + bytes(64),
            "largest_1023.pgm": b"P5\n2000 2000\n1023\n" + bytes(64),
        },
        "bytes of run lengths": {"nothing.bmp": bmp(16, 16, b"\0\2\0\0" * 500_000)},
        "comments": {"comments.ppm": b"P3\n8 8\n255\n" + b"#\n" * 300_000 + b"0 " * 192},
        "its header has more": {
            "header.ppm": b"P6\n#" + b"a" * 5_000_000 + b"\n8 8\n255\n0",
            "bits.ppm": b"P4 #" + b"a" * 5_000_000 + b"\n8 8\n" + bytes(8),
        },
    }


def harmless() -> dict[str, bytes]:
    """What looks odd and is read as fast as any."""
    frames = [Image.new("P", (16, 16), index % 200) for index in range(1, 1000)]
    return {
        "pages.tif": encoded(
            Image.new("L", (8, 8)),
            "TIFF",
            save_all=True,
            append_images=[Image.new("L", (8, 8))] * 999,
        ),
        "frames.gif": encoded(
            Image.new("P", (16, 16)), "GIF", save_all=True, append_images=frames, optimize=False
        ),
        "loop.tif": tiff(loop=True),
        "bits.ppm": b"P4\n# text\n8 8\n" + bytes(8),
        "twice.jpg": jpeg()[:2]
        + segment(0xE1, b"Exif\0\0" + tiff({305: [1]}, first={305: [1]}))
        + jpeg()[2:],
        "texts.png": png(8, 8, b"".join(chunk(b"zTXt", b"k\0\0" + zeros(500)) for _ in "x" * 30)),
        "comment.gif": gif(b"!\xfe" + (b"\xff" + b"a" * 255) * 1_000 + b"\0"),
        "metadata.jpg": jpeg()[:2] + segment(0xE1, bytes(65_000)) * 160 + jpeg()[2:],
    }


def originals_of(pixels: np.ndarray) -> dict[str, bytes]:
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


def mutant_of(chance: random.Random, content: bytes) -> bytes:
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
