"""bfloat16 holds: on real pictures the bundled pair says what it says in float32.

Autocast on a processor without bfloat16 instructions computes the same roundings, only slower, so
this needs no special machine.
"""

import pytest

from mask2kan.checkpoints import list_weights, load_model
from mask2kan.errors import ConfigError
from mask2kan.predictor import Predictor
from training.evaluate import collect_anomaly_scores, open_pictures
from training.metrics import SegmentationEvaluator


def pictures_of(*arguments):
    try:
        return open_pictures(*arguments)
    except ConfigError as error:
        pytest.skip(f"needs the CamVid pictures: {error}")


def every(pictures, count):
    return [round(i * (len(pictures.names) - 1) / (count - 1)) for i in range(count)]


@pytest.mark.parametrize("name", list_weights(bundled_only=True))
@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_classes_and_anomalies_hold(name, count):
    test, anomalies = pictures_of("camvid", None, "test"), pictures_of("camvid_anomaly")
    model = load_model(name, device="cpu")
    predictors = {dtype: Predictor(model, "cpu", dtype) for dtype in ("float32", "bfloat16")}

    evaluators = {dtype: SegmentationEvaluator(len(model.class_names)) for dtype in predictors}
    same = pixels = 0
    for index in every(test, count):
        picture, label = test.arrays(index)
        maps = {dtype: predictor(picture).semantic for dtype, predictor in predictors.items()}
        for dtype, found in maps.items():
            evaluators[dtype].update(found, label)
        same += int((maps["float32"] == maps["bfloat16"]).sum())
        pixels += label.size
    assert same / pixels >= 0.99
    miou = {dtype: evaluator.compute()["miou"] for dtype, evaluator in evaluators.items()}
    assert miou["bfloat16"] == pytest.approx(miou["float32"], abs=0.002)

    auroc = {}
    for dtype, predictor in predictors.items():
        scores, _ = collect_anomaly_scores(predictor, anomalies, limit=count)
        auroc[dtype] = {score: one.compute()["auroc"] for score, one in scores.items()}
    print(f"\n{name}: {count} pictures, same class {same / pixels:.4%}, mIoU {miou}, AUROC {auroc}")
    # the few anomalous pixels of a few pictures say less
    assert auroc["bfloat16"] == pytest.approx(auroc["float32"], abs=0.002 if count >= 50 else 0.01)
