"""Data: layouts read and refused, crops that stay aligned and depend on seed and number alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mask2kan.errors import ConfigError, ImageError
from training.data import Augmentation, CamVid, SyntheticStreets, find_data, open_split
from training.data.crops import TrainingCrops, collate, prepared


def _write_split(root, split="train", size=(24, 32), names=("b", "a")):
    for folder in ("images", "labels"):
        (root / split / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        label = np.arange(size[0] * size[1]).reshape(size).astype(np.uint8) % 12
        image = np.stack([label * 20, label * 20, np.full_like(label, number)], -1)
        Image.fromarray(image).save(root / split / "images" / f"{name}.png")
        Image.fromarray(label).save(root / split / "labels" / f"{name}.png")
    return root


def test_pairs_are_sorted_scaled_and_void_is_255(tmp_path):
    data = CamVid(_write_split(tmp_path), "train")
    assert data.names == ["a", "b"]
    image, label = data[0]
    assert image.shape == (3, 24, 32)
    assert image.dtype == torch.float32
    assert label.dtype == torch.int64
    assert label.unique().tolist() == [*range(11), 255]
    assert image[2].unique().tolist() == [pytest.approx(1 / 255)]
    assert torch.equal(label == 255, image[0] == 220 / 255)


def test_wrong_folders_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"train/images: missing-folder: .* --data synthetic"):
        CamVid(tmp_path, "train")
    with pytest.raises(ConfigError, match="no split 'dev'"):
        CamVid(tmp_path, "dev")
    _write_split(tmp_path)
    (tmp_path / "train" / "labels" / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"images/a.png: missing-label: .*labels/a.png"):
        CamVid(tmp_path, "train")


def test_a_label_of_another_size_is_refused(tmp_path):
    _write_split(tmp_path)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "train" / "labels" / "a.png")
    with pytest.raises(ImageError, match=r"a.png: size-mismatch: is 5x5; .* 32x24"):
        CamVid(tmp_path, "train")[0]


def test_find_data_looks_in_its_places(tmp_path, monkeypatch):
    (tmp_path / "roads").mkdir()
    monkeypatch.setenv("MASK2KAN_DATA", str(tmp_path))
    assert find_data("roads") == tmp_path / "roads"
    assert find_data(tmp_path) == tmp_path
    with pytest.raises(ConfigError, match="No data at rivers.*MASK2KAN_DATA"):
        find_data("rivers")
    with pytest.raises(ConfigError, match="No data at"):
        find_data("nul\0")


def test_find_data_looks_into_a_root_and_recognises(tmp_path, monkeypatch):
    def has_inside(path):
        return (path / "inside").is_dir()

    (tmp_path / "toy" / "inside").mkdir(parents=True)
    (tmp_path / "empty" / "toy").mkdir(parents=True)
    for root in (tmp_path, tmp_path / "toy"):
        assert find_data("toy", root=root, recognised=has_inside) == tmp_path / "toy"
    assert find_data("game", folders=("toy",), root=tmp_path, recognised=has_inside) == (
        tmp_path / "toy"
    )
    with pytest.raises(ConfigError, match=r"empty/toy"):
        find_data("toy", root=tmp_path / "empty", recognised=has_inside)
    monkeypatch.setenv("MASK2KAN_DATA", str(tmp_path))
    assert find_data("toy", recognised=has_inside) == tmp_path / "toy"


def test_the_real_camvid(shared):
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        assert len(CamVid(shared / "data" / "camvid", split)) == count
    image, label = CamVid(shared / "data" / "camvid", "val")[0]
    assert image.shape == (3, 360, 480)
    assert set(label.unique().tolist()) <= {*range(11), 255}


def test_synthetic_images_repeat_and_splits_differ():
    first, again = SyntheticStreets("train"), SyntheticStreets("train")
    assert np.array_equal(first.arrays(3)[0], again.arrays(3)[0])
    assert not np.array_equal(first.arrays(3)[0], SyntheticStreets("val").arrays(3)[0])
    seen = np.unique(np.stack([first.arrays(i)[1] for i in range(10)]))
    assert seen.tolist() == [*range(11), 255]


@pytest.mark.parametrize("scale", [(0.3, 0.3), (1.0, 1.0), (2.0, 2.0), (0.5, 2.0)])
def test_crops_have_the_size_and_stay_aligned(scale):
    label = np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4), 30, 0), 30, 1)
    label[label == 11] = 255
    image = np.repeat(label[..., None], 3, 2)
    augment = Augmentation(crop=(64, 96), scale=scale, colour=0.0)
    for n in range(20):
        out, out_label = augment(image, label, np.random.default_rng(n))
        assert out.shape == (64, 96, 3)
        assert out_label.shape == (64, 96)
        differs = (out[..., 0] != out_label) & (out_label != 255)
        # Only the pixels where two 30-pixel squares meet are blended.
        assert differs.mean() < 0.25
        assert set(np.unique(out_label)) <= {*range(11), 255}


def test_flip_moves_image_and_label_together():
    label = np.zeros((32, 32), np.uint8)
    label[:, :8] = 1
    image = np.repeat(label[..., None] * 100, 3, 2)
    augment = Augmentation(crop=(32, 32), scale=(1.0, 1.0), flip=1.0, colour=0.0)
    out, out_label = augment(image, label, np.random.default_rng(0))
    assert out_label[:, -8:].all()
    assert np.array_equal(out[..., 0], out_label * 100)


def test_no_class_fills_a_crop_where_that_can_be_avoided():
    label = np.zeros((100, 300), np.uint8)
    label[:, 200:] = np.arange(100) // 10
    image = np.zeros((100, 300, 3), np.uint8)
    augment = Augmentation(crop=(50, 50), scale=(1.0, 1.0), class_focus=0.0, max_class_share=0.75)
    free = Augmentation(crop=(50, 50), scale=(1.0, 1.0), class_focus=0.0, max_class_share=1.0)

    def full(how):
        crops = [how(image, label, np.random.default_rng(n))[1] for n in range(100)]
        return sum((crop == 0).mean() > 0.8 for crop in crops)

    assert full(free) > 50
    assert full(augment) < 10


def test_focus_shows_rare_classes():
    label = np.zeros((200, 200), np.uint8)
    label[100:102, 100:102] = 7
    image = np.zeros((200, 200, 3), np.uint8)

    def seen(focus):
        how = Augmentation(crop=(32, 32), scale=(1.0, 1.0), class_focus=focus)
        return sum((how(image, label, np.random.default_rng(n))[1] == 7).any() for n in range(100))

    assert seen(0.0) < 15
    assert seen(1.0) > 30


def test_colour_changes_the_image_only():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
    label = rng.integers(0, 11, (40, 40), dtype=np.uint8)
    how = Augmentation(crop=(40, 40), scale=(1.0, 1.0), flip=0.0, colour=0.4)
    out, out_label = how(image, label, rng)
    assert np.array_equal(out_label, label)
    assert out.dtype == np.uint8
    assert not np.array_equal(out, image)


def test_crop_n_depends_on_seed_and_n_alone():
    images = open_split("synthetic", "train")
    how = Augmentation(crop=(32, 48))
    whole = TrainingCrops(images, how, length=100, seed=5)
    later = TrainingCrops(images, how, length=100, seed=5, start=70)
    assert len(later) == 30
    assert later[3].name == whole[73].name
    assert np.array_equal(later[3].image, whole[73].image)
    assert np.array_equal(later[3].label, whole[73].label)
    other = TrainingCrops(images, how, length=100, seed=6)
    assert any(not np.array_equal(other[n].label, whole[n].label) for n in range(5))
    assert sorted(whole[n].name for n in range(64)) == sorted(images.names)


def test_batches_are_channels_last_and_scaled():
    crops = TrainingCrops(open_split("synthetic", "val"), Augmentation(crop=(32, 48)), 8, 0)
    loaded = collate([crops[0], crops[1]])
    assert loaded["images"].dtype == loaded["labels"].dtype == torch.uint8  # what travels
    batch = prepared(loaded)
    assert batch["images"].shape == (2, 3, 32, 48)
    assert batch["images"].is_contiguous(memory_format=torch.channels_last)
    assert batch["images"].max() <= 1.0
    assert batch["labels"].dtype == torch.int64
    assert len(batch["names"]) == 2
