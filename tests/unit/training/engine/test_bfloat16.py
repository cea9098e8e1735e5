"""bfloat16 holds: on real images the bundled pair says what it says in float32.

Autocast on a processor without bfloat16 instructions computes the same roundings, only slower, so
this needs no special machine.
"""

import contextlib

import pytest

from mask2kan.checkpoints import list_weights, load_model
from mask2kan.errors import ConfigError
from mask2kan.inference.predictor import Predictor
from mask2kan.modeling import pixel_decoder, transformer_decoder
from training.data import open_anomaly, open_split
from training.evaluation.measure import measure_scores
from training.metrics import SegmentationEvaluator


def images_of(opening, *arguments):
    try:
        return opening(*arguments)
    except ConfigError as error:
        pytest.skip(f"needs the CamVid images: {error}")


def every(images, count):
    return [round(i * (len(images.names) - 1) / (count - 1)) for i in range(count)]


def in_both(name, count):
    """Share of pixels of the same class, and mIoU and AUROC by dtype."""
    test, anomalies = (
        images_of(open_split, "camvid", "test"),
        images_of(open_anomaly, "camvid_anomaly"),
    )
    model = load_model(name, device="cpu")
    predictors = {dtype: Predictor(model, "cpu", dtype) for dtype in ("float32", "bfloat16")}
    evaluators = {dtype: SegmentationEvaluator(len(model.class_names)) for dtype in predictors}
    same = pixels = 0
    for index in every(test, count):
        image, label = test.arrays(index)
        maps = {dtype: predictor(image).semantic for dtype, predictor in predictors.items()}
        for dtype, found in maps.items():
            evaluators[dtype].update(found, label)
        same += int((maps["float32"] == maps["bfloat16"]).sum())
        pixels += label.size
    miou = {dtype: evaluator.compute()["miou"] for dtype, evaluator in evaluators.items()}
    auroc = {}
    for dtype, predictor in predictors.items():
        ranked = measure_scores(predictor, anomalies, limit=count).evaluators
        auroc[dtype] = {score: one.compute()["auroc"] for score, one in ranked.items()}
    print(f"\n{name}: {count} images, same class {same / pixels:.4%}, mIoU {miou}, AUROC {auroc}")
    return same / pixels, miou, auroc


def assert_holds(name, count, auroc_tolerance):
    same, miou, auroc = in_both(name, count)
    assert same >= 0.99
    assert miou["bfloat16"] == pytest.approx(miou["float32"], abs=0.002)
    assert auroc["bfloat16"] == pytest.approx(auroc["float32"], abs=auroc_tolerance)


@pytest.mark.parametrize("name", list_weights(bundled_only=True))
@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_classes_and_anomalies_hold(name, count):
    # the few anomalous pixels of a few images say less
    assert_holds(name, count, auroc_tolerance=0.002 if count >= 50 else 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_weights(bundled_only=True))
def test_they_hold_on_a_card_too(name, monkeypatch):
    """Which rounds in both decoders as well, where a processor keeps float32."""
    for module in (pixel_decoder, transformer_decoder):
        monkeypatch.setattr(
            module, "full_precision_on_cpu", lambda tensor: contextlib.nullcontext()
        )
    assert_holds(name, 50, auroc_tolerance=0.005)
