"""Decoding: odd modes give the right pixels, everything else one clear line."""

import contextlib
import io
import json
import random
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from mask2kan.errors import ImageError
from mask2kan.media.images import (
    decode_image,
    find_images,
    list_images,
    read_image,
    read_mask,
)


def photo(height=17, width=31, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width, height):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_from_bytes_path_pil_and_array(format, tmp_path):
    pixels = photo()
    data = encoded(Image.fromarray(pixels), format)
    path = tmp_path / "road.bin"
    path.write_bytes(data)
    for source in (data, path, str(path), Image.fromarray(pixels), pixels):
        read = read_image(source)
        assert read.dtype == np.uint8
        assert read.flags.writeable
        assert not np.shares_memory(read, pixels)
        np.testing.assert_array_equal(read, pixels)


def test_webp_and_jpeg_are_close():
    pixels = np.full((32, 48, 3), (200, 90, 40), dtype=np.uint8)
    for format in ("JPEG", "WEBP"):
        read = read_image(encoded(Image.fromarray(pixels), format, quality=95))
        assert np.abs(read.astype(int) - pixels).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    """The pixels are stored turned away; reading turns them back."""
    pixels = photo(20, 33)
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif)
        np.testing.assert_array_equal(read_image(data), pixels)


def test_damaged_or_impossible_exif_is_ignored():
    pixels = photo()
    exif = Image.Exif()
    exif[0x0112] = 99
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(read_image(encoded(image, exif=exif)), pixels)
    np.testing.assert_array_equal(read_image(encoded(image, exif=b"Exif\0\0garbage")), pixels)


def test_orientation_survives_damage_to_another_tag_and_leaves_the_image_given_alone():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    damaged = bytearray(exif.tobytes())
    damaged[17] = 0  # the maker's type is now none that Pillow can write back
    pixels = photo()
    data = encoded(Image.fromarray(pixels), exif=bytes(damaged))
    np.testing.assert_array_equal(read_image(data), np.rot90(pixels, -1))
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(read_image(image), np.rot90(pixels, -1))
        assert image.size == (31, 17)


def test_sixteen_bit_is_scaled_not_saturated():
    eight = photo()
    gray = eight[..., 0]
    wide = gray.astype(np.uint16) * 257
    for format in ("PNG", "TIFF"):
        read = read_image(encoded(Image.fromarray(wide), format))
        np.testing.assert_array_equal(read, np.repeat(gray[..., None], 3, axis=2))
    body = zlib.compress(
        b"".join(b"\0" + row.astype(">u2").tobytes() for row in eight.astype(np.uint16) * 257)
    )
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 31, 17, 16, 2, 0, 0, 0)), (b"IDAT", body)]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in [*chunks, (b"IEND", b"")]:
        crc = zlib.crc32(kind + content)
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    np.testing.assert_array_equal(read_image(data), eight)


def test_transparency_is_composited_on_white():
    rgba = np.dstack([photo(), np.full((17, 31), 255, np.uint8)])
    rgba[0, :, 3] = 0
    rgba[1, :, 3] = 128
    read = read_image(encoded(Image.fromarray(rgba)))
    assert (read[0] == 255).all()
    blended = np.rint((rgba[1, :, :3].astype(float) * 128 + 255 * 127) / 255)
    assert np.abs(read[1] - blended).max() <= 1
    np.testing.assert_array_equal(read[2:], rgba[2:, :, :3])


