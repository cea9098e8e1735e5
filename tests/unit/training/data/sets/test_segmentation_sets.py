"""Every layout read: names, values, classes; folders recognised; what is refused, and how."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2kan.errors import ConfigError, ImageError
from mask2kan.modeling.classes import ADE20K, CITYSCAPES
from tests.unit.training.data_trees import TREES, mask, save
from training.data import find_anomaly_sets, open_anomaly, open_split
from training.data.augmentation import IGNORED
from training.data.faults import Fault, FaultError
from training.data.reading import decode_label
from training.data.sets.cityscapes import Cityscapes

ANOMALIES = [name for name in TREES if name not in ("camvid", "folder", "ade20k", "cityscapes")]


@pytest.mark.parametrize(
    ("name", "values", "count"),
    [
        ("camvid", (0, 10, 255), 11),
        ("folder", (0, 1, 255), 2),
        ("ade20k", (255, 0, 149), 150),
        ("cityscapes", (255, 0, 18), 19),
    ],
)
def test_segmentation_sets(tmp_path, name, values, count):
    tree = TREES[name](tmp_path)
    for split in tree.splits:
        data = open_split(tree.data, split)
        assert len(data) == len(data.names) == 2
        assert data.num_classes == len(data.class_names) == len(data.palette) == count
        image, label = data.arrays(0)
        assert image.shape == (24, 32, 3)
        assert np.array_equal(label, mask(*values))
        image, target = data[0]
        assert image.shape == (3, 24, 32)
        assert np.array_equal(target.numpy(), label)
    with Image.open(tree.first[0]) as stored:
        expected = np.asarray(stored.convert("RGB"))
    assert np.array_equal(open_split(tree.data, tree.splits[0]).arrays(0)[0], expected)
    with pytest.raises(ConfigError, match="no split 'dev'"):
        open_split(tree.data, "dev")


@pytest.mark.parametrize("name", ANOMALIES)
def test_anomaly_sets(tmp_path, name):
    tree = TREES[name](tmp_path)
    entry, _, root = tree.data.partition("=")
    data = open_anomaly(entry, root)
    assert len(data) == len(data.names) == 2
    expected = mask(0, 1, 255)
    if name == "lost_and_found":
        expected = mask(255, 0, 1, 1)
    assert np.array_equal(data.arrays(0)[1], expected)
    with Image.open(tree.first[0]) as stored:
        image = np.asarray(stored.convert("RGB")).astype(int)
    if name == "fishyscapes_static":  # signed differences, bounded to bytes
        image[expected == 1] += (300, -300, 5)
    assert np.array_equal(data.arrays(0)[0], image.clip(0, 255))


def test_folders_are_found_by_what_they_are_called(tmp_path):
    for name in ("smiyc_anomaly", "smiyc_obstacle", "m2a_static", "fishyscapes_lost_and_found"):
        TREES[name](tmp_path)
    sets = dict(find_anomaly_sets(tmp_path))
    assert sets == {
        "road_anomaly_21": tmp_path / "dataset_AnomalyTrack",
        "road_obstacle_21": tmp_path / "dataset_ObstacleTrack",
        "fishyscapes_static": tmp_path / "fs_static",
        "fishyscapes_lost_and_found": tmp_path / "fishyscapes_lostandfound",
        "lost_and_found": tmp_path / "lost_and_found",
    }


def test_names_are_looked_for_in_the_usual_places(tmp_path, monkeypatch):
    monkeypatch.setenv("MASK2KAN_DATA", str(tmp_path))
    TREES["cityscapes"](tmp_path / "cityscapes")
    TREES["ade20k"](tmp_path / "ADEChallengeData2016")
    assert open_split("cityscapes", "val").class_names == tuple(CITYSCAPES)
    assert open_split("ade20k", "val").class_names == ADE20K


def test_an_unknown_layout_says_what_it_holds(tmp_path):
    (tmp_path / "stuff").mkdir()
    with pytest.raises(ConfigError, match="holds stuff; expected the layout of one of"):
        open_split(tmp_path, "train")
    with pytest.raises(ConfigError, match="Known by name: folder, cityscapes"):
        open_split("cityscape", "train")
    with pytest.raises(ConfigError, match="give its path"):
        open_split("folder", "train")


def test_cityscapes_ids_for_the_figures_over_instances(tmp_path):
    TREES["cityscapes"](tmp_path)
    data = Cityscapes(tmp_path, "val")
    assert np.array_equal(data.label_ids(0), mask(0, 7, 33))
    assert np.array_equal(data.instance_ids(0), mask(0, 7, 33).astype(int) * 700)
    label = data.pairs[0].label
    label.with_name(label.name.replace("labelIds", "instanceIds")).unlink()
    with pytest.raises(ImageError, match="instanceIds.png"):
        data.instance_ids(0)


def test_cityscapes_training_ids_are_read_where_label_ids_are_missing(tmp_path):
    tree = TREES["cityscapes"](tmp_path)
    label = tree.first[1]
    train_ids = label.with_name(label.name.replace("labelIds", "labelTrainIds"))
    save(train_ids, mask(3, 18, 255))
    assert np.array_equal(Cityscapes(tmp_path, "train").arrays(0)[1], mask(255, 0, 18))
    label.unlink()
    data = Cityscapes(tmp_path, "train")
    assert np.array_equal(data.arrays(0)[1], mask(3, 18, 255))
    assert np.array_equal(data.arrays(1)[1], mask(255, 0, 18))
    with pytest.raises(ConfigError, match="training ids only"):
        data.label_ids(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 names"),
        ("cat\ncat\n", "repeats 'cat'"),
        ("cat 1 2 3\ndog\n", "colours for 1 of 2"),
        ("cat 1 2 300\ndog 1 2 3\n", "up to 300"),
        ("\n".join(f"c{n}" for n in range(255)), "has 255 names"),
    ],
)
def test_class_lists_that_cannot_be_used(tmp_path, text, message):
    TREES["folder"](tmp_path)
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_split(tmp_path, "train")


def test_class_lists(tmp_path):
    tree = TREES["folder"](tmp_path)
    data = open_split(tree.data, "train")
    assert data.class_names == ("cat", "big dog")
    assert data.palette == ((255, 0, 0), (0, 0, 255))
    (tmp_path / "classes.txt").write_text("road\n\ncar\n")
    assert open_split(tree.data, "train").palette == (CITYSCAPES["road"], CITYSCAPES["car"])


def test_only_camvid_keeps_its_images(tmp_path):
    for name in ("camvid", "folder", "ade20k", "cityscapes"):
        data = open_split(TREES[name](tmp_path / name).data, "train")
        assert (data.arrays(0)[0] is data.arrays(0)[0]) == (name == "camvid")


def test_a_file_that_breaks_while_training_is_named(tmp_path):
    tree = TREES["folder"](tmp_path)
    data = open_split(tree.data, "train")
    data.arrays(0)
    for path in tree.first:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ImageError, match=f"{path}: damaged-"):
            data.arrays(0)
        path.unlink()
        with pytest.raises(ImageError, match=f"{path}: broken-link"):
            data.arrays(0)
        path.write_bytes(whole)


def test_errors_survive_the_way_from_a_loading_process():
    error = FaultError(Fault(Path("a.png"), "empty-file", "0 bytes"))
    assert str(pickle.loads(pickle.dumps(error))) == "a.png: empty-file: 0 bytes"


def test_palette_numbers_count_not_colours(tmp_path):
    values = mask(0, 1, 2)
    image = Image.fromarray(values).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    path = tmp_path / "palette.png"
    for bits in (8, 4, 2):
        image.save(path, bits=bits)
        assert path.read_bytes()[24] == bits
        assert np.array_equal(decode_label(path, path.read_bytes()), values)


def test_synthetic_twins():
    for data, count in (("synthetic", 11), ("synthetic:cityscapes", 19), ("synthetic:ade20k", 150)):
        train, again, val = (open_split(data, split) for split in ("train", "train", "val"))
        assert train.num_classes == len(train.class_names) == len(train.palette) == count
        assert np.array_equal(train.arrays(3)[0], again.arrays(3)[0])
        assert not np.array_equal(train.arrays(3)[0], val.arrays(3)[0])
        labels = [train.arrays(index)[1] for index in range(12)]
        seen = set(np.unique(np.stack(labels)).tolist())
        assert seen <= {*range(count), 255}
        assert len(seen) >= min(count + 1, 80)  # of ADE20K's, a dozen are drawn per image
    with pytest.raises(ConfigError, match="Unknown split 'dev'"):
        open_split("synthetic", "dev")


def test_a_folder_has_no_class_of_the_value_that_losses_ignore(tmp_path):
    TREES["folder"](tmp_path)
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(f"class{index}" for index in range(IGNORED)))
    assert open_split(str(tmp_path), "train").num_classes == IGNORED
    names.write_text("\n".join(f"class{index}" for index in range(IGNORED + 1)))
    with pytest.raises(ConfigError, match="expected 1 to 253 names"):
        open_split(str(tmp_path), "train")
