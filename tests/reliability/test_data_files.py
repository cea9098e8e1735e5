"""Bombs and damaged files inside data sets: each is one fault, and takes no more than a picture."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2kan.errors import ConfigError, printable
from tests.reliability.bombs import bombs, encoded, originals_of, png
from tests.reliability.decoding import decoded, keep, worst, written
from tests.reliability.mutations import Mutation, turned_off
from tests.reliability.test_pictures import MEGABYTES, NO_MASK_BOMBS, SECONDS
from tests.train_processes import ENVIRONMENT, ROOT
from tests.unit.training.data_trees import own
from training.data import outliers, reading
from training.data.check import inspect_data
from training.data.faults import FaultError
from training.data.sets import anomaly_folder, camvid_anomaly, image_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures by Linux's own figures")

Save = Callable[[str, bytes], Path]
CLASS_SECONDS = 2
SHAPE = (8, 8, 3)  # of the image that overlays are added to


@pytest.mark.row(
    "bomb in a data set", limit=f"refused, each in < {SECONDS * 1e3:.0f} ms and < {MEGABYTES} MB"
)
@pytest.mark.parametrize("kind", ["image", "label", "colours", "anomalies", "cut-out"])
def test_bombs_in_a_data_set(
    kind: str, tmp_path: Path, figure: Callable[[str], None], save_failure: Save
) -> None:
    files = {name: one for some in bombs().values() for name, one in some.items()}
    for name in () if kind == "image" else NO_MASK_BOMBS:
        del files[name]
    answers = decoded(written(tmp_path, files), kind)
    faults = [
        one for one in answers if not one.refused or one.cpu > SECONDS or one.megabytes > MEGABYTES
    ]
    figure(f"as {kind}: {len(answers) - len(faults)} of {len(answers)} refused, {worst(answers)}")
    assert not keep(faults, tmp_path, save_failure)


def _labels() -> dict[str, tuple[np.ndarray, bytes]]:
    """Honest labels: numbers, and the file."""
    values = (np.arange(2048 * 1024) % 19).astype(np.uint8).reshape(1024, 2048)
    gray, palette = Image.fromarray(values), Image.fromarray(values)
    palette.putpalette([*range(57)])
    ways = {
        "gray.png": (gray, "PNG", {}),
        "palette.png": (palette, "PNG", {}),
        "few.png": (palette, "PNG", {"bits": 8}),
        "gray.bmp": (gray, "BMP", {}),
        "palette.bmp": (palette, "BMP", {}),
        "gray.tif": (gray, "TIFF", {}),
        "lzw.tif": (gray, "TIFF", {"compression": "tiff_lzw"}),
        "deflate.tif": (palette, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "packbits.tif": (gray, "TIFF", {"compression": "packbits"}),
    }
    return {
        name: (values, encoded(image, kind, **options))
        for name, (image, kind, options) in ways.items()
    }


@pytest.mark.row("honest files of data sets", limit="all read, every number as it was stored")
def test_honest_files_are_read(tmp_path: Path, figure: Callable[[str], None]) -> None:
    labels = _labels()
    for name, (values, content) in labels.items():
        assert np.array_equal(reading.decode_label(Path(name), content), values), name
        assert np.array_equal(anomaly_folder._decode(Path(name), content)[0], values), name
    wide = encoded(Image.fromarray(np.full((8, 8), 24_003, np.uint16)), "PNG")
    assert np.asarray(reading.load_png(Path("ids.png"), wide, "ids"))[0, 0] == 24_003
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    pictures = originals_of(pixels)
    for name, content in pictures.items():
        assert reading.decode_image(Path(name), content).ndim == 3, name
        assert reading.image_format(content) is not None, name
    figure(f"{len(labels)} labels, {len(pictures)} pictures")


def test_labels_have_the_limits_of_pictures() -> None:
    large = encoded(Image.new("L", (8_000, 5_000)), "PNG", compress_level=1)
    assert reading.decode_label(Path("a.png"), large).shape == (5_000, 8_000)
    expected = r"41\.0 megapixels \(8001 × 5125\); expected .* class numbers, up to 40 MP"
    with pytest.raises(FaultError, match=expected):
        reading.decode_label(Path("a.png"), png(8_001, 5_125))


def test_the_values_of_a_large_mask_take_no_more_than_the_mask(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("L", (8_000, 2_000), 255), "PNG", compress_level=1))
    tracemalloc.start()
    assert anomaly_folder._values_in(path, 0, 0) == {255}
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * 8_000 * 2_000


def test_a_png_that_hides_its_kind_is_no_label() -> None:
    """What stands before the header is read as the header of the numbers."""
    content = encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG")
    chunk = png(1, 1)[8:33]  # says 8-bit gray, and Pillow goes by the header after it
    with pytest.raises(FaultError, match="label-"):
        reading.decode_label(Path("a.png"), content[:8] + chunk + content[8:])


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"


@pytest.mark.row("PostScript as a cut-out", limit="no interpreter is started")
def test_no_interpreter_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    from training import pack

    started = tmp_path / "started"
    for name in ("gs", "gswin64c"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ntouch {started}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / "dog.png"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(outliers.ImageError, match=r"dog\.png: it is a PostScript document"):
        outliers.CutOutFolder(tmp_path).draw(np.random.default_rng(0))
    with pytest.raises(FaultError, match=r"dog\.png: damaged-image: it is a PostScript document"):
        pack._extra(path, 80, 512)
    assert not started.exists()
    figure("refused, none started")


def _npz(array: np.ndarray, name: str = "rgb.npy", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer, inside = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(inside, array)
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, inside.getvalue())
    return buffer.getvalue()


def _large(method: int, count: int = 200_000_000) -> bytes:
    """The head of an array of 200 MB, and some of its zeros."""
    buffer, head = io.BytesIO(), io.BytesIO()
    facts = {"descr": "<i2", "fortran_order": False, "shape": (10_000, 10_000, 1)}
    np.lib.format.write_array_header_1_0(head, facts)
    with zipfile.ZipFile(buffer, "w", method) as archive, archive.open("rgb.npy", "w") as file:
        file.write(head.getvalue())
        for _ in range(0, count, 1_000_000):
            file.write(bytes(1_000_000))
    return buffer.getvalue()


def _overlays() -> dict[str, tuple[str, bytes]]:
    """Overlays to be refused: the reason to be told, and the file."""
    good = _npz(np.ones(SHAPE, np.int16))
    packed = bytearray(_npz(np.arange(192, dtype=np.int16).reshape(SHAPE)))
    packed[37:60] = b"\xff" * 23  # behind the entry's head and name
    method, secret = bytearray(good), bytearray(good)
    start = good.index(b"PK\1\2")
    method[start + 10], method[8] = 97, 97
    secret[start + 8], secret[6] = 1, 1
    plain = io.BytesIO()
    np.save(plain, np.ones(SHAPE, np.int16))
    listed = good[start : good.index(b"PK\5\6")]
    many = good[:start] + listed * 300_000
    end = bytearray(good[good.index(b"PK\5\6") :])
    end[12:16] = len(listed * 300_000).to_bytes(4, "little")
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as archive:
        archive.writestr("rgb.npy", b"no array")
        archive.writestr("rgb", b"no array")
    head = _large(zipfile.ZIP_STORED, 0).replace(b"(10000, 10000, 1)", b"(9**9, 10000, 1)")
    return {
        "damaged.npz": ("expected an .npz", bytes(packed)),
        "text.npz": ("magic string", text.getvalue()),
        "plain.npz": ("not a zip file", plain.getvalue()),
        "method.npz": ("packed by method 97", bytes(method)),
        "secret.npz": ("encrypted", bytes(secret)),
        "objects.npz": ("holds object", _npz(np.full(SHAPE, None))),
        "texts.npz": ("holds <U1", _npz(np.full(SHAPE, "a"))),
        "other.npz": ("no item named 'rgb.npy'", _npz(np.ones(SHAPE), "other.npy")),
        "head.npz": ("expected an .npz", head),
        "shape.npz": ("has shape (8, 8)", _npz(np.ones((8, 8), np.int16))),
        "cut.npz": ("not a zip file", good[: len(good) // 2]),
        "zeros.npz": ("unpacks to 200,000,", _large(zipfile.ZIP_DEFLATED)),
        "claims.npz": ("has shape (10000, 10000, 1)", _large(zipfile.ZIP_STORED, 0)),
        "blocks.npz": ("packed by method 12", _large(zipfile.ZIP_BZIP2)),
        "many.npz": ("more than 1,000 arrays", many + bytes(end)),
    }


@pytest.mark.row("damaged overlay", limit=f"one fault each, < {MEGABYTES} MB")
def test_overlays(tmp_path: Path, figure: Callable[[str], None], save_failure: Save) -> None:
    files = _overlays()
    paths = written(tmp_path, {name: content for name, (_, content) in files.items()})
    answers = decoded(paths, "overlay")
    faults = [
        one
        for one in answers
        if not (one.refused and files[one.name][0] in one.said)
        or one.cpu > SECONDS
        or one.megabytes > MEGABYTES
    ]
    figure(f"{len(answers) - len(faults)} of {len(answers)} refused, {worst(answers)}")
    assert not keep(faults, tmp_path, save_failure)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", "<i8", "i1", "<f4"])
def test_honest_overlays_are_added(tmp_path: Path, dtype: str) -> None:
    image = np.full(SHAPE, 250, np.uint8)
    difference = np.arange(-96, 96).reshape(SHAPE)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", rgb=difference.astype(dtype), more=np.zeros(5))
        added = reading.apply_overlay(image, tmp_path / "a.npz")
        assert np.array_equal(added, np.clip(250 + difference, 0, 255))


def _with_classes(root: Path, content: bytes) -> list[str]:
    data = own(root, 0, 1)
    (root / "classes.txt").write_bytes(content)
    return [str(fault) for fault in inspect_data(data).faults]


@pytest.mark.row("odd list of classes", limit="one fault, at once")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"1" * 5000 + b" road", "a line of more than 300 characters"),
        (b"road 1 2 " + b"1" * 5000, "a line of more than 300 characters"),
        (b"".join(b"%d\n" % number for number in range(20_000)), "has 20000 names"),
        (b"a\n" * 20_000, "repeats 'a'"),
        (b"a\n" * 300_000, "it has 600,000 bytes, at most 400,000 fit"),
        (b"road\nsk\x1b[31my\n", "characters that cannot be printed"),
        ("road\nsk\u202ey\n".encode(), "characters that cannot be printed"),
        (b"road\nsk\xff\n", "it is not UTF-8"),
    ],
)
def test_lists_of_classes(
    tmp_path: Path, content: bytes, reason: str, figure: Callable[[str], None]
) -> None:
    start = time.process_time()
    faults = _with_classes(tmp_path / "set", content)
    spent = time.process_time() - start
    figure(f"{reason}, {spent * 1e3:.0f} ms")
    assert len(faults) == 1
    assert reason in faults[0]
    assert len(faults[0]) < 1_000
    assert spent < CLASS_SECONDS


def test_a_list_of_another_editor_is_read(tmp_path: Path) -> None:
    assert _with_classes(tmp_path / "set", b"\xef\xbb\xbfroad\r\nblue  sky\r\n") == []
    assert image_folder.read_classes(tmp_path / "set" / "classes.txt")[0] == ("road", "blue sky")


@pytest.mark.parametrize("number", ["\u00b2", "256", "1" * 299, "-1"])
def test_lists_of_colours(tmp_path: Path, number: str) -> None:
    path = tmp_path / "colours.txt"
    path.write_text(f"{number} 1 2 Road\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected 'red green blue name'"):
        camvid_anomaly._meaning_of_colors(path)


@pytest.mark.row("odd COCO annotations", limit="one sentence")
def test_annotations(tmp_path: Path, figure: Callable[[str], None]) -> None:
    image = {"file_name": "a.jpg", "id": 1, "height": 480, "width": 640}
    instance = {"image_id": 1, "category_id": 7, "iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    facts = {"categories": [{"id": 7, "name": "cow"}]}
    good = {**facts, "images": [image], "annotations": [instance]}
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(good))
    assert len(outliers.CocoObjects(tmp_path)._names) == 1
    names = ["../a.jpg", "/etc/a.jpg", "a\0.jpg", "a\x1b[31m.jpg", "", 5, None]
    rings = [[[10**400, 0, 1, 1]], [[1e9, 0, 1, 1]], [[float("nan"), 0, 1, 1]], [[1, 2, 3]], 7]
    odd: list[Any] = [
        *({**good, "images": [{**image, "file_name": name}]} for name in names),
        *({**good, "annotations": [{**instance, "segmentation": ring}]} for ring in rings),
        *([], 3, {"images": 1, "annotations": 2, "categories": 3}, {**good, "images": [[]]}),
    ]
    for content in [*map(json.dumps, odd), "[" * 200_000, "[" * 10, "1" * 5_000]:
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"is not COCO's instance file[^\n]*\.$") as caught:
            outliers.CocoObjects(tmp_path)
        assert len(str(caught.value)) < 500
    figure(f"{len(odd) + 3} told")


def test_a_folder_whose_name_is_no_text_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "cache"))
    root = own(tmp_path / "set\udcff", 0, 1, names=("road", "sky"))
    assert inspect_data(root).faults == []
    assert inspect_data(root, remembered=True).recalled


# In a child whose output is strict about text, as some terminals are.
STRICT = {**ENVIRONMENT, "PYTHONIOENCODING": "utf-8:strict"}


@pytest.mark.row("odd names in a data set", limit="every line is the check's own")
def test_names_in_a_data_set(tmp_path: Path, figure: Callable[[str], None]) -> None:
    root = own(tmp_path / "set\x1b[2J", 0, 1, names=("road", "sky"))
    odd = ["bad\udcff", "esc\x1b[31m", "line\n0 faults in 4 images of", "turned\u202e"]
    for name in odd:
        (root / "train" / "images" / f"{name}.png").write_bytes(b"words")
        (root / "train" / "masks" / f"{name}.png").write_bytes(b"words")
        (root / "train" / "images" / f"{name}.txt").write_bytes(b"words")
    done = subprocess.run(
        [sys.executable, "-m", "training.data", "check", f"folder={root}"],
        cwd=ROOT,
        env={**STRICT, "MASK2KAN_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        check=False,
        timeout=120,
    )
    printed = done.stdout.decode()
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr
    lines = printed.splitlines()
    assert printable(printed.replace("\n", "")) == printed.replace("\n", "")
    assert sum(line.endswith(": not-an-image: no image format") for line in lines) == 0
    assert sum(": not-an-image: " in line for line in lines) == 2 * len(odd)
    assert [line for line in lines if line.startswith("0 faults")] == []
    assert lines[-1].startswith(f"{2 * len(odd)} faults in ")
    figure(f"{len(lines)} lines")


READING = "training.data.reading"
BOMBS, OVERLAYS = "test_bombs_in_a_data_set", "test_overlays"

MUTATIONS = [
    Mutation(
        "labels are opened within the bounds",
        BOMBS,
        READING,
        "with open_image(content, formats) as (opened, _):",
        "with __import__('PIL.Image').Image.open(io.BytesIO(content), formats=formats) as opened:",
    ),
    Mutation(
        "a format is named without opening the file",
        f"{BOMBS} and image",
        READING,
        "    begins = _FORMAT.match(content)\n",
        "    begins = _FORMAT.match(content)\n"
        "    __import__('PIL.Image').Image.open(io.BytesIO(content))\n",
    ),
    Mutation(
        "a label's kind is what was decoded",
        "test_a_png_that_hides",
        READING,
        "image.mode not in _NUMBERS or (",
        "(",
    ),
    Mutation(
        "few formats are cut-outs",
        "test_no_interpreter",
        "training.data.outliers",
        '("PNG", "WEBP")',
        "None",
    ),
    Mutation(
        "few formats are packed",
        "test_no_interpreter",
        "training.pack",
        "open_image(content)",
        "open_image(content, None)",
    ),
    Mutation(
        "cut-outs are opened within the bounds",
        f"{BOMBS} and cut-out",
        "training.data.outliers",
        "with open_image(read_file(path), CUTOUT_FORMATS) as (opened, _):",
        "with __import__('PIL.Image').Image.open(path, formats=CUTOUT_FORMATS) as opened:",
    ),
    turned_off("an overlay's size is checked", READING, "entry.file_size > most", OVERLAYS),
    turned_off("an overlay's shape is checked", READING, "found != shape", OVERLAYS),
    turned_off(
        "an overlay's packing is one that counts",
        READING,
        "entry.compress_type not in _BOUNDED",
        OVERLAYS,
    ),
    turned_off(
        "an overlay's arrays are counted",
        READING,
        "content.count(_ZIP_ENTRY) > _MOST_ENTRIES",
        OVERLAYS,
    ),
    turned_off(
        "an overlay holds numbers",
        READING,
        'dtype.kind not in "biuf" or dtype.itemsize > _WIDEST',
        OVERLAYS,
    ),
    Mutation(
        "a mask's values are counted as bytes",
        "test_the_values_of",
        "training.data.sets.anomaly_folder",
        "histogram(values)))",
        "np.bincount(values.ravel())))",
    ),
    Mutation(
        "a folder's name may be of any bytes",
        "test_a_folder_whose",
        "training.data.check",
        "os.fsencode(scan.title)",
        "scan.title.encode()",
    ),
    turned_off(
        "lines of a list of classes are limited",
        READING,
        "max(map(len, lines), default=0) > MAX_LINE",
        "test_lists_of",
    ),
    turned_off(
        "a list of classes is limited",
        READING,
        "len(content) > MAX_LIST_BYTES",
        "test_lists_of_classes",
    ),
    turned_off(
        "names of classes can be printed",
        READING,
        "any(printable(word) != word for line in words for word in line)",
        "test_lists_of_classes",
    ),
    Mutation(
        "names of classes are counted once",
        "test_lists_of_classes",
        "training.data.sets.image_folder",
        "count in Counter(names).items() if count > 1",
        "count in ((name, names.count(name)) for name in names) if count > 1",
    ),
    Mutation(
        "annotations nested too deeply are told",
        "test_annotations",
        "training.data.outliers",
        "except RecursionError as error:",
        "except ZeroDivisionError as error:",
    ),
    turned_off(
        "names in annotations are names of files",
        "training.data.outliers",
        "not name or Path(name).name != name or printable(name) != name",
        "test_annotations",
    ),
    turned_off(
        "outlines lie where images do",
        "training.data.outliers",
        "not (np.abs(ring) <= MAX_SIDE).all()",
        "test_annotations",
    ),
    Mutation(
        "a fault is a line that can be printed",
        "test_names_in",
        "training.data.faults",
        'printable(f"{self.path}: {self.rule}: {self.message}")',
        'f"{self.path}: {self.rule}: {self.message}"',
    ),
    Mutation(
        "a note is a line that can be printed",
        "test_names_in",
        "training.data.faults",
        "[printable(line) for line in lines]",
        "lines",
    ),
    Mutation(
        "the last line can be printed",
        "test_names_in",
        "training.data.__main__",
        'printable(f"{faults} in',
        'str(f"{faults} in',
    ),
    Mutation(
        "whatever damages an overlay trips is one fault",
        OVERLAYS,
        READING,
        "except Exception as error:  # zipfile",
        "except (OSError, ValueError, KeyError) as error:  # zipfile",
    ),
]