def test_palette_bilevel_gray_alpha_and_cmyk():
    pixels = photo() // 64 * 64
    palette = Image.fromarray(pixels).quantize(64)
    expected = np.asarray(palette.convert("RGB"))
    for format in ("PNG", "GIF"):
        np.testing.assert_array_equal(read_image(encoded(palette, format)), expected)
    bits = pixels[..., 0] > 100
    np.testing.assert_array_equal(
        read_image(encoded(Image.fromarray(bits))), np.repeat(bits[..., None] * 255, 3, axis=2)
    )
    gray_alpha = Image.merge("LA", [Image.fromarray(pixels[..., 0]), Image.new("L", (31, 17), 255)])
    np.testing.assert_array_equal(
        read_image(encoded(gray_alpha)), np.repeat(pixels[..., :1], 3, axis=2)
    )
    flat = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    read = read_image(encoded(flat, "JPEG", quality=95))
    assert np.abs(read.astype(int) - (255, 0, 0)).max() <= 6


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    read = read_image(encoded(image, transparency=0))
    np.testing.assert_array_equal(read[0, 0], (255, 255, 255))
    np.testing.assert_array_equal(read[1, 1], (0, 0, 255))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(read_image(data), np.asarray(frames[0]))


def test_limits_are_read_from_the_header(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=r"60\.0 megapixels \(10000 × 6000\).*up to 40 MP"):
        read_image(png_header(10_000, 6_000))
    with pytest.raises(ImageError, match="2500 megapixels"):
        read_image(png_header(50_000, 50_000))
    with pytest.raises(ImageError, match=r"40\.0 megapixels \(8001 × 5000\)"):
        read_image(png_header(8001, 5000))
    with pytest.raises(ImageError, match="megapixels"):
        read_image(np.broadcast_to(np.uint8(0), (8000, 6000, 3)))


