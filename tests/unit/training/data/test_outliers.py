"""Pasted objects: from every source, where and as often as asked, the same for the same seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mask2kan.errors import ConfigError, ImageError
from training.data import Augmentation, SyntheticStreets
from training.data.augmentation import OUTLIER
from training.data.crops import TrainingCrops
from training.data.outliers import (
    CocoObjects,
    OutlierExposure,
    OutlierPaster,
    ProceduralObjects,
    open_source,
)

IMAGE = np.full((120, 160, 3), 7, np.uint8)
LABEL = np.full((120, 160), 3, np.uint8)


def _paste(exposure, seed=0):
    return OutlierPaster(exposure)(IMAGE, LABEL, np.random.default_rng(seed))


def test_an_object_is_pasted_and_marked_and_the_rest_stays():
    exposure = OutlierExposure("procedural", probability=1.0, scale=(0.2, 0.4))
    image, label = _paste(exposure)
    marked = label == OUTLIER
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    assert 0.2 * 120 - 2 <= longest <= 0.4 * 120 + 1
    assert (label[~marked] == 3).all()
    assert (image[~marked] == 7).all()
    assert (image[marked] != 7).any(-1).mean() > 0.9
    assert (IMAGE == 7).all()
    assert (LABEL == 3).all()


def test_the_same_seed_gives_the_same_paste():
    exposure = OutlierExposure("procedural", probability=1.0, scale=(0.1, 0.5))
    first, again, other = (_paste(exposure, seed) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_probability():
    paster = OutlierPaster(OutlierExposure("procedural", probability=0.2))
    rng = np.random.default_rng(0)
    pasted = sum((paster(IMAGE, LABEL, rng)[1] == OUTLIER).any() for _ in range(400))
    assert 50 <= pasted <= 110  # 80 ± 4 standard deviations of 8


def test_a_feathered_edge_blends_outside_the_object_only():
    hard = OutlierExposure("procedural", probability=1.0, scale=(0.4, 0.4))
    soft = OutlierExposure("procedural", probability=1.0, scale=(0.4, 0.4), feather=3.0)
    (sharp, label), (blended, same) = _paste(hard), _paste(soft)
    assert np.array_equal(label, same)
    inside = label == OUTLIER
    assert np.array_equal(sharp[inside], blended[inside])
    changed = (blended[~inside] != 7).any(-1).sum()
    assert 0 < changed < inside.sum()


def _cut_out(path, size=(30, 20)):
    rgba = np.zeros((*size, 4), np.uint8)
    rgba[5:25, 4:16] = (200, 10, 10, 255)
    Image.fromarray(rgba).save(path)


def test_cut_outs_keep_their_own_size(tmp_path):
    _cut_out(tmp_path / "one.png")
    image, label = _paste(OutlierExposure(f"cutouts:{tmp_path}", probability=1.0))
    marked = label == OUTLIER
    assert marked.sum() == 20 * 12
    assert (image[marked] == (200, 10, 10)).all()


def test_an_object_larger_than_the_image_is_shrunk(tmp_path):
    Image.fromarray(np.full((400, 10, 4), 255, np.uint8)).save(tmp_path / "wide.png")
    rgba = np.full((400, 300, 4), 255, np.uint8)
    rgba[0, 0, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "wide.png")
    _, label = _paste(OutlierExposure(f"cutouts:{tmp_path}", probability=1.0))
    assert (label == OUTLIER).sum() == pytest.approx(120 * 90, rel=0.02)


def _coco(root, size=(480, 500)):
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "bear"}, {"id": 3, "name": "bus"}]
    names = ["bear", "person", "small", "crowd", "bear_and_bus", "two_bears"]
    images = [
        {"id": n, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]}
        for n, name in enumerate(names)
    ]
    images[2]["height"] = 479
    square = [[10, 10, 50, 10, 50, 40, 10, 40]]

    def annotation(image, category, outline=square, crowd=0):
        return {
            "image_id": image,
            "category_id": category,
            "iscrowd": crowd,
            "segmentation": outline,
        }

    annotations = [
        annotation(0, 2),
        annotation(1, 1),
        annotation(2, 2),
        annotation(3, 2, {"counts": [1], "size": [1, 1]}, crowd=1),
        annotation(4, 2),
        annotation(4, 3),
        annotation(5, 2),
        annotation(5, 2, [[80, 10, 90, 10, 90, 20, 80, 20]]),
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    for name in names:
        Image.new("RGB", (size[1], size[0]), (1, 2, 3)).save(root / "train2017" / f"{name}.jpg")
    return root


def test_coco_images_with_road_classes_small_ones_and_crowds_are_left_out(tmp_path):
    objects = CocoObjects(_coco(tmp_path))
    assert objects._names == ["bear.jpg", "two_bears.jpg"]
    sizes = {objects.draw(np.random.default_rng(seed)).alpha.shape for seed in range(20)}
    # One bear is 41 by 31 pixels; two are pasted together, 81 wide.
    assert sizes == {(31, 41), (31, 81)}


def test_crops_carry_outliers():
    paste = OutlierPaster(OutlierExposure("procedural", probability=1.0, scale=(0.3, 0.6)))
    whole = Augmentation(crop=(360, 480), scale=(1.0, 1.0), class_focus=0.0)
    crops = TrainingCrops(SyntheticStreets("train", 4), whole, 8, 5, paste=paste)
    first, again = crops[3], crops[3]
    assert np.array_equal(first.label, again.label)
    assert sum((crops[n].label == OUTLIER).any() for n in range(8)) == 8


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("coco", "Unknown source of outliers 'coco'"),
        ("nothing:here", "Unknown source"),
        ("cutouts:/nowhere", "No data at /nowhere"),
        ("coco:/nowhere", "No data at /nowhere"),
    ],
)
def test_unknown_sources_are_refused(source, message):
    with pytest.raises(ConfigError, match=message):
        OutlierPaster(OutlierExposure(source))


def test_unusable_sources_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no cut-out"):
        OutlierPaster(OutlierExposure(f"cutouts:{tmp_path}"))
    with pytest.raises(ConfigError, match="No COCO at"):
        OutlierPaster(OutlierExposure(f"coco:{tmp_path}"))
    Image.new("RGB", (20, 20)).save(tmp_path / "opaque.png")
    with pytest.raises(ImageError, match=r"opaque\.png has no outline"):
        _paste(OutlierExposure(f"cutouts:{tmp_path}", probability=1.0))
    Image.new("RGBA", (7000, 7000)).save(tmp_path / "opaque.png")
    with pytest.raises(ImageError, match=r"opaque\.png: it has 49\.0 megapixels"):
        _paste(OutlierExposure(f"cutouts:{tmp_path}", probability=1.0))
    (tmp_path / "opaque.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"Can't read the cut-out .*opaque\.png"):
        _paste(OutlierExposure(f"cutouts:{tmp_path}", probability=1.0))
    root = _coco(tmp_path / "coco")
    (root / "annotations" / "instances_train2017.json").write_text("{}")
    with pytest.raises(ConfigError, match="not COCO's instance file"):
        OutlierPaster(OutlierExposure(f"coco:{root}"))


@pytest.mark.parametrize(
    "values", [{"probability": 1.5}, {"scale": (0.5, 0.2)}, {"scale": (0.0, 1.0)}, {"feather": -1}]
)
def test_values_that_mean_nothing_are_refused(values):
    with pytest.raises(ConfigError, match=f"outliers.{next(iter(values))}"):
        OutlierExposure("procedural", **values)


def test_procedural_objects_are_solid_and_varied():
    drawn = [ProceduralObjects().draw(np.random.default_rng(seed)) for seed in range(6)]
    for cut_out in drawn:
        assert cut_out.image.shape[:2] == cut_out.alpha.shape
        assert 0.2 < (cut_out.alpha > 0).mean() < 1
    assert len({cut_out.alpha.shape for cut_out in drawn}) > 1


def test_an_object_stands_on_the_ground_at_a_size_that_fits_its_row():
    names = ("sky", "road")
    label = np.zeros((200, 300), np.uint8)
    label[80:] = 1
    image = np.full((200, 300, 3), 7, np.uint8)
    exposure = OutlierExposure(
        "procedural", probability=1.0, ground=("road",), metres=(1.3, 1.3), feather=1.0
    )
    paster = OutlierPaster(exposure, names)
    heights = {}
    for seed in range(60):
        _, out = paster(image, label, np.random.default_rng(seed))
        rows = np.flatnonzero((out == OUTLIER).any(1))
        columns = np.flatnonzero((out == OUTLIER).any(0))
        inside = columns.size and columns[0] > 0 and columns[-1] < 299
        if inside and rows[-1] < 199:  # not cut off
            assert rows[-1] > 80
            heights[int(rows[-1])] = max(np.ptp(rows), np.ptp(columns)) + 1
    assert len(heights) > 10
    # a camera at 1.3 m sees 1.3 m as many pixels as the foot lies below the horizon
    for row, size in heights.items():
        assert size == pytest.approx(row - 80, abs=6)


def test_without_ground_nothing_stands():
    exposure = OutlierExposure("procedural", probability=1.0, ground=("road",))
    label = np.zeros((50, 60), np.uint8)
    image = np.zeros((50, 60, 3), np.uint8)
    out, same = OutlierPaster(exposure, ("sky", "road"))(image, label, np.random.default_rng(0))
    assert out is image
    assert same is label
    with pytest.raises(ConfigError, match="Unknown class of outliers.ground 'raod'"):
        OutlierPaster(OutlierExposure("procedural", ground=("raod",)), ("sky", "road"))


def test_what_is_no_cut_out_in_spite_of_its_name_is_passed_over(tmp_path):
    (tmp_path / "._one.png").write_bytes(b"Mac OS X")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(ConfigError, match="holds no cut-out"):
        open_source(f"cutouts:{tmp_path}")
    _cut_out(tmp_path / "folder.png" / "one.png")
    source = open_source(f"cutouts:{tmp_path}")
    for seed in range(8):
        assert source.draw(np.random.default_rng(seed)).alpha.all()


def test_a_damaged_coco_image_is_named(tmp_path):
    root = _coco(tmp_path)
    for path in (root / "train2017").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"train2017/.*: not-an-image"):
        _paste(OutlierExposure(f"coco:{root}", probability=1.0))


def test_cut_outs_can_be_left_out_by_name(tmp_path):
    rgba = np.zeros((20, 20, 4), np.uint8)
    for name, shade in (("cow", 10), ("soapbox_00001", 200)):
        rgba[5:15, 5:15] = (shade, shade, shade, 255)
        Image.fromarray(rgba).save(tmp_path / f"{name}.png")
    source = open_source(f"cutouts:{tmp_path}", ("soapbox",))
    shades = {int(source.draw(np.random.default_rng(n)).image[0, 0, 0]) for n in range(20)}
    assert shades == {10}
