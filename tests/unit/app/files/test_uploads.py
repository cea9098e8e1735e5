"""Which files are opened on a visitor's behalf."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from app.files import uploads
from app.files.samples import FOLDER, sample_pictures, truth_of
from app.files.uploads import given, name_of, read_truth, read_upload, safe_stem, stored
from mask2kan.errors import ImageError

EXAMPLE = sample_pictures()[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The upload folder; it holds one picture, as Gradio stores it."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    (tmp_path / "gradio" / "abc").mkdir(parents=True)
    (tmp_path / "gradio" / "abc" / "x.webp").write_bytes(EXAMPLE.read_bytes())
    return tmp_path / "gradio"


def test_uploads_and_examples_are_read(folder: Path) -> None:
    truth = truth_of(EXAMPLE)
    for path in (folder / "abc" / "x.webp", EXAMPLE, truth):
        assert stored({"path": str(path)}) == path.resolve()
    size = read_upload({"path": str(folder / "abc" / "x.webp")}).shape[:2]
    assert read_truth({"path": str(truth)}, size).shape == size
    assert given(str(folder / "abc" / "x.webp"), "../y.png") == {
        "path": str((folder / "abc" / "x.webp").resolve()),
        "orig_name": "y.png",
    }


def test_an_upload_folder_behind_a_link_and_one_named_relatively(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    real = folder / "abc" / "x.webp"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(link))
    assert stored({"path": str(link / "abc" / "x.webp")}) == real
    assert stored({"path": str(real)}) == real
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "link/../gradio")
    assert stored({"path": "gradio/abc/x.webp"}) == real


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs and links")
def test_everything_else_is_refused_in_the_same_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = folder.parent / "outside.webp"
    outside.write_bytes(EXAMPLE.read_bytes())
    (folder / "link.webp").symlink_to(outside)
    (folder / "circle").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe.webp")
    paths = [
        *(outside, folder / "link.webp", folder / "pipe.webp", folder / "circle", folder),
        *(folder / "abc", folder / "absent.webp", f"{folder}/../outside.webp", f"/{folder}/abc/x"),
        *("/dev/zero", "/dev/stdin", outside.as_uri(), f"//localhost{outside}", "x" * 5000),
        *(rf"\\localhost\share\{outside.name}", f"{folder}/abc/x.webp\0", "~", "outside.webp"),
        f"{folder}/\ud800/x.webp",
        *(FOLDER / "SOURCES.md", f"{folder}2/x.webp"),
    ]
    monkeypatch.chdir(folder.parent)
    for path in paths:
        with pytest.raises(ImageError) as caught:
            stored({"path": str(path)})
        assert str(caught.value) == uploads._NOT_HERE, path


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (None, "No picture was given"),
        ({}, "No picture was given"),
        ({"path": None}, "not sent as a file"),
        ({"path": ["x"]}, "not sent as a file"),
        ("/dev/zero", "not sent as a file"),
        ([3], "not sent as a file"),
    ],
)
def test_what_is_no_file_at_all(payload: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        stored(payload)


def test_what_visitors_call_their_files_names_others_safely() -> None:
    assert name_of({"path": "/a/b.png"}) == "b.png"
    assert name_of({"path": "/a/b.png", "orig_name": "../../c d.png"}) == "c d.png"
    assert name_of({"orig_name": "a\0b\n.png"}) == "ab.png"
    assert name_of({"orig_name": "a\ud800b.png"}) == "ab.png"
    long = name_of({"orig_name": "𝔵" * 300 + ".png"})
    assert len(f"mask2kan_{long}.zip".encode()) <= 255
    assert long.endswith("𝔵.png")
    assert name_of(None) == name_of({"orig_name": "\0"}) == "picture"
    assert name_of({"orig_name": "a\u202egpj.exe"}) == "agpj.exe"
    assert name_of({"orig_name": "\u2066\x1b[2Jb.png"}) == "[2Jb.png"
    assert len(name_of({"orig_name": "x" * 5_000})) == 60


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("road.png", "road"),
        ("../../etc/passwd", "etc_passwd"),
        (r"..\..\x.png", "x"),
        ("CON.png", "_CON"),
        ("nul", "_nul"),
        ("LPT1.tar.gz", "_LPT1.tar"),
        ("console.png", "console"),
        ("a. . .png", "a"),
        ("a" * 59 + ".b.png", "a" * 59),
        ("a\u202eb\0c.png", "a_b_c"),
        ("<img onerror>.png", "img_onerror"),
        ("...", "picture"),
        ("улица 1.jpg", "улица_1"),
    ],
)
def test_files_are_named_so_that_every_system_can_write_them(name: str, stem: str) -> None:
    assert safe_stem(name) == stem
