"""Data sets that users add from code of their own, and the variable that names their modules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mask2kan.errors import ConfigError
from tests.unit.training.data_trees import mask, photo, save
from training.data import (
    ANOMALY_SETS,
    SEGMENTATION_SETS,
    AnomalySet,
    LabelValues,
    Scan,
    SegmentationImages,
    class_labels,
    find_anomaly_sets,
    open_anomaly,
    open_split,
    register,
    registered,
)
from training.data.__main__ import layout_of, main
from training.data.registry import choose_anomaly

ROOT = Path(__file__).resolve().parents[4]

MODULE = '''
"""Rocks: <root>/rgb/<name>.png, <root>/truth/<name>.png of 0 (known), 7 (rock) and 9 (void)."""
from training.data import AnomalySet, LabelValues, Scan, register

class Rocks(AnomalySet):
    title = "Rocks on roads"
    folders = ("rocks",)
    marks = ("rgb",)

    @classmethod
    def scan(cls, root):
        scan = Scan(f"{cls.title} at {root}")
        values = LabelValues({0: 0, 7: 1, 9: 255}, "0 (known), 7 (rock) and 9 (void)")
        scan.match(scan.index(root / "rgb"), scan.index(root / "truth"), values, expected="{key}")
        return scan.finish(root)

register("rocks", Rocks)
'''


class Rocks(AnomalySet):
    """Rocks, by file name."""

    title = "Rocks on roads"
    folders = ("rocks",)
    marks = ("rgb",)

    @classmethod
    def scan(cls, root: Path) -> Scan:
        scan = Scan(f"{cls.title} at {root}")
        values = LabelValues({0: 0, 7: 1, 9: 255}, "0 (known), 7 (rock) and 9 (void)")
        scan.match(scan.index(root / "rgb"), scan.index(root / "truth"), values, expected="{key}")
        return scan.finish(root)


class Fields(SegmentationImages):
    """Two classes."""

    title = "Fields"
    folders = ("fields",)
    marks = ("train/x",)
    class_names = ("road", "field")
    palette = ((1, 2, 3), (4, 5, 6))

    @classmethod
    def scan(cls, root: Path, split: str) -> Scan:
        scan = Scan(f"{cls.title} {split} at {root}")
        images, labels = scan.index(root / split / "x"), scan.index(root / split / "y")
        scan.match(images, labels, class_labels(2), expected="{key}")
        return scan.finish(root)


def rocks(root: Path) -> Path:
    for number in range(2):
        save(root / "rgb" / f"{number}.png", photo(number))
        save(root / "truth" / f"{number}.png", mask(0, 7, 9))
    return root


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take out what a test registers."""
    for sets in (ANOMALY_SETS, SEGMENTATION_SETS):
        monkeypatch.setattr(sets, "_sets", dict(sets._sets))
    monkeypatch.setattr(registered, "_imported", set())
    yield
    sys.modules.pop("my_rocks", None)


def test_an_anomaly_set_is_found_opened_and_told_from_the_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASK2KAN_DATA", str(tmp_path))
    register("rocks", Rocks)
    root = rocks(tmp_path / "rocks")
    for images in (open_anomaly("rocks"), open_anomaly("rocks", root), open_anomaly(root)):
        assert images.names == ["0", "1"]
        assert np.array_equal(images.arrays(0)[1], mask(0, 1, 255))
        assert images.described().title == "Rocks on roads"
    assert find_anomaly_sets(tmp_path) == [("rocks", root)]
    assert choose_anomaly("rocks").own
    assert "Data sets that users add" in layout_of("rocks")


