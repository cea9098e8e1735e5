"""One's own folder of images and masks: layouts, file types, classes, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import CAMVID
from tests.unit.training.data_trees import mask, own, photo, save
from training.data import open_split
from training.data.__main__ import summary
from training.data.check import inspect_data
from training.data.faults import FaultError, note_lines
from training.data.reading import decode_label


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "cache"))


def notes_of(root: Path, **options: bool) -> dict[str, str]:
    report = inspect_data(root, **options)
    assert report.faults == []
    return {note.rule: note.message for note in report.notes}


@pytest.mark.parametrize("folder", ["masks", "labels"])
def test_classes_are_told_by_the_masks_where_no_file_names_them(tmp_path, folder):
    root = own(tmp_path / "set", 0, 2, 255, 1, 1, masks=folder)
    images = open_split(root, "train")
    assert images.class_names == ("class_0", "class_1", "class_2")
    assert len(images.palette) == images.num_classes == 3
    assert np.array_equal(images.arrays(0)[1], mask(0, 2, 255, 1, 1))
    assert "3 classes, class_0, class_1, class_2" in notes_of(root)["unnamed-classes"]
    (root / "classes.txt").write_text("path\ngrass\nsky\n")
    assert open_split(root, "val").class_names == ("path", "grass", "sky")
    assert notes_of(root) == {}


def test_only_a_folder_named_so_is_camvid(tmp_path):
    values = range(len(CAMVID))
    assert open_split(own(tmp_path / "streets", *values, masks="labels"), "train").class_names[
        :2
    ] == ("class_0", "class_1")
    camvid = own(tmp_path / "my_CamVid", *values, masks="labels")
    assert open_split(camvid, "train").class_names == tuple(CAMVID)
    assert open_split(f"camvid={tmp_path / 'streets'}", "train").class_names == tuple(CAMVID)


def test_a_folder_without_splits_is_split_by_name(tmp_path):
    root = own(tmp_path / "set", 0, 1, 2, splits=(), images=21)
    train, val = (open_split(root, split) for split in ("train", "val"))
    assert val.names == ["00", "10", "20"]
    assert sorted([*train.names, *val.names]) == [f"{index:02}" for index in range(21)]
    (root / "masks" / "05.png").unlink()
    (root / "images" / "07.png").unlink()
    assert [fault.rule for fault in inspect_data(root).faults] == ["missing-label", "missing-image"]


def test_masks_beside_another_tool_s_labels(tmp_path):
    root = own(tmp_path / "set", 0, 1, 2)
    (root / "train" / "labels").mkdir()
    (root / "train" / "labels" / "00.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert len(open_split(root, "train")) == 2


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".tiff"])
def test_bmp_and_tiff_are_read(tmp_path, suffix):
    root = own(tmp_path / "set", 0, 2, 1, suffix=suffix)
    image, label = open_split(root, "train").arrays(0)
    assert np.array_equal(image, photo(0))
    assert np.array_equal(label, mask(0, 2, 1))
    assert set(notes_of(root)) == {"unnamed-classes"}
    palette = Image.fromarray(mask(0, 2, 1)).convert("P")
    palette.putdata(mask(0, 2, 1).ravel().tolist())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    path = root / "train" / "masks" / f"00{suffix}"
    palette.save(path)
    assert np.array_equal(decode_label(path, path.read_bytes()), mask(0, 2, 1))


@pytest.mark.parametrize(
    ("name", "pixels", "options", "rule"),
    [
        ("a.bmp", np.zeros((8, 8, 3), np.uint8), {}, "label-rgb"),
        ("a.tif", np.zeros((8, 8, 3), np.uint8), {}, "label-rgb"),
        ("a.tif", np.zeros((8, 8), np.uint16), {}, "label-mode"),
        ("a.tif", np.zeros((16, 16), np.uint8), {"compression": "jpeg"}, "label-format"),
    ],
)
def test_other_labels_of_these_types_are_refused(tmp_path, name, pixels, options, rule):
    path = save(tmp_path / name, pixels, **options)
    with pytest.raises(FaultError) as caught:
        decode_label(path, path.read_bytes())
    assert [fault.rule for fault in caught.value.faults] == [rule]


def test_a_cut_off_tiff_label_is_damaged(tmp_path):
    path = save(tmp_path / "a.tif", np.zeros((64, 64), np.uint8))
    with pytest.raises(FaultError, match="damaged-label"):
        decode_label(path, path.read_bytes()[:300])


def test_a_type_that_is_not_read_is_named(tmp_path):
    root = own(tmp_path / "set", 0, 1, 2)
    (root / "train" / "masks" / "00.png").rename(root / "train" / "masks" / "00.gif")
    (fault,) = inspect_data(root).faults
    assert fault.rule == "missing-label"
    assert "00.gif is ignored: read are .webp .png" in fault.message


@pytest.mark.parametrize("names", [(), ("lawn", "wall")])
def test_black_and_white_masks_are_two_classes(tmp_path, names):
    root = own(tmp_path / "set", 0, 255, names=names)
    images = open_split(root, "train")
    assert images.class_names == (names or ("background", "foreground"))
    assert np.array_equal(images.arrays(0)[1], mask(0, 1))
    assert f"255 is {images.class_names[1]} and not void" in notes_of(root)["binary-masks"]
    save(root / "val" / "masks" / "01.png", mask(0, 1, 255))  # so they are not black and white
    assert np.array_equal(open_split(root, "train").arrays(0)[1], mask(0, 255))
    assert "binary-masks" not in notes_of(root)


@pytest.mark.parametrize("names", [("defect",), ("a", "b", "c")])
def test_black_and_white_masks_of_another_number_of_classes_are_called_so(tmp_path, names):
    root = own(tmp_path / "set", 0, 255, names=names)
    assert np.array_equal(open_split(root, "train").arrays(0)[1], mask(0, 255))
    assert "255 is void; if it is a class, name two" in notes_of(root)["binary-masks"]


def test_a_mask_that_is_white_alone_does_not_make_the_others_void(tmp_path):
    root = own(tmp_path / "set", 0, 255)
    save(root / "train" / "masks" / "00.png", mask(255))
    assert np.array_equal(open_split(root, "train").arrays(0)[1], mask(1))
    assert "all-void" not in notes_of(root)


def test_grey_levels_are_no_class_numbers(tmp_path):
    root = own(tmp_path / "set", 0, 85, 170, 255)
    with pytest.raises(ConfigError, match="hold 0, 85, 170, which look like grey levels"):
        open_split(root, "train")
    (fault,) = inspect_data(root).faults  # once for both splits
    assert fault.rule == "class-list"
    assert f"anomalies (folder_anomaly={root}) hold 0 and 1, or 0 and 255." in fault.message


@pytest.mark.parametrize("splits", [(), ("train", "val")])
def test_masks_in_a_folder_of_another_name_are_one_missing_folder(tmp_path, splits):
    root = own(tmp_path / "set", 0, 1, names=("a", "b"), splits=splits, masks="gt")
    report = inspect_data(root)
    missing = [root / split / "masks" for split in splits or ("",)]
    assert [(fault.path, fault.rule) for fault in report.faults] == [
        (path, "missing-folder") for path in missing
    ]
    assert report.images == 2 * len(missing)


def test_the_summary_counts_faults_and_images(tmp_path):
    root = own(tmp_path / "set", 0, 1, 2, names=("a", "b", "c"), splits=(), images=11)
    assert summary(inspect_data(root)).endswith(
        f"0 faults in 11 images of Folder of images and masks at {root}: 9 train, 2 val"
    )
    (root / "masks" / "05.png").unlink()
    last = summary(inspect_data(root)).splitlines()[-1]
    assert last.startswith("1 fault in 11 images of ")
    assert last.endswith("9 train, 2 val")


@pytest.mark.parametrize(
    "text", ["0 road\n1 sky\n", "0: road\n1: sky\n\n", "0,road\n1,sky", "road\nsky\n"]
)
def test_numbers_that_count_the_names_are_no_part_of_them(tmp_path, text):
    root = own(tmp_path / "set", 0, 1)
    (root / "classes.txt").write_text(text)
    assert open_split(root, "train").class_names == ("road", "sky")
    (root / "classes.txt").write_text("0 road 1 2 3\n1 sky 4 5 6\n")
    images = open_split(root, "train")
    assert (images.class_names, images.palette) == (("road", "sky"), ((1, 2, 3), (4, 5, 6)))
    (root / "classes.txt").write_text("2 wheeler\ncar\n")  # not numbered
    assert open_split(root, "train").class_names == ("2 wheeler", "car")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 road\n2 sky\n", "begins its lines with 1, 2; expected 0, 1, 2 … or names alone"),
        ("128 64 128 road\n0 0 0 sky\n", "begins its lines with 128, 0; expected 0, 1"),
        ("road, sky, other\n", "has one line with commas; expected one class name per line"),
    ],
)
def test_lists_of_other_forms_are_refused(tmp_path, text, message):
    root = own(tmp_path / "set", 0, 1)
    (root / "classes.txt").write_text(text)
    (fault,) = inspect_data(root).faults
    assert fault.rule == "class-list"
    assert message in fault.message


def test_masks_that_cannot_be_read_leave_no_classes(tmp_path):
    root = own(tmp_path / "set", 0, 1)
    for path in root.glob("*/masks/*"):
        save(path, np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(ConfigError, match="No mask of .* says what the classes are"):
        open_split(root, "train")
    assert {fault.rule for fault in inspect_data(root).faults} == {"label-rgb"}


@pytest.mark.parametrize(
    ("values", "names", "rule", "message"),
    [
        ((0, 1), ("a", "b", "c"), "absent-class", "1 of 3 classes are in no label: c"),
        ((1,), ("a", "b", "c"), "one-class", "all labels show b alone"),
        ((0, 1, 255, 255), (), "much-void", "void covers 50% of all pixels"),
        ((1, 2, 3), (), "off-by-one", "labels hold 1 to 3, and the 4 classes are 0 to 3"),
    ],
)
def test_what_only_all_labels_show_is_noted(tmp_path, values, names, rule, message):
    root = own(tmp_path / "set", *values, names=names)
    assert message in notes_of(root)[rule]
    assert message in notes_of(root, remembered=True)[rule]
    assert inspect_data(root, remembered=True).recalled
    assert any(message in line for line in note_lines(inspect_data(root).notes))


def test_good_labels_are_not_noted(tmp_path):
    assert notes_of(own(tmp_path / "set", 0, 1, 2, 255, 0, names=("a", "b", "c"))) == {}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((1, 2, 3), "they look one off; the first class, a, must be 0"),
        ((0, 1, 2, 3), "classes.txt may name one too few; or 0 is meant for void, which is 255"),
    ],
)
def test_labels_counted_from_one_are_called_so_beside_their_faults(tmp_path, values, reason):
    root = own(tmp_path / "set", *values, names=("a", "b", "c"))
    report = inspect_data(root)
    assert {fault.rule for fault in report.faults} == {"label-range"}
    assert inspect_data(own(tmp_path / "fine", 0, 1, 2, names=("a", "b", "c"))).notes == []
    (note,) = [note for note in report.notes if note.rule == "off-by-one"]
    assert f"the 3 classes are 0 to 2: {reason}" in note.message


def test_camvid_s_own_void_is_told_from_labels_counted_from_one(tmp_path):
    count = len(CAMVID)
    splits = ("train", "val", "test")
    fine = own(tmp_path / "camvid", *range(count + 1), masks="labels", splits=splits)
    assert notes_of(fine) == {}
    shifted = own(tmp_path / "camvid2", *range(1, count + 1), masks="labels", splits=splits)
    assert "labels hold 1 to 11, and the 11 classes" in notes_of(shifted)["off-by-one"]


def test_a_class_that_is_never_learnt_is_noted(tmp_path):
    root = own(tmp_path / "set", 0, 1, names=("a", "b", "c"))
    save(root / "val" / "masks" / "00.png", mask(0, 1, 2))
    assert "never learnt: c" in notes_of(root)["absent-class"]
