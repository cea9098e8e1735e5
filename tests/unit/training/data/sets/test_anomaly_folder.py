"""A folder of one's own: what its masks mean, what is refused, and what the check says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2kan.errors import ConfigError
from tests.unit.training.data_trees import TREES, mask, photo, save
from training.data import find_anomaly_sets, open_anomaly
from training.data.__main__ import main
from training.data.check import inspect_data
from training.data.registry import choose_anomaly, is_anomaly_data


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "cache"))


def rocks(root: Path, *masks: np.ndarray, folder: str = "masks", suffix: str = ".png") -> Path:
    """A folder with an image for every mask."""
    for number, pixels in enumerate(masks):
        save(root / "images" / f"{number}{suffix}", photo(number))
        save(root / folder / f"{number}.png", pixels)
    return root


def values(root: Path) -> list[set[int]]:
    data = open_anomaly(root)
    return [set(np.unique(data.arrays(index)[1]).tolist()) for index in range(len(data.names))]


@pytest.mark.parametrize(
    ("masks", "expected", "remark"),
    [
        ([(0, 255), (0, 0)], [{0, 1}, {0}], "255 is the anomaly in its masks: none holds a 1"),
        ([(0, 1), (0, 0)], [{0, 1}, {0}], "1 is the anomaly in its masks: none holds 255"),
        (
            [(0, 1, 255), (0, 255)],  # the second one alone would be read the other way
            [{0, 1, 255}, {0, 255}],
            "1 is the anomaly and 255 void in its masks, which hold both",
        ),
        (
            [(0, 1), (0, 255)],
            [{0, 1}, {0, 255}],
            "1 is the anomaly and 255 void in its masks, which hold both, though none of them "
            "alone: are some in 0 and 255, others in 0 and 1?",
        ),
    ],
)
def test_what_255_is_follows_from_all_masks_and_is_said(
    tmp_path: Path,
    masks: list[tuple[int, ...]],
    expected: list[set[int]],
    remark: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = rocks(tmp_path / "rocks", *(mask(*own) for own in masks))
    assert values(root) == expected
    description = open_anomaly(root).described()
    assert (description.title, description.remarks) == ("rocks", (remark,))
    assert main(["check", str(root)]) == 0
    assert f"note: {remark}\n" in capsys.readouterr().out


def test_a_folder_of_classes_is_none_of_anomalies(tmp_path: Path) -> None:
    root = rocks(tmp_path / "rocks", mask(0, 1, 2), mask(0, 1, 2))
    assert not is_anomaly_data(root)
    root = rocks(tmp_path / "named", mask(0, 1, 255), mask(0, 1))
    assert is_anomaly_data(root)
    assert not is_anomaly_data(f"folder={root}")
    (root / "classes.txt").write_text("ground\nrock\n")
    assert not is_anomaly_data(root)
    # what trains names its splits, and is checked as what it trains on
    (root / "classes.txt").unlink()
    assert inspect_data(root, ["train", "val"]).title.startswith("Folder of images and masks")


def test_a_folder_that_may_be_either_is_called_so(tmp_path: Path) -> None:
    root = rocks(tmp_path / "rocks", mask(0, 255), mask(0, 0))
    remark = f"taken for anomalies; folder={root} takes its masks for classes"
    for recalled in (False, True):
        report = inspect_data(root, remembered=True)
        assert (report.recalled, report.remarks[-1]) == (recalled, remark)
        for data, options in ((f"folder_anomaly={root}", {}), (root, {"anomaly": True})):
            assert remark not in inspect_data(data, remembered=True, **options).remarks
    # labels_masks are no layout of classes
    other = rocks(tmp_path / "other", mask(0, 255), folder="labels_masks")
    assert not any("taken for" in remark for remark in inspect_data(other).remarks)


def test_a_changed_mask_is_read_again(tmp_path: Path) -> None:
    root = rocks(tmp_path / "rocks", mask(0, 255), mask(0, 255))
    assert values(root) == [{0, 1}, {0, 1}]
    save(root / "masks" / "0.png", mask(0, 1, 255, 0))
    assert values(root) == [{0, 1, 255}, {0, 255}]


def test_other_values_are_refused_by_file_before_anything_is_scored(tmp_path: Path) -> None:
    root = rocks(tmp_path / "rocks", mask(0, 255), mask(0, 128, 200), mask(0, 7))
    with pytest.raises(ConfigError, match=r"1\.png: label-range: holds 128, 200 in .*1 more"):
        open_anomaly(root)
    faults = inspect_data(f"folder_anomaly={root}").faults
    assert [(fault.path.name, fault.rule) for fault in faults] == [
        ("1.png", "label-range"),
        ("2.png", "label-range"),
    ]
    assert "expected 0 (known) and 255 (anomaly)" in faults[0].message


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".TIFF"])
def test_images_of_any_usual_suffix(tmp_path: Path, suffix: str) -> None:
    root = rocks(tmp_path / "rocks", mask(0, 255), suffix=suffix)
    image, label = open_anomaly(root).arrays(0)
    with Image.open(root / "images" / f"0{suffix}") as stored:
        assert np.array_equal(image, np.asarray(stored.convert("RGB")))
    assert np.array_equal(label, mask(0, 1))


def as_palette(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    image.putpalette([10, 20, 30] * 256)
    return image


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_masks_in_the_forms_that_tools_write(tmp_path: Path, suffix: str) -> None:
    grey = mask(0, 255)
    forms = {
        "grey": Image.fromarray(grey),
        "one_bit": Image.fromarray(grey > 0),
        "rgb": Image.fromarray(grey).convert("RGB"),
    }
    if suffix == ".png":
        forms["rgba"] = Image.fromarray(grey).convert("RGBA")
        forms["palette"] = as_palette(grey)
    for number, (name, image) in enumerate(forms.items()):
        save(tmp_path / "rocks" / "images" / f"{name}.png", photo(number))
        (tmp_path / "rocks" / "masks").mkdir(exist_ok=True)
        image.save(tmp_path / "rocks" / "masks" / f"{name}{suffix}")
    data = open_anomaly(tmp_path / "rocks")
    assert data.names == sorted(forms)
    for index in range(len(forms)):
        assert np.array_equal(data.arrays(index)[1], mask(0, 1)), data.names[index]


def test_one_bit_masks_say_nothing_of_255(tmp_path: Path) -> None:
    root = rocks(tmp_path / "rocks", mask(0, 1) > 0, mask(0, 255))
    assert values(root) == [{0, 1}, {0, 1}]


@pytest.mark.parametrize(
    ("name", "pixels", "options", "rule"),
    [
        ("0.png", photo(5), {}, "label-rgb"),
        ("0.png", mask(0, 255), {"format": "JPEG"}, "label-format"),
        ("0.jpg", mask(0, 255), {}, "label-format"),
        ("0.png", mask(0, 255).astype(np.uint16), {}, "label-mode"),
        ("0.tif", mask(0, 1).astype(np.float32), {}, "label-mode"),
    ],
)
def test_masks_of_other_forms_are_refused(
    tmp_path: Path, name: str, pixels: np.ndarray, options: dict[str, str], rule: str
) -> None:
    root = rocks(tmp_path / "rocks", mask(0, 255), mask(0, 255))
    (root / "masks" / "0.png").unlink()
    save(root / "masks" / name, pixels, **options)
    with pytest.raises(ConfigError, match=rf"masks/{name}: {rule}: "):
        open_anomaly(root)
    assert [fault.rule for fault in inspect_data(root).faults] == [rule]


def test_void_and_black_masks_are_notes_and_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = rocks(tmp_path / "rocks", mask(0, 0, 0, 1), mask(255), mask(0))
    assert values(root) == [{0, 1}, {255}, {0}]
    assert main(["check", str(root)]) == 0
    out = capsys.readouterr().out
    assert "note: all-void (" in out
    assert "note: no-anomaly-here (" in out
    assert (
        "note: 12.50% of the pixels that count are anomalous, 33.33% of all are void; 2 of 3 "
        "images show no anomaly\n"
    ) in out
    assert out.splitlines()[-1].startswith("0 faults in 3 images of rocks, a folder of images")
    # What was remembered says the same.
    assert main(["check", str(root), "--remembered"]) == 0
    recalled = capsys.readouterr().out
    assert "as found earlier" in recalled
    assert "note: 12.50% of the pixels that count" in recalled


def test_a_mask_of_another_size_is_a_fault(tmp_path: Path) -> None:
    root = rocks(tmp_path / "rocks", mask(0, 255), mask(0, 255)[:-1])
    assert [fault.rule for fault in inspect_data(root).faults] == ["size-mismatch"]


def test_folders_and_names_of_masks(tmp_path: Path) -> None:
    for folder in ("masks", "labels_masks"):
        root = rocks(tmp_path / folder, mask(0, 255), folder=folder)
        assert is_anomaly_data(root)
        assert find_anomaly_sets(root) == [("folder_anomaly", root)]
        assert find_anomaly_sets(tmp_path) == []  # only when it is meant
    root = rocks(tmp_path / "plain", mask(0, 255), folder="labels")
    assert not is_anomaly_data(root)  # these may be labels of classes
    assert len(open_anomaly(f"folder_anomaly={root}").names) == 1
    for ending in ("_mask", "_label", "_labels", "_labels_semantic"):
        root = tmp_path / f"named{ending}"
        save(root / "images" / "a.png", photo(0))
        save(root / "masks" / f"a{ending}.png", mask(0, 255))
        assert open_anomaly(root).names == ["a"]
    both = rocks(rocks(tmp_path / "both", mask(0, 255)), mask(0, 1), folder="labels")
    assert values(both) == [{0, 1}]
    assert open_anomaly(both).described().remarks[1] == "masks are read from masks, not from labels"


def test_its_name_is_the_folder_s_and_never_a_published_set_s(tmp_path: Path) -> None:
    for name, expected in (("rocks", "rocks"), ("road_anomaly", "folder_anomaly_road_anomaly")):
        root = rocks(tmp_path / name, mask(0, 255))
        for data, base in ((f"folder_anomaly={root}", None), ("folder_anomaly", root)):
            choice = choose_anomaly(data, base)
            assert choice == ("folder_anomaly", root, expected)
            assert choice.own
    assert choose_anomaly(tmp_path / "rocks").name == "rocks"
    assert not choose_anomaly("synthetic_anomaly").own


def test_other_layouts_stay_what_they_are(tmp_path: Path) -> None:
    for name in ("camvid", "folder", "camvid_anomaly"):
        tree = TREES[name](tmp_path / name)
        assert not is_anomaly_data(tree.images.parent.parent), name
    tree = TREES["m2a_obstacle_21"](tmp_path)
    assert choose_anomaly(tmp_path / "RoadObsticle21").kind == "road_obstacle_21"
    (tmp_path / "folder" / "masks").mkdir()
    (tmp_path / "folder" / "images").mkdir()
    assert not is_anomaly_data(tmp_path / "folder")  # classes.txt says what it is


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("folder_anomaly", "no usual place; give its path: folder_anomaly=<path>"),
        ("folder_anomaly=nowhere", "No data at nowhere"),
        ("folder_anomaly={root}", "missing-folder.*no such folder"),
        ("{root}", "none that is recognised"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, data: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_anomaly(data.format(root=tmp_path))


def test_layout_and_list_describe_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layout", "folder_anomaly"]) == 0
    assert "<root>/masks/<name>.{png,bmp,tif,tiff}" in capsys.readouterr().out
    assert main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["folder_anomaly", "by", "its", "path:", "folder_anomaly=<folder>"] in lines
