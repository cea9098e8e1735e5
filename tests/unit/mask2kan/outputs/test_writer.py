"""Files of a result: what they hold, and that all of them show the same pixels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from scipy import ndimage

from mask2kan.errors import ConfigError
from mask2kan.inference.prediction import Prediction
from mask2kan.outputs import drawing
from mask2kan.outputs.quantize import quantize
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import FILES, class_overlay, png_bytes, write_results


def test_exported_files_hold_what_they_say(
    predictions: list[tuple[str, Prediction]], tmp_path: Path
) -> None:
    prediction = predictions[0][1]
    threshold = float(np.median(prediction.anomaly("msp")))
    analysis = Analysis(prediction, "msp", threshold, min_region_pixels=3)
    written = write_results(analysis, tmp_path, "left", FILES, image_name="a.png")
    assert [path.name for path in written] == [f"left_{name}" for name in FILES]
    with Image.open(tmp_path / "left_score16.png") as opened:
        codes = np.asarray(opened)
        facts = json.loads(opened.text["mask2kan"])  # type: ignore[attr-defined]
    expected = quantize(prediction.anomaly("msp"))
    assert np.array_equal(codes, expected.codes)
    assert facts["range"] == [facts["low"], facts["high"]] == [expected.low, expected.high]
    back = facts["low"] + codes * facts["step"]
    np.testing.assert_allclose(back, prediction.anomaly("msp"), atol=facts["step"] / 2 * 1.001)
    assert analysis.summary()["score16"] == {key: facts[key] for key in ("low", "high", "step")}
    assert (facts["calibrated"], facts["calibrated_range"]) == (False, None)
    assert facts["anomalous_from"] == expected.threshold_code(threshold)
    raw = np.load(tmp_path / "left_score.npz")
    assert np.array_equal(raw["score"], prediction.anomaly("msp"))
    regions = json.loads((tmp_path / "left_regions.json").read_text(encoding="utf-8"))
    labels, _ = ndimage.label(codes >= facts["anomalous_from"], structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    assert len(regions["annotations"]) == (sizes >= 3).sum() == len(analysis.regions)
    assert regions["images"][0]["file_name"] == "a.png"
    told = {"score": "msp", "threshold": threshold, "min_pixels": 3, "threshold_from": "given"}
    assert regions["info"] == {**facts, **told, "model": prediction.source}
    assert not list(tmp_path.glob("*.tmp"))


def test_a_class_map_shows_its_colours_and_holds_its_labels(
    predictions: list[tuple[str, Prediction]], tmp_path: Path
) -> None:
    prediction = predictions[0][1]
    [path] = write_results(Analysis(prediction), tmp_path, "left", ["semantic.png"])
    with Image.open(path) as opened:
        assert opened.mode == "P"
        np.testing.assert_array_equal(np.asarray(opened), prediction.semantic)
        colours = np.asarray(opened.convert("RGB"))
    assert len(np.unique(prediction.semantic)) > 1
    np.testing.assert_array_equal(colours, prediction.palette[prediction.semantic])


def test_a_class_map_of_many_classes_is_gray(tmp_path: Path) -> None:
    labels = np.array([[0, 299], [256, 3]], np.uint16)
    palette = np.random.default_rng(0).integers(0, 256, (300, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(png_bytes(labels, palette=palette))) as opened:
        np.testing.assert_array_equal(np.asarray(opened), labels)


def test_images_regions_and_summary_show_the_same_pixels(
    predictions: list[tuple[str, Prediction]], tmp_path: Path
) -> None:
    prediction = predictions[0][1]
    values = prediction.anomaly("msp")
    found = quantize(values)
    decoded = found.values[found.codes]
    # a threshold between a score and its code: only one of them reaches it
    row, column = np.unravel_index(np.argmax(decoded - values), values.shape)
    threshold = float(values[row, column] / 2 + decoded[row, column] / 2)
    mask = found.codes >= found.threshold_code(threshold)
    assert mask[row, column]
    assert values[row, column] < np.float64(threshold)
    analysis = Analysis(prediction, "msp", threshold, min_region_pixels=0)
    write_results(analysis, tmp_path, "left", ("mask.png", "overlay.png", "regions.json"))
    with Image.open(tmp_path / "left_mask.png") as opened:
        assert np.array_equal(np.asarray(opened), np.where(mask, 255, 0))
    with Image.open(tmp_path / "left_overlay.png") as opened:
        expected = drawing.outline(class_overlay(analysis), mask)
        assert np.array_equal(np.asarray(opened), expected)
    regions = json.loads((tmp_path / "left_regions.json").read_text(encoding="utf-8"))
    decoded_masks = [coco.decode(entry["segmentation"]) for entry in regions["annotations"]]
    assert np.array_equal(np.sum(decoded_masks, axis=0) > 0, mask)
    assert analysis.summary()["anomalous_share"] == mask.mean()
    boxes = [[*one["bbox"], one["area"]] for one in regions["annotations"]]
    listed = [(one["box"], one["pixels"]) for one in analysis.summary()["regions"]]
    assert boxes[:100] == [[x, y, r - x, b - y, area] for (x, y, r, b), area in listed]


def test_what_makes_no_sense_is_refused(
    predictions: list[tuple[str, Prediction]], tmp_path: Path
) -> None:
    prediction = predictions[0][1]
    with pytest.raises(ConfigError, match="finite"):
        Analysis(prediction, "msp", float("nan"))
    with pytest.raises(ConfigError, match="shine"):
        Analysis(prediction, "shine")
    with pytest.raises(ConfigError, match=r"Unknown result file 'heat'. Nearest: heat\.png"):
        write_results(Analysis(prediction), tmp_path, "left", ("overlay.png", "heat"))
    with pytest.raises(ConfigError, match="infernal"):
        write_results(Analysis(prediction), tmp_path, "left", FILES, colormap="infernal")
    assert not list(tmp_path.iterdir())
