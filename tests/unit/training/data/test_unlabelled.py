"""Folders of images without labels: what is one, and which file is at fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2kan.errors import ConfigError, ImageError
from training.data.unlabelled import UnlabelledImages


def test_images_of_all_folders_are_split_and_traps_passed_over(tmp_path: Path) -> None:
    (tmp_path / "day.png").mkdir()
    for number in range(11):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / "day.png" / f"{number:02}.png")
    (tmp_path / "._00.png").write_bytes(b"Mac OS X")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    train, val = (UnlabelledImages(tmp_path, split) for split in ("train", "val"))
    assert val.names == ["day.png/00", "day.png/10"]
    assert train.names == [f"day.png/{number:02}" for number in range(1, 10)]
    image, label = train.arrays(2)
    assert (image[..., 0] == 3).all()
    assert label.shape == (6, 8)
    assert (label == 255).all()


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"Mac OS X")
    with pytest.raises(ConfigError, match="holds 1 images"):
        UnlabelledImages(tmp_path, "train")


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        noise = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    path = tmp_path / "b.png"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"b\.png: damaged-image"):
        UnlabelledImages(tmp_path, "train").arrays(0)