def test_a_set_to_train_on_is_opened_by_name_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASK2KAN_DATA", str(tmp_path))
    register("fields", Fields)
    for split in ("train", "val"):
        save(tmp_path / "fields" / split / "x" / "a.png", photo(0))
        save(tmp_path / "fields" / split / "y" / "a.png", mask(0, 1, 255))
    for data in ("fields", f"fields={tmp_path / 'fields'}"):
        images = open_split(data, "val")
        assert images.class_names == ("road", "field")
        assert np.array_equal(images.arrays(0)[1], mask(0, 1, 255))
    with pytest.raises(ConfigError, match="holds rgb"):
        open_split(rocks(tmp_path / "stuff"), "train")  # which no mark gives to it


class Abstract(SegmentationImages):
    title = "No scan"
    marks = ("x",)
    class_names = ("a",)
    palette = ((1, 2, 3),)


class Untitled(AnomalySet):
    pass


class Unmarked(Fields):
    marks = ()


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        (
            "road_anomaly",
            Rocks,
            r"road_anomaly is taken by training\..*RoadAnomaly; register Rocks",
        ),
        ("camvid", Rocks, r"camvid is taken by .*CamVid"),
        ("synthetic", Fields, "synthetic is taken"),
        ("rocks=1", Rocks, "'rocks=1' cannot name a data set"),
        ("my rocks", Rocks, "cannot name"),
        ("", Rocks, "cannot name"),
        ("rocks", dict, r"rocks is <class 'dict'>; expected a subclass of SegmentationImages"),
        ("rocks", "Rocks", "expected a subclass"),
        ("rocks", Abstract, "Abstract, which lacks its title, its marks or its classmethod scan"),
        ("rocks", Unmarked, "Unmarked, which lacks"),
        ("rocks", Untitled, "Untitled, which lacks its title"),
    ],
)
def test_what_cannot_be_registered_is_refused(name: str, images: Any, message: str) -> None:
    before = list(ANOMALY_SETS), list(SEGMENTATION_SETS)
    with pytest.raises(ConfigError, match=message):
        register(name, images)
    assert (list(ANOMALY_SETS), list(SEGMENTATION_SETS)) == before


def test_the_same_definition_may_come_again_another_may_not() -> None:
    register("rocks", Rocks)
    again = type("Rocks", (Rocks,), {"__module__": __name__, "__qualname__": "Rocks"})
    register("rocks", again)
    assert ANOMALY_SETS["rocks"] is again
    other = type("Stones", (Rocks,), {"__module__": __name__, "__qualname__": "Stones"})
    with pytest.raises(ConfigError, match="taken by .*Rocks; register Stones under another"):
        register("rocks", other)
    with pytest.raises(ConfigError, match="taken by"):
        register("rocks", Fields)


def test_the_variable_names_modules_and_commands_see_their_sets(tmp_path: Path) -> None:
    (tmp_path / "my_rocks.py").write_text(MODULE)
    root = rocks(tmp_path / "elsewhere")

    own = {"MASK2KAN_DATA_SETS": "my_rocks, ", "MASK2KAN_CACHE": str(tmp_path / "cache")}
    clean = subprocess.run(
        [sys.executable, "-m", "training.data", "check", f"rocks={root}"],
        cwd=tmp_path,
        env={**os.environ, **own, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert clean.returncode == 0, clean.stderr
    assert f"0 faults in 2 images of Rocks on roads at {root}" in clean.stdout


@pytest.mark.parametrize("command", [["list"], ["check", "camvid"], ["layout", "camvid"]])
def test_a_module_that_is_not_there_ends_a_command_with_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_rocks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MASK2KAN_DATA_SETS", "my_rocks,no_such_module")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        "error: MASK2KAN_DATA_SETS names the module no_such_module, which cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module'"
    ) in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("import training.data as d\nd.register('camvid', d.AnomalySet)", "lacks its title"),
    ],
)
def test_a_module_that_fails_is_one_sentence_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    (tmp_path / "my_rocks.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MASK2KAN_DATA_SETS", "my_rocks")
    for _ in range(2):
        with pytest.raises(ConfigError, match=message) as caught:
            open_anomaly("rocks")
        assert "\n" not in str(caught.value)
        assert "names the module my_rocks" in str(caught.value)
