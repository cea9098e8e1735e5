"""The check of data sets: every fault planted into every kind is listed by file and rule."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mask2kan.errors import ConfigError
from tests.unit.training.data_trees import SIZE, TREES, Tree, save
from training.data import check
from training.data.__main__ import main
from training.data.check import inspect_data
from training.data.faults import NOTES, RULES, Fault

ROOT = Path(__file__).resolve().parents[4]
NESTED = ("cityscapes", "lost_and_found", "fishyscapes_lost_and_found", "fishyscapes_static")
# Labels of these name the images; an image without one is no part of them.
LABELS_LEAD = ("fishyscapes_lost_and_found", "fishyscapes_static", "camvid_anomaly")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def check_data(*data: Any, **options: Any) -> list[Fault]:
    return inspect_data(*data, **options).faults


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return TREES[request.param](tmp_path / "set")


def kind_of(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["tree"])


Expected = set[tuple[Path, str]]


def fill(value: object) -> np.ndarray:
    """A label of one value; twice the size where labels are colours, as CamVid's are."""
    if isinstance(value, tuple):
        return np.full((2 * SIZE[0], 2 * SIZE[1], 3), value, np.uint8)
    return np.full(SIZE, value, np.uint8)


Plant = Callable[[Tree, str], Expected]


def missing_label(tree: Tree, kind: str) -> Expected:
    tree.first[1].unlink()
    return {(tree.first[0], "missing-label")}


def missing_image(tree: Tree, kind: str) -> Expected:
    tree.first[0].unlink()
    return {(tree.first[1], "missing-image")}


def label_of(rule: str, pixels: Callable[[Tree], np.ndarray], **options: Any) -> Plant:
    """Replace the first label by these pixels, which break the rule."""

    def plant(tree: Tree, kind: str) -> Expected:
        return {(save(tree.first[1], pixels(tree), **options), rule)}

    return plant


def value_out_of_range(tree: Tree, kind: str) -> Expected:
    assert tree.odd is not None
    label = fill(tree.known)
    label[3, 5] = tree.odd
    save(tree.first[1], label)
    return {(tree.first[1], "label-range")}


def size_and_value(tree: Tree, kind: str) -> Expected:
    assert isinstance(tree.odd, int)
    save(tree.first[1], fill(tree.odd)[:10])
    return {(tree.first[1], "label-range"), (tree.first[1], "size-mismatch")}


def jpeg_label(tree: Tree, kind: str) -> Expected:
    path = save(tree.first[1].with_suffix(".jpg"), fill(tree.known))
    tree.first[1].unlink()
    return {(path, "label-format")}


def no_anomaly(tree: Tree, kind: str) -> Expected:
    labels = [pair.label for pair in check._scan_anomalies(tree.data).pairs]
    for label in labels:
        save(label, fill(tree.known))
    return {(labels[0].parent, "no-anomaly")}