def test_just_inside_the_limit():
    data = encoded(Image.new("1", (8000, 5000)))
    assert read_image(data).shape == (5000, 8000, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"x", "text file"),
        (b"this is not an image\n" * 20, "text file"),
        (b"<html><body></body></html>", "text file"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0", "HEIC"),
        (bytes(range(256)), "not an image in a known format"),
        (png_header(0, 10), "."),
        (png_header(2**31 - 1, 3), "megapixels"),
    ],
)
def test_what_is_no_image_says_so_in_one_line(data, reason):
    with pytest.raises(ImageError, match=f"^Can't read this image: .*{reason}") as caught:
        read_image(data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("Use JPEG, PNG or WebP up to 40 MP.")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated(format, share):
    data = encoded(Image.fromarray(photo(120, 160)), format)
    with pytest.raises(ImageError, match=r"damaged|known format|text file"):
        read_image(data[: int(len(data) * share)])


def test_bad_checksum():
    data = bytearray(encoded(Image.fromarray(photo(120, 160))))
    data[60] ^= 0xFF
    with pytest.raises(ImageError, match="damaged"):
        read_image(bytes(data))


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(ImageError, match="there is no file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"^Can't read this image"):
        read_image("a\0b.png")
    with pytest.raises(ImageError, match=r"^Can't read this image"):
        read_image("x" * 3000 + ".png")
    with pytest.raises(ImageError, match="is not a file"):
        read_image("/dev/zero")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_of_another_kind(array):
    with pytest.raises(ImageError, match=r"expected uint8 RGB of \(H, W, 3\)"):
        read_image(array)


def test_other_types():
    with pytest.raises(ImageError, match="NoneType"):
        read_image(None)


def test_float_and_32_bit_pixels_are_refused():
    with pytest.raises(ImageError, match="floating-point"):
        read_image(encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"))
    with pytest.raises(ImageError, match="32-bit"):
        read_image(encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"))


def test_mutants_give_a_image_or_a_image_error():
    """Random damage never comes out as any other exception, nor as an image beyond the limit."""
    rng = random.Random(0)
    image = Image.fromarray(photo(40, 50))
    originals = [encoded(image, f) for f in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")]
    for _ in range(1500):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(len(data), rng.choice([60, len(data)])))] = rng.randrange(256)
        with contextlib.suppress(ImageError):
            height, width, channels = read_image(bytes(data)).shape
            assert channels == 3
            assert height * width <= 40_000_000


def set_traps(folder):
    """What is no image in spite of its name, as copying and hiding leave it."""
    (folder / "._a.png").write_bytes(b"Mac OS X")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    (folder / "gone.png").symlink_to("nowhere.png")


def test_only_what_can_be_an_image_is_listed(tmp_path):
    set_traps(tmp_path)
    (tmp_path / "folder.png" / "b.png").write_bytes(b"")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "a.png").write_bytes(b"")
    assert list_images(tmp_path) == []
    assert list_images(tmp_path, nested=True) == [tmp_path / "folder.png" / "b.png"]
    (tmp_path / "a.PNG").write_bytes(b"")
    (tmp_path / "linked.png").symlink_to("a.PNG")
    (tmp_path / "c.gif").write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["a.PNG", "c.gif", "linked.png"]
    assert [path.name for path in list_images(tmp_path, suffixes=(".gif",))] == ["c.gif"]
    hidden = tmp_path / ".thumbnails"  # asked for by its name
    assert list_images(hidden) == find_images([str(hidden)]) == [hidden / "a.png"]
    assert [path.name for path in find_images([f"{tmp_path}/*.png"])] == ["linked.png"]


def test_find_images(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "c.webp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub").mkdir()
    names = [path.name for path in find_images([str(tmp_path)])]
    assert names == ["a.JPG", "b.png", "c.webp"]
    assert [p.name for p in find_images([f"{tmp_path}/*.png", str(tmp_path)])] == [
        "b.png",
        "a.JPG",
        "c.webp",
    ]
    assert find_images([str(tmp_path / "notes.txt")]) == [Path(tmp_path / "notes.txt")]
    with pytest.raises(ImageError, match=r"No image at '.*\*\.gif'"):
        find_images([f"{tmp_path}/*.gif"])
    with pytest.raises(ImageError, match="No image at"):
        find_images([str(tmp_path / "sub")])


# OpenCV writes no alpha into TIFF
@pytest.mark.parametrize(
    ("suffix", "channels"), [(".png", 1), (".png", 3), (".png", 4), (".tiff", 1), (".tiff", 3)]
)
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_sensor_data_in_16_bit_files_is_not_shown_black(suffix, channels, bits):
    values = np.random.default_rng(0).integers(0, 1 << bits, (13, 17, channels), dtype=np.uint16)
    values[0, 0] = (1 << bits) - 1
    if channels == 4:
        values[..., 3] = 65535
    order = [2, 1, 0, 3][:channels] if channels > 1 else [0]
    _, data = cv2.imencode(suffix, values[..., order])
    decoded = decode_image(data.tobytes())
    expected = np.broadcast_to(values[..., :3] >> (bits - 8), (13, 17, 3))
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert [f"{bits}-bit data" in note for note in decoded.notes] == ([True] if bits < 16 else [])


def test_brackets_in_names_that_are_there_mean_themselves(tmp_path):
    folder = tmp_path / "drive [2024]"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.png"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "drive 2").mkdir()
    (tmp_path / "drive 2" / "d.jpg").write_bytes(b"x")
    assert [path.name for path in find_images([f"{folder}/*.jpg"])] == ["a.jpg", "b.jpg"]
    assert [path.name for path in find_images([f"{folder}/[bc].*"])] == ["b.jpg", "c.png"]
    assert [path.name for path in find_images([f"{tmp_path}/drive [0-9]/*.jpg"])] == ["d.jpg"]


def test_what_results_wrote_is_no_input_unless_named(tmp_path):
    for name in ("road.jpg", "road_overlay.png", "other_overlay.png"):
        (tmp_path / name).write_bytes(b"x")
    facts = {"picture": "road.jpg", "files": ["road_overlay.png"]}
    (tmp_path / "road.json").write_text(json.dumps(facts))
    (tmp_path / "odd.json").write_text('{"files": 1, "picture": 2}')
    (tmp_path / "broken.json").write_text("{")
    for argument in (str(tmp_path), f"{tmp_path}/*.[jp]*g"):
        names = [path.name for path in find_images([argument])]
        assert names == ["other_overlay.png", "road.jpg"]
    named = tmp_path / "road_overlay.png"
    assert find_images([str(named)]) == [named]


def test_a_mistyped_name_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "road.jpg").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"there is no file .*raod\.jpg'\. Nearest: road\.jpg\.$"):
        read_image(tmp_path / "raod.jpg")
    with pytest.raises(ImageError, match=r"there is no file .*\. Check its path\.$"):
        read_image(tmp_path / "sea" / "a.png")


