"""Anomaly data sets: label values, sizes and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2kan.errors import ConfigError, ImageError
from tests.unit.training.data_trees import COLORS
from training.data import ANOMALY_SETS, find_anomaly_sets, open_anomaly
from training.data.sets.camvid_anomaly import CamVidAnomaly
from training.data.sets.road_anomaly import RoadAnomaly


def write(path: Path, pixels: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(path)


def road_anomaly(root: Path, label: list[list[object]]) -> RoadAnomaly:
    write(root / "frames" / "a.png", [[[1, 2, 3]] * 3] * 2)
    write(root / "frames" / "a.labels" / "labels_semantic.png", label)
    return RoadAnomaly(root)


def test_road_anomaly_maps_two_to_anomaly(tmp_path: Path) -> None:
    data = road_anomaly(tmp_path, [[0, 2, 2], [255, 0, 0]])
    image, label = data.arrays(0)
    assert data.names == ["a"]
    assert image.shape == (2, 3, 3)
    assert label.tolist() == [[0, 1, 1], [255, 0, 0]]


def test_road_anomaly_refuses_odd_labels(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="labels_semantic.png: label-range: holds 7 in 1 pixels"):
        road_anomaly(tmp_path, [[0, 7, 2], [0, 0, 0]]).arrays(0)
    with pytest.raises(ImageError, match="size-mismatch"):
        road_anomaly(tmp_path, [[0, 2]]).arrays(0)
    (tmp_path / "frames" / "a.labels" / "labels_semantic.png").unlink()
    with pytest.raises(ConfigError, match="missing-label"):
        RoadAnomaly(tmp_path)
    with pytest.raises(ConfigError, match="frames"):
        RoadAnomaly(tmp_path / "nowhere")


def camvid(root: Path, colors: list[list[object]]) -> CamVidAnomaly:
    write(root / "val" / "images" / "a.png", [[[9, 9, 9]] * 3] * 2)
    write(root / "val" / "images" / "unlabelled.png", [[[9, 9, 9]] * 3] * 2)
    doubled = np.array(colors, np.uint8).repeat(2, 0).repeat(2, 1)
    write(root / "val" / "labels_32class" / "a.png", doubled.tolist())
    (root / "val" / "label_colors_32class.txt").write_text(COLORS)
    return CamVidAnomaly(root)


def test_camvid_held_out_classes_are_anomalies(tmp_path: Path) -> None:
    data = camvid(
        tmp_path,
        [[[128, 64, 64], [192, 128, 64], [64, 0, 192]], [[128, 64, 128], [192, 0, 128], [0, 0, 0]]],
    )
    image, label = data.arrays(0)
    assert data.names == ["a"]  # the image without a label is left out
    assert image.shape == (2, 3, 3)
    assert label.tolist() == [[1, 1, 1], [0, 255, 255]]


def test_camvid_refuses_unknown_colors(tmp_path: Path) -> None:
    data = camvid(tmp_path, [[[1, 2, 3]] * 3, [[128, 64, 128]] * 3])
    with pytest.raises(ImageError, match=r"\[1, 2, 3\] in 3 pixels"):
        data.arrays(0)
    (tmp_path / "val" / "label_colors_32class.txt").write_text("128 64 128 Road\n")
    with pytest.raises(ConfigError, match="OtherMoving"):
        CamVidAnomaly(tmp_path)


def test_real_data_sets(shared: Path) -> None:
    roads = open_anomaly("road_anomaly", shared / "data")
    assert len(roads) == 36
    image, label = roads.arrays(0)
    assert image.shape == (720, 1280, 3)
    assert set(np.unique(label)) == {0, 1}
    held_out = open_anomaly("camvid_anomaly", shared / "data")
    assert len(held_out) == 100
    shares = np.zeros(256)
    for index in range(0, 100, 10):
        image, label = held_out.arrays(index)
        assert label.shape == image.shape[:2] == (360, 480)
        shares += np.bincount(label.ravel(), minlength=256) / label.size / 10
    assert 0.002 < shares[1] < 0.02
    assert shares[255] < 0.05


def test_the_registry_finds_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2KAN_DATA", str(tmp_path))
    road_anomaly(tmp_path / "RoadAnomaly", [[0, 2, 2], [255, 0, 0]])
    camvid(tmp_path / "camvid", [[[128, 64, 64]] * 3, [[128, 64, 128]] * 3])
    expected = [("road_anomaly", tmp_path / "RoadAnomaly"), ("camvid_anomaly", tmp_path / "camvid")]
    assert find_anomaly_sets(tmp_path) == expected
    assert find_anomaly_sets(tmp_path / "camvid") == expected[1:]
    assert open_anomaly("road_anomaly").names == ["a"]
    assert ANOMALY_SETS["road_obstacle_21"].track == "obstacle"
    assert ANOMALY_SETS["road_anomaly_21"].title == "RoadAnomaly21"
    with pytest.raises(ConfigError, match="Nearest: road_anomaly"):
        open_anomaly("road_anomalie")
    with pytest.raises(ConfigError, match=r"No data at lost_and_found.*MASK2KAN_DATA"):
        open_anomaly("lost_and_found")


def test_synthetic_anomalies_repeat_and_show_something_new() -> None:
    first, again = open_anomaly("synthetic_anomaly"), open_anomaly("synthetic_anomaly")
    for index in range(len(first.names)):
        image, label = first.arrays(index)
        assert np.array_equal(image, again.arrays(index)[0])
        assert set(np.unique(label)) == {0, 1, 255}
        assert 0.002 < (label == 1).mean() < 0.2
        # The checker's colours are no class's: pure contrast in red, little green.
        assert set(np.unique(image[label == 1][:, 0])) == {0, 255}