def cut_image(tree: Tree, kind: str) -> Expected:
    content = tree.first[0].read_bytes()
    tree.first[0].write_bytes(content[: len(content) // 2])
    return {(tree.first[0], "damaged-image")}


def cut_label(tree: Tree, kind: str) -> Expected:
    content = tree.first[1].read_bytes()
    tree.first[1].write_bytes(content[: len(content) - 20])
    return {(tree.first[1], "damaged-label")}


def text_as_image(tree: Tree, kind: str) -> Expected:
    tree.first[0].write_text("this is no image, but words\n")
    return {(tree.first[0], "not-an-image")}


def page_as_label(tree: Tree, kind: str) -> Expected:
    tree.first[1].write_text("<!doctype html><title>404</title>")
    return {(tree.first[1], "not-an-image")}


def empty_files(tree: Tree, kind: str) -> Expected:
    for path in tree.first:
        path.write_bytes(b"")
    return {(path, "empty-file") for path in tree.first}


def in_two_splits(tree: Tree, kind: str) -> Expected:
    assert tree.other is not None
    shutil.copy(tree.first[0], tree.other)
    return {(tree.other, "split-overlap")}


def looping_label(tree: Tree, kind: str) -> Expected:
    image, label = tree.first
    label.unlink()
    label.symlink_to(label.name)
    expected = {(label, "symlink-loop")}
    if kind not in (*LABELS_LEAD, "road_anomaly"):
        expected.add((image, "missing-label"))
    return expected


def looping_folder(tree: Tree, kind: str) -> Expected:
    folder = tree.images.parent if kind in NESTED else tree.images
    (folder / "loop").symlink_to(folder)
    return {(folder / "loop", "symlink-loop")}


def broken_link(tree: Tree, kind: str) -> Expected:
    tree.first[0].unlink()
    tree.first[0].symlink_to("nowhere.png")
    return {(tree.first[0], "broken-link")}


SEGMENTATION = ("camvid", "folder", "ade20k", "cityscapes")
COLOURS = ("camvid_anomaly",)
OWN = ("anomaly_folder",)  # grey is taken in every form
ANY_VALUE = ("m2a_static", "m2a_lost_and_found", "fishyscapes_static", "fishyscapes_lost_and_found")
# What is planted, and the kinds of data set that cannot have it.
PLANTED: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "missing_label": (missing_label, LABELS_LEAD),
    "missing_image": (missing_image, ()),
    "another_size": (label_of("size-mismatch", lambda tree: fill(tree.known)[:10]), ()),
    "value_out_of_range": (value_out_of_range, ANY_VALUE),
    "size_and_value": (size_and_value, (*ANY_VALUE, *COLOURS)),
    "rgb_label": (label_of("label-rgb", lambda _: np.zeros((*SIZE, 3), np.uint8)), COLOURS + OWN),
    "rgba_label": (label_of("label-rgb", lambda _: np.zeros((*SIZE, 4), np.uint8)), COLOURS + OWN),
    "wide_label": (label_of("label-mode", lambda _: np.zeros(SIZE, np.uint16)), COLOURS),
    "one_bit_label": (label_of("label-mode", lambda _: np.zeros(SIZE, bool)), COLOURS + OWN),
    "jpeg_called_png": (
        label_of("label-format", lambda tree: fill(tree.known), format="JPEG"),
        (),
    ),
    "jpeg_label": (jpeg_label, ("road_anomaly",)),  # the name is fixed
    "no_anomaly": (no_anomaly, SEGMENTATION),
    "cut_image": (cut_image, ()),
    "cut_label": (cut_label, ()),
    "text_as_image": (text_as_image, ()),
    "page_as_label": (page_as_label, ()),
    "empty_files": (empty_files, ()),
    "in_two_splits": (in_two_splits, tuple(name for name in TREES if name not in SEGMENTATION)),
    "looping_label": (looping_label, ()),
    "looping_folder": (looping_folder, ()),
    "broken_link": (broken_link, ()),
}
CASES = [
    pytest.param(kind, plant, id=f"{kind}-{name}")
    for name, (plant, without) in PLANTED.items()
    for kind in TREES
    if kind not in without
]


@pytest.mark.parametrize(("kind", "plant"), CASES)
def test_a_planted_fault_is_listed_and_nothing_else(
    kind: str, plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = TREES[kind](tmp_path / "set")
    expected = plant(tree, kind)
    assert main(["check", tree.data, "--workers", "2"]) == 1
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith("/")]
    for path, rule in expected:
        assert any(line.startswith(f"{path}: {rule}: ") for line in shown), (path, rule, lines)
    assert len(shown) == len(expected), shown
    assert all("expected" in line or "Use JPEG" in line for line in shown)
    for rule in {rule for _, rule in expected}:
        assert f"{sum(rule == r for _, r in expected):>6} {rule}: {RULES[rule]}" in lines


def test_clean_sets_are_clean(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", tree.data]) == 0
    assert "0 faults in " in capsys.readouterr().out


def test_a_void_label_is_a_note_and_void_alone_a_fault(
    tree: Tree, request: pytest.FixtureRequest
) -> None:
    save(tree.first[1], fill(tree.void))
    report = inspect_data(tree.data)
    assert report.faults == []
    assert [note.path for note in report.notes if note.rule == "all-void"] == [tree.first[1]]
    if tree.anomalies:
        scans = [check._scan_anomalies(tree.data)]
    else:
        scans, _, _ = check._scan_splits(tree.data, None)
    for pair in scans[-1].pairs:
        save(pair.label, fill(tree.void))
    expected = ["no-anomaly" if tree.anomalies else "no-class"]
    if kind_of(request) == "anomaly_folder":  # whose 255 is an anomaly where no mask holds a 1
        expected = []
    assert [fault.rule for fault in check_data(tree.data)] == expected


def test_a_split_without_images(tree: Tree, request: pytest.FixtureRequest) -> None:
    kind = kind_of(request)
    if tree.anomalies:
        scan = check._scan_anomalies(tree.data)
    else:
        (scan,), _, _ = check._scan_splits(tree.data, ["train"])
    for pair in scan.pairs:
        pair.label.unlink()
        pair.image.unlink()
        if kind == "road_anomaly":
            pair.label.parent.rmdir()
    for image in tree.images.iterdir():
        image.unlink()
    assert [fault.rule for fault in check_data(tree.data)] == ["empty-split"]


def test_a_missing_folder(tree: Tree, request: pytest.FixtureRequest) -> None:
    kind = kind_of(request)
    folder = tree.images.parent if kind in NESTED else tree.images
    folder = folder.parent if kind.startswith("fishyscapes") else folder
    shutil.rmtree(folder)
    faults = check_data(tree.data)
    assert [fault.rule for fault in faults].count("missing-folder") == 1
    assert {fault.rule for fault in faults} <= {"missing-folder", "missing-image"}


def test_what_is_ignored_is_noted(tree: Tree) -> None:
    (tree.images / "credits.txt").write_text("thanks")
    (tree.images / ".hidden").write_text("thanks")
    report = inspect_data(tree.data)
    assert report.faults == []
    assert [note.path for note in report.notes if note.rule == "other-file"] == [
        tree.images / "credits.txt"
    ]
    assert {note.rule for note in report.notes} <= set(NOTES)


@pytest.mark.parametrize("kind", [name for name in TREES if name not in SEGMENTATION])
def test_images_without_an_anomaly_are_noted(kind: str, tmp_path: Path) -> None:
    tree = TREES[kind](tmp_path)
    save(tree.first[1], fill(tree.known))
    report = inspect_data(tree.data)
    assert report.faults == []
    assert [note.path for note in report.notes if note.rule == "no-anomaly-here"] == [tree.first[1]]


def test_overlays_of_fishyscapes_static(tmp_path: Path) -> None:
    tree = TREES["fishyscapes_static"](tmp_path)
    overlay = Path(str(tree.first[1]).replace("_labels.png", "_rgb.npz"))
    for content in (b"", b"PK\x03\x04 no archive"):
        overlay.write_bytes(content)
        assert [(f.path, f.rule) for f in check_data(tree.data)] == [(overlay, "damaged-overlay")]
    np.savez(overlay, rgb=np.zeros((2, 2, 3)))
    assert [(f.path, f.rule) for f in check_data(tree.data)] == [(overlay, "damaged-overlay")]
    overlay.unlink()
    assert [(f.path, f.rule) for f in check_data(tree.data)] == [(overlay, "damaged-overlay")]


def test_lists_of_classes(tmp_path: Path) -> None:
    tree = TREES["folder"](tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    assert {fault.rule for fault in check_data(tree.data)} == {"class-list"}
    tree = TREES["camvid_anomaly"](tmp_path / "camvid")
    (tmp_path / "camvid" / "val" / "label_colors_32class.txt").unlink()
    assert "class-list" in {fault.rule for fault in check_data(tree.data)}


def test_two_images_of_one_name(tmp_path: Path) -> None:
    tree = TREES["camvid"](tmp_path)
    double = save(tree.first[0].with_suffix(".webp"), fill((1, 2, 3))[: SIZE[0], : SIZE[1]])
    assert [(f.path, f.rule) for f in check_data(tree.data)] == [(double, "duplicate-name")]


# Everything is imported first: the other user may not be allowed to read this Python.
AS_ANOTHER = """
import os, sys
from PIL import Image
from training.data.__main__ import main
Image.init()
main(["check", "synthetic"])
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for data in sys.argv[1:]:
    print("status", main(["check", data]), flush=True)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Unix")
def test_what_may_not_be_read_is_listed(open_folder: Path) -> None:
    """Root may read everything, so the check runs as another user there."""
    closed_file = TREES["camvid"](open_folder / "a")
    closed_folder = TREES["cityscapes"](open_folder / "b")
    closed_root = TREES["folder"](open_folder / "c")
    for path in (*closed_file.first, closed_folder.images, Path(closed_root.data)):
        path.chmod(0)
    process = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, closed_file.data, closed_folder.data, closed_root.data],
        cwd=ROOT,
        env={**os.environ, "MASK2KAN_CACHE": str(open_folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    for path in (closed_folder.images, Path(closed_root.data)):
        path.chmod(0o755)  # so that the folder can be removed
    statuses = [line for line in process.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 1", "status 1", "status 2"], process.stderr
    for path in (*closed_file.first, closed_folder.images):
        assert f"{path}: no-permission: Permission denied" in process.stdout
    assert f"error: Cannot read the folder {closed_root.data}: Permission denied" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_clean_result_is_remembered_until_a_file_changes(
    tree: Tree, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not inspect_data(tree.data, remembered=True).recalled
    assert len(list((cache / "data").iterdir())) == 1
    looked = []
    whole = check._examine
    monkeypatch.setattr(check, "_examine", lambda pair: (looked.append(pair), whole(pair))[1])
    assert inspect_data(tree.data, remembered=True).recalled
    assert check_data(tree.data, remembered=True) == []
    assert looked == []
    assert not inspect_data(tree.data).recalled  # unless asked to believe it
    for path in tree.first:
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert not inspect_data(tree.data, remembered=True).recalled
        assert inspect_data(tree.data, remembered=True).recalled
    tree.first[1].write_bytes(b"")
    for _ in range(2):  # what has faults is not remembered
        assert [f.rule for f in check_data(tree.data, remembered=True)] == ["empty-file"]


def test_other_classes_are_not_taken_for_what_was_remembered(tmp_path: Path) -> None:
    tree = TREES["folder"](tmp_path)
    assert check_data(tree.data, remembered=True) == []
    (tmp_path / "classes.txt").write_text("cat\n")
    assert {f.rule for f in check_data(tree.data, remembered=True)} == {"label-range"}


def test_a_cache_that_cannot_be_written_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "file"))
    assert check_data(TREES["camvid"](tmp_path / "set").data, remembered=True) == []
    assert "repeated the next time" in caplog.text


def test_splits_can_be_chosen(tmp_path: Path) -> None:
    tree = TREES["camvid"](tmp_path)
    tree.first[1].unlink()
    assert check_data(tree.data, ["val"]) == []
    assert len(check_data(tree.data, ["train", "val"])) == 1
    with pytest.raises(ConfigError, match="Unknown split 'dev'"):
        check_data(tree.data, ["dev"])


def test_folders_of_anomalies_are_recognised(tmp_path: Path) -> None:
    tree = TREES["smiyc_obstacle"](tmp_path)
    root = tree.data.partition("=")[2]
    assert inspect_data(root, anomaly=True).title.startswith("RoadObstacle21")
    with pytest.raises(ConfigError, match="none that is recognised"):
        inspect_data(tmp_path / "elsewhere", anomaly=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere"], "No data at nowhere"),
        (["check", "camvid=nowhere"], "No data at nowhere"),
        (["check", "road_anomaly=nowhere"], "No data at nowhere"),
        (["check", "synthetic", "--workers", "0"], "workers is 0"),
        (["layout", "cityscape"], "Nearest: cityscapes"),
    ],
)
def test_bad_commands_end_with_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1


def test_list_and_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASK2KAN_DATA", str(tmp_path))
    TREES["cityscapes"](tmp_path / "cityscapes")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["cityscapes", str(tmp_path / "cityscapes")] for line in lines)
    assert any(line.split() == ["lost_and_found", "not", "found"] for line in lines)
    assert main(["layout", "ade20k"]) == 0
    assert "annotations/{training,validation}/<name>.png" in capsys.readouterr().out
    assert main(["check", "synthetic"]) == 0


def test_the_real_sets_are_clean(shared: Path) -> None:
    assert check_data(f"camvid={shared / 'data' / 'camvid'}", ["val"]) == []
    assert check_data(f"road_anomaly={shared / 'data' / 'road_anomaly'}") == []


@pytest.mark.slow
def test_all_of_the_real_sets_is_clean(shared: Path) -> None:
    for name in ("camvid", "camvid_anomaly"):
        assert check_data(f"{name}={shared / 'data' / 'camvid'}") == []
