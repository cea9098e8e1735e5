"""Codes, regions and pages, against NumPy, scikit-learn and pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from scipy import ndimage
from sklearn.metrics import precision_recall_fscore_support

from mask2kan.errors import ConfigError, NumericsError
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.outputs.comparison_figure import comparison_page, write_page
from mask2kan.outputs.exports import (
    CODES,
    at_threshold,
    coco_regions,
    quantize,
    run_lengths,
    write_export,
)
from mask2kan.outputs.results import outlined_classes
from tests.tiny_models import tiny

HEIGHT, WIDTH = 60, 90


@pytest.fixture(scope="module")
def predictions() -> list[tuple[str, Prediction]]:
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    models = [("a KAN", "mask2kan"), ("an MLP", "mask2former")]
    return [(title, Predictor(tiny(name, "mobilenetv2"), "cpu")(picture)) for title, name in models]


def random_scores(seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH))
    return ndimage.gaussian_filter(noise, 2).astype(np.float32)


def test_codes_span_the_maps_own_range() -> None:
    scores = random_scores()
    found = quantize(scores)
    assert (found.codes.min(), found.codes.max()) == (0, CODES - 1)
    decoded = found.low + found.codes * (found.high - found.low) / (CODES - 1)
    step = (found.high - found.low) / (CODES - 1)
    np.testing.assert_allclose(decoded, scores, atol=step / 2 * 1.001)


def test_a_constant_map_and_one_that_is_not_finite() -> None:
    flat = quantize(np.full((3, 4), 0.25, np.float32))
    assert not flat.codes.any()
    assert flat.threshold_code(0.25) == 0
    assert flat.threshold_code(0.2500001) == CODES
    with pytest.raises(NumericsError, match="1 of 4"):
        quantize(np.array([[0, 1], [np.nan, 2]], np.float32))


def test_a_threshold_is_the_first_code_that_reaches_it() -> None:
    found = quantize(random_scores())
    random = np.random.default_rng(1)
    for threshold in [
        *random.uniform(found.low - 0.1, found.high + 0.1, 200),
        found.low,
        found.high,
    ]:
        code = found.threshold_code(threshold)
        assert code == CODES or found.value(code) >= threshold
        assert code == 0 or found.value(code - 1) < threshold
    for code in (0, 1, 777, CODES - 1):
        assert found.threshold_code(found.value(code)) == code


@pytest.mark.parametrize("span", [1e-44, 1.0, 1e30])
def test_thresholds_far_outside_have_codes_too(span: float) -> None:
    found = quantize(np.array([[0, span]], np.float32))
    for far in (1e308, float("inf")):
        assert found.threshold_code(far) == CODES
        assert found.threshold_code(-far) == 0
        assert (found.snapped(far), found.snapped(-far)) == (far, -far)
    with pytest.raises(ConfigError, match="nan"):
        found.threshold_code(float("nan"))


def test_a_threshold_snaps_to_the_grid_up_to_its_ends() -> None:
    found = quantize(random_scores())
    grid = found.low + np.arange(CODES) * (found.high - found.low) / (CODES - 1)
    for threshold in np.random.default_rng(2).uniform(found.low, grid[-1], 50):
        snapped = found.snapped(threshold)
        assert snapped == grid[np.searchsorted(grid, threshold)]
        assert found.snapped(snapped) == snapped
        assert found.threshold_code(snapped) == found.threshold_code(threshold)
    for outside in (found.low - 0.1, found.high + 0.1):
        assert found.snapped(outside) == outside
    flat = quantize(np.full((3, 4), 0.25, np.float32))
    assert [flat.snapped(value) for value in (0, 0.25, 1)] == [0, 0.25, 1]


def test_quality_is_scikit_learns() -> None:
    scores, random = random_scores(), np.random.default_rng(3)
    truth = random.choice(np.array([0, 0, 0, 1, 255], np.uint8), (HEIGHT, WIDTH))
    valid = truth != 255
    found = quantize(scores)
    for threshold in (-9, 0.0, 0.1, found.high, 9):
        told = at_threshold(found, threshold, truth)
        anomalous = found.codes >= found.threshold_code(threshold)
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth[valid] == 1, anomalous[valid], average="binary", zero_division=0
        )
        assert (told["precision"], told["recall"]) == pytest.approx((precision, recall))
        assert told["f1"] == pytest.approx(f1)
        union = told["tp"] + told["fp"] + told["fn"]
        assert told["iou"] == pytest.approx(told["tp"] / union if union else 0)
    with pytest.raises(ConfigError, match="truth"):
        at_threshold(found, 0, truth[:-1])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("shape", [(7, 5), (1, 40), (40, 1), (33, 64)])
def test_run_lengths_are_pycocotools(share: float, shape: tuple[int, int]) -> None:
    random = np.random.default_rng(round(100 * share) + shape[0])
    mask = random.random(shape) < share
    assert run_lengths(mask) == _encoded(mask)


def _encoded(mask: np.ndarray) -> str:
    text: str = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    return text


@pytest.mark.parametrize("place", [(0, 0), (0, 4), (6, 0), (6, 4), (3, 2)])
def test_a_single_pixel_is_a_region(place: tuple[int, int]) -> None:
    mask = np.zeros((7, 5), bool)
    mask[place] = True
    (entry,) = coco_regions(mask, mask.astype(np.float32))["annotations"]
    assert entry["segmentation"]["counts"] == run_lengths(mask) == _encoded(mask)
    assert np.array_equal(coco.decode(entry["segmentation"]).astype(bool), mask)
    assert entry["bbox"] == coco.toBbox(entry["segmentation"]).tolist()


def test_regions_are_a_coco_file(tmp_path: Path) -> None:
    scores = random_scores(7)
    told = coco_regions(scores > 0.05, scores, min_pixels=4, file_name="noise.png")
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
    told = coco_regions(mask, scores, min_pixels=4, file_name="noise.png", info={"score": "msp"})
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
        assert entry["segmentation"]["counts"] == _encoded(decoded)
        assert not (union & decoded).any()
        union |= decoded
    assert (union == (mask & (sizes >= 4)[labels - 1])).all()
    assert told["images"] == [{"id": 1, "width": WIDTH, "height": HEIGHT, "file_name": "noise.png"}]
    assert coco_regions(scores > 99, scores)["annotations"] == []


def test_exported_files_hold_what_they_say(
    predictions: list[tuple[str, Prediction]], tmp_path: Path
) -> None:
    prediction = predictions[0][1]
    threshold = float(np.median(prediction.anomaly("msp")))
    written = write_export(
        prediction, tmp_path, "left", "msp", threshold, min_region_pixels=3, file_name="a.png"
    )
    assert [path.name for path in written] == [
        f"left_{name}"
        for name in (
            *("overlay.png", "heat.png", "semantic.png"),
            *("score16.png", "score.npz", "regions.json"),
        )
    ]
    with Image.open(tmp_path / "left_score16.png") as opened:
        codes = np.asarray(opened)
        facts = json.loads(opened.text["mask2kan"])  # type: ignore[attr-defined]
    expected = quantize(prediction.anomaly("msp"))
    assert np.array_equal(codes, expected.codes)
    assert facts["range"] == [expected.low, expected.high]
    assert facts["anomalous_from"] == expected.threshold_code(threshold)
    raw = np.load(tmp_path / "left_score.npz")
    assert np.array_equal(raw["score"], prediction.anomaly("msp"))
    regions = json.loads((tmp_path / "left_regions.json").read_text(encoding="utf-8"))
    labels, _ = ndimage.label(codes >= facts["anomalous_from"], structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    assert len(regions["annotations"]) == (sizes >= 3).sum()
    told = {"score": "msp", "threshold": threshold, "min_pixels": 3, "threshold_from": "given"}
    assert regions["info"] == {**facts, **told, "model": prediction.source}
    assert not list(tmp_path.glob("*.tmp"))


def test_exported_pictures_and_regions_show_the_same_pixels(
    predictions: list[tuple[str, Prediction]], tmp_path: Path
) -> None:
    prediction = predictions[0][1]
    values = prediction.anomaly("msp")
    found = quantize(values)
    decoded = found.low + found.codes * (found.high - found.low) / (CODES - 1)
    # a threshold between a score and its code: only one of them reaches it
    row, column = np.unravel_index(np.argmax(decoded - values), values.shape)
    threshold = float(values[row, column] / 2 + decoded[row, column] / 2)
    mask = found.codes >= found.threshold_code(threshold)
    assert mask[row, column]
    assert values[row, column] < np.float64(threshold)
    write_export(prediction, tmp_path, "left", "msp", threshold)
    with Image.open(tmp_path / "left_overlay.png") as opened:
        expected = outlined_classes(prediction, mask, min_region_pixels=0)
        assert np.array_equal(np.asarray(opened), expected)
    regions = json.loads((tmp_path / "left_regions.json").read_text(encoding="utf-8"))
    decoded_masks = [coco.decode(entry["segmentation"]) for entry in regions["annotations"]]
    assert np.array_equal(np.sum(decoded_masks, axis=0) > 0, mask)


def test_an_export_refuses_what_makes_no_sense(
    predictions: list[tuple[str, Prediction]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="finite"):
        write_export(predictions[0][1], tmp_path, "left", "msp", float("nan"))
    with pytest.raises(ConfigError, match="shine"):
        write_export(predictions[0][1], tmp_path, "left", "shine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_a_page_is_written(
    predictions: list[tuple[str, Prediction]], tmp_path: Path, suffix: str
) -> None:
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[10:20, 10:30] = 1
    drawn = comparison_page(predictions, "rba", [None, -0.5], name="a.png", truth=truth)
    path = write_page(tmp_path / f"page{suffix}", drawn)
    start = path.read_bytes()[:8]
    assert start.startswith(b"%PDF" if suffix == ".pdf" else b"\x89PNG")
    page = comparison_page(predictions, "rba", [None, None])
    assert page.shape[1] > 3 * 700
    assert len(np.unique(page.reshape(-1, 3), axis=0)) > 100


def test_a_page_refuses_another_pictures_truth(
    predictions: list[tuple[str, Prediction]],
) -> None:
    with pytest.raises(ConfigError, match="sizes must be equal"):
        comparison_page(predictions, "msp", [None, None], truth=np.ones((5, 5), np.uint8))


def test_a_page_in_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.docx"):
        write_page(tmp_path / "page.docx", np.zeros((8, 8, 3), np.uint8))
    assert not list(tmp_path.iterdir())