def test_folders_inside_a_folder_are_named_as_such(tmp_path):
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "a.jpg").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"folders inside it are not searched.*\*\*/\*\.jpg"):
        find_images([str(tmp_path)])
    assert find_images([f"{tmp_path}/**/*.jpg"]) == [tmp_path / "day" / "a.jpg"]


MASK = np.array([[0, 1, 255, 0], [1, 1, 0, 255]], np.uint8)


def as_palette(values):
    image = Image.fromarray(values, "P")
    image.putpalette([9, 9, 9, 200, 0, 0] + [0] * 759 + [255, 255, 255])
    return image


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (Image.fromarray(MASK), "PNG"),
        (Image.fromarray(MASK), "TIFF"),
        (Image.fromarray(MASK), "BMP"),
        (Image.fromarray(np.repeat(MASK[..., None], 3, axis=2)), "PNG"),
        (Image.fromarray(np.dstack([MASK, MASK, MASK, 255 - MASK])), "PNG"),
        (as_palette(MASK), "PNG"),
    ],
)
def test_masks_are_read_as_they_are_stored(image, format, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(image, format, **({"exif": exif} if format == "PNG" else {}))
    (tmp_path / "mask.bin").write_bytes(data)
    for source in (data, tmp_path / "mask.bin", str(tmp_path / "mask.bin")):
        values = read_mask(source, (2, 4))
        assert values.dtype == np.uint8
        np.testing.assert_array_equal(values, MASK)
    flipped = read_mask(data, (2, 4), white_is_anomaly=True)
    np.testing.assert_array_equal(flipped, np.where(MASK == 255, 1, MASK))


def test_a_mask_of_1_bit_is_white_where_there_are_anomalies():
    data = encoded(Image.fromarray(MASK > 0), "PNG")
    expected = np.where(MASK > 0, 255, 0)
    np.testing.assert_array_equal(read_mask(data, (2, 4)), expected)
    np.testing.assert_array_equal(read_mask(data, (2, 4), white_is_anomaly=True), expected > 0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(Image.new("RGB", (4, 2), (1, 0, 0))), "red, green and blue differ"),
        (encoded(Image.fromarray(np.ones((2, 4), np.uint16))), "more than 8 bits"),
        (encoded(Image.new("LA", (4, 2))), "its pixels are LA"),
        (encoded(Image.new("L", (5, 2))), "5×2 pixels, the picture 4×2"),
        (encoded(Image.fromarray(MASK * 3 // 2)), "has the values 126; it needs"),
        (
            encoded(
                Image.fromarray(np.uint8([[3, 0, 252, 0], [0, 3, 0, 250]])), "JPEG", quality=100
            ),
            "save it as PNG",
        ),
        (encoded(Image.new("L", (4, 2)))[:45], "cut off or damaged"),
        (png_header(4, 10_000_001), "40.0 megapixels"),
        (b"", "the file is empty"),
        (b"no image", "it is a text file"),
        (encoded(Image.new("L", (4, 2)), "ICO"), "."),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_what_is_no_mask_says_why_in_one_line(data, said):
    with pytest.raises(ImageError, match=said) as caught:
        read_mask(data, (2, 4))
    assert "round truth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("suffix", [".svg", ".html", ".exe", ""])
def test_what_a_file_holds_counts_not_its_name(suffix, tmp_path):
    path = tmp_path / f"road{suffix}"
    path.write_bytes(encoded(Image.fromarray(photo())))
    np.testing.assert_array_equal(read_image(path), photo())


def test_messages_are_short_and_move_no_terminal(tmp_path):
    for name in ("x" * 5_000 + ".png", "\x1b[2J\u202egpj.png", "\ud800.png", "a\nb.png"):
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()
