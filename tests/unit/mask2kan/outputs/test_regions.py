"""Regions and their COCO file, against SciPy and pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO
from scipy import ndimage

from mask2kan.outputs.regions import coco_file, find_regions

from .test_quantize import random_scores

SIZE = (60, 90)


def _encoded(mask: np.ndarray) -> str:
    text: str = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    return text


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("shape", [(7, 5), (1, 40), (40, 1), (33, 64)])
def test_run_lengths_are_pycocotools(share: float, shape: tuple[int, int]) -> None:
    random = np.random.default_rng(round(100 * share) + shape[0])
    mask = random.random(shape) < share
    union = np.zeros(shape, bool)
    for region in find_regions(mask, mask.astype(np.float32)):
        own = np.zeros(shape, bool)
        left, top, right, bottom = region.box
        own[top:bottom, left:right] = region.inside
        assert region.run_lengths(*shape) == _encoded(own)
        union |= own
    assert np.array_equal(union, mask)


@pytest.mark.parametrize("place", [(0, 0), (0, 4), (6, 0), (6, 4), (3, 2)])
def test_a_single_pixel_is_a_region(place: tuple[int, int]) -> None:
    mask = np.zeros((7, 5), bool)
    mask[place] = True
    [region] = find_regions(mask, mask.astype(np.float32))
    assert region.run_lengths(7, 5) == _encoded(mask)
    assert region.box == (place[1], place[0], place[1] + 1, place[0] + 1)


def test_regions_are_a_coco_file(tmp_path: Path) -> None:
    scores = random_scores(7)
    told = coco_file(find_regions(scores > 0.05, scores, 4), SIZE, "noise.png", {})
    path = tmp_path / "regions.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    opened = COCO(path)
    assert opened.getCatIds(catNms=["anomaly"]) == [1]
    found = opened.loadAnns(opened.getAnnIds(imgIds=[1], iscrowd=False))
    assert len(found) == len(told["annotations"]) > 3
    for entry in found:
        assert opened.annToMask(entry).sum() == entry["area"]


def test_regions_decode_to_the_mask() -> None:
    scores = random_scores(5)
    mask = scores > 0.05
    told = coco_file(find_regions(mask, scores, 4), SIZE, "noise.png", {"score": "msp"})
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    assert len(told["annotations"]) == (sizes >= 4).sum() > 3
    areas = [entry["area"] for entry in told["annotations"]]
    assert areas == sorted(areas, reverse=True)
    union = np.zeros_like(mask)
    for entry in told["annotations"]:
        decoded = coco.decode(entry["segmentation"]).astype(bool)
        assert decoded.sum() == entry["area"] == coco.area(entry["segmentation"])
        assert entry["bbox"] == coco.toBbox(entry["segmentation"]).tolist()
        assert entry["score"] == pytest.approx(float(scores[decoded].mean()), abs=1e-6)
        assert entry["max_score"] == float(scores[decoded].max())
        assert not (union & decoded).any()
        union |= decoded
    assert (union == (mask & (sizes >= 4)[labels - 1])).all()
    assert told["info"] == {"score": "msp"}
    assert told["images"] == [{"id": 1, "width": 90, "height": 60, "file_name": "noise.png"}]
    assert find_regions(scores > 99, scores) == []
