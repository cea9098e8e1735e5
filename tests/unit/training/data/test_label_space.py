"""Several data sets in one label space: groups, void that says nothing, mixtures and their sets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import CAMVID, CAMVID_IN_CITYSCAPES, CITYSCAPES
from training.data import Augmentation, open_split
from training.data.augmentation import IGNORED, OUTLIER, VOID
from training.data.crops import TrainingCrops
from training.data.label_space import Translation, coarse_classes, membership, plain_labels
from training.data.mixture import Mixture, Part, parts_of
from training.data.registry import open_anomaly
from training.data.sets.cityscapes256 import BONNET, fill_gaps

NAMES = tuple(CITYSCAPES)


def _written(folder, name, image, label, labels="labels"):
    for part, array, ending in (("images", image, "webp"), (labels, label, "png")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / part / f"{name}.{ending}")


# ---------------------------------------------------------------------------------------- classes


def test_camvids_classes_become_groups_of_cityscapes():
    translation = Translation(tuple(CAMVID), (), NAMES, CAMVID_IN_CITYSCAPES)
    labels = np.array([[0, 1, 3, 9, 10, IGNORED, OUTLIER, VOID]], np.uint8)
    sky, building, road, person, bicyclist, *rest = translation(labels)[0].tolist()
    assert [NAMES[value] for value in (sky, road, person)] == ["sky", "road", "person"]
    members = membership(len(NAMES), translation.groups)
    meant = [[NAMES[c] for c in members[value].nonzero()] for value in (building, bicyclist)]
    assert meant == [["building", "wall"], ["rider", "motorcycle", "bicycle"]]
    assert rest == [IGNORED, OUTLIER, VOID]


def test_groups_of_several_sets_are_numbered_once():
    first = Translation(NAMES, ((11, 12),), NAMES, {})
    second = Translation(tuple(CAMVID), (), NAMES, CAMVID_IN_CITYSCAPES, first.groups)
    assert second.groups[0] == (11, 12)
    third = Translation(NAMES, ((11, 12),), NAMES, {}, second.groups)
    assert third.groups == second.groups
    assert third(np.array([[19]], np.uint8)).item() == 19


def test_a_class_without_a_meaning_is_refused():
    with pytest.raises(ConfigError, match="Unknown class 'sofa'"):
        Translation(("road", "sofa"), (), NAMES, {})


def test_measuring_sees_single_classes_only():
    label = np.array([[0, 18, 19, IGNORED, OUTLIER, VOID]], np.uint8)
    assert plain_labels(label, 19).tolist() == [[0, 18, 255, 255, 255, 255]]


def test_coarse_maps_add_up_the_members_scores():
    assert coarse_classes(NAMES, NAMES) is None
    coarse = coarse_classes(NAMES, tuple(CAMVID))
    scores = np.zeros((19, 1, 2), np.float32)
    # apart, road leads on the left; together building and wall do
    scores[NAMES.index("road")] = 0.4
    scores[NAMES.index("building"), 0, 0] = scores[NAMES.index("wall"), 0, 0] = 0.3
    assert [list(CAMVID)[value] for value in coarse(scores)[0]] == ["building", "road"]


# --------------------------------------------------------------------------------------- mixtures


def test_a_mixture_is_written_with_weights():
    assert parts_of("camvid") == [Part(1.0, "camvid")]
    assert parts_of("3 cityscapes256 + 0.5 camvid=a/b + synthetic") == [
        Part(3.0, "cityscapes256"),
        Part(0.5, "camvid=a/b"),
        Part(1.0, "synthetic"),
    ]
    with pytest.raises(ConfigError, match="no part of a mixture"):
        parts_of("0 camvid + synthetic")


def test_crops_of_a_mixture_follow_the_weights_and_the_seed():
    images = open_split("3 synthetic:cityscapes + 1 synthetic", "train")
    assert isinstance(images, Mixture)
    assert len(images) == 128
    chosen = [images.choose(np.random.default_rng(n)) for n in range(2000)]
    assert 0.22 < np.mean([index >= 64 for index in chosen]) < 0.28
    crops = [TrainingCrops(images, Augmentation(crop=(32, 32)), 20, 3) for _ in range(2)]
    assert all(np.array_equal(crops[0][n].label, crops[1][n].label) for n in range(20))
    later = TrainingCrops(images, Augmentation(crop=(32, 32)), 20, 3, start=7)
    assert np.array_equal(later[0].label, crops[0][7].label)


def test_a_mixture_in_finer_classes_keeps_its_weights():
    finer = (NAMES, open_split("synthetic:cityscapes", "train").palette)
    mixed = open_split("9 synthetic:camvid + 1 synthetic:camvid", "train")
    inner = Mixture([(1.0, mixed)], finer)
    assert not inner.is_one
    drawn = [inner.choose(np.random.default_rng(n)) for n in range(1000)]
    assert 0.07 < np.mean([index >= 64 for index in drawn]) < 0.13
    assert Mixture([(1.0, open_split("synthetic:camvid", "train"))], finer).is_one


def test_other_splits_of_a_mixture_are_the_first_parts():
    images = open_split("1 synthetic:cityscapes + 1 synthetic", "val")
    assert tuple(images.class_names) == NAMES


def test_sets_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="Unknown class"):
        open_split("1 synthetic + 1 synthetic:ade20k", "train")


# ------------------------------------------------------------------------------------------- sets


def test_gaps_between_labels_are_filled_and_wide_void_stays():
    label = np.zeros((20, 30), np.uint8)
    label[:, 10:13] = VOID  # a band of three
    label[:, 13:20] = 1
    label[:, 20:24] = VOID  # one of four
    label[:, 24:] = 2
    filled = fill_gaps(label, 3)
    assert set(filled[:, 10:13].ravel().tolist()) == {0, 1}
    assert (filled[:, 10] == 0).all()
    assert (filled[:, 12] == 1).all()
    assert (filled[:, 20:24] == VOID).all()
    assert np.array_equal(fill_gaps(np.full((4, 4), VOID, np.uint8), 3), np.full((4, 4), VOID))


def test_cityscapes256_is_shown_wide_and_its_void_says_nothing(tmp_path):
    root = tmp_path / "cityscapes256"
    label = np.full((256, 256), 13, np.uint8)
    label[:100], label[100:120] = VOID, NAMES.index("rider")
    for split in ("train", "val"):
        _written(root / split, "0001", np.full((256, 256, 3), 90, np.uint8), label)
    images = open_split(f"cityscapes256={root}", "train")
    image, shown = images.arrays(0)
    assert image.shape == (256, 512, 3)
    assert shown.shape == (256, 512)
    assert (shown[:99] == IGNORED).all()
    assert (shown[105:115] == 19).all()
    assert [NAMES[c] for c in images.groups[0]] == ["person", "rider"]
    assert (shown[130:] == 13).all()
    assert tuple(open_split(root, "val").class_names) == NAMES  # told by its name alone


def test_clips_leave_the_bonnet_out(tmp_path):
    root = tmp_path / "cityscapes_clips"
    _written(root, "a", np.zeros((100, 200, 3), np.uint8), np.zeros((100, 200), np.uint8))
    _, label = open_split(f"cityscapes_clips={root}", "train").arrays(0)
    edge = int(BONNET * 100)
    assert (label[:edge] == 0).all()
    assert (label[edge:] == IGNORED).all()


def test_rendered_streets_train_on_odd_seeds_and_measure_on_even_ones(tmp_path):
    root = tmp_path / "street"
    label, mask = np.zeros((32, 64), np.uint8), np.zeros((32, 64), np.uint8)
    label[5:9, 5:9], mask[5:9, 5:9] = VOID, 1
    for name in ("street_11_cow", "street_11_none", "street_12_cow", "street_13_none"):
        _written(root, name, np.zeros((32, 64, 3), np.uint8), label)
        _written(root, name, np.zeros((32, 64, 3), np.uint8), mask, "anomaly")
    train = open_split(f"rendered_street={root}", "train")
    assert train.names == ["street_11_none", "street_13_none"]
    assert (train.arrays(0)[1][5:9, 5:9] == IGNORED).all()  # void, of whatever
    anomalies = open_anomaly("rendered_anomaly", root)
    assert anomalies.names == ["street_12_cow"]
    assert anomalies.arrays(0)[1].sum() == 16
