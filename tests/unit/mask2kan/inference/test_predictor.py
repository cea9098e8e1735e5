"""Predictor: sizes, padding, options, errors, timings, threads. On tiny random models."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from mask2kan.errors import (
    BackendError,
    ConfigError,
    ImageError,
    NumericsError,
    OutOfMemoryError,
)
from mask2kan.inference import postprocess
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import SCORES, smoothed
from mask2kan.modeling.mask2kan import create_model
from mask2kan.modeling.pixel_decoder import Features
from mask2kan.modeling.settings import InferenceSettings
from mask2kan.outputs.summary import Analysis

TINY = {
    "backbone_depths": (1,) * 7,
    "backbone_width": 8,
    "hidden_dim": 64,
    "num_heads": 2,
    "num_queries": 7,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "encoder_feedforward_dim": 16,
    "decoder_feedforward_dim": 16,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("mask2kan_mobilenetv2", num_classes=19, **TINY)


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(model, image, computed=None):
    """The originals' postprocessing around a plain forward: (K, H, W)."""
    images = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        output = model.eval()(images, with_aux=False)
    height, width = image.shape[:2]
    masks = output["pred_masks"]
    padded = [4 * side for side in masks.shape[2:]]
    masks = F.interpolate(masks, size=padded, mode="bilinear", align_corners=False)
    masks = masks[0, :, :height, :width].sigmoid()
    classes = output["pred_logits"][0].softmax(-1)[:, :-1]
    return torch.einsum("qc,qhw->chw", classes, masks).numpy(), output


@pytest.mark.parametrize("size", [(64, 96), (50, 77), (1, 1), (1, 200), (33, 31)])
def test_no_resize_and_the_originals_padding(model, size):
    image = photo(*size)
    prediction = Predictor(model, device="cpu", dtype="float32")(image)
    expected, output = reference(model, image)
    assert prediction.size == prediction.compute_size == size
    np.testing.assert_allclose(prediction.class_scores, expected, atol=1e-5)
    np.testing.assert_array_equal(prediction.semantic, prediction.class_scores.argmax(0))
    np.testing.assert_allclose(prediction.anomaly(), 1 - expected.max(0), atol=1e-5)
    np.testing.assert_allclose(prediction.pred_logits, output["pred_logits"][0], atol=1e-5)
    np.testing.assert_allclose(prediction.pred_masks, output["pred_masks"][0], atol=1e-4)
    assert prediction.notes == ()
    assert prediction.semantic.dtype == np.uint8
    assert prediction.anomaly().dtype == prediction.class_scores.dtype == np.float32


def test_every_source_gives_the_same(model, tmp_path):
    image = photo(40, 52)
    path = tmp_path / "road.png"
    Image.fromarray(image).save(path)
    predictor = Predictor(model, device="cpu")
    expected = predictor(image).anomaly("rba")
    for source in (path, str(path), path.read_bytes(), Image.open(path)):
        np.testing.assert_array_equal(predictor(source).anomaly("rba"), expected)


def test_larger_images_are_computed_at_max_side_and_say_so(model):
    prediction = Predictor(model, device="cpu", max_side=64)(photo(100, 333))
    assert prediction.compute_size == (19, 64)
    assert prediction.size == (100, 333)
    assert prediction.class_scores.shape == (19, 100, 333)
    assert prediction.anomaly("eam").shape == prediction.semantic.shape == (100, 333)
    assert "333 × 100" in prediction.notes[0]
    assert "64 × 19" in prediction.notes[0]
    exact = Predictor(model, device="cpu", max_side=333)(photo(100, 333))
    assert exact.notes == ()
    assert exact.compute_size == (100, 333)


def test_over_40_megapixels_is_refused(model):
    with pytest.raises(ImageError, match="megapixels"):
        Predictor(model, device="cpu")(np.broadcast_to(np.uint8(0), (6000, 7000, 3)))


def test_scores_are_cached_and_one_pass_gives_all(model):
    prediction = Predictor(model, device="cpu")(photo(40, 52))
    assert "postprocess" not in prediction.timings
    prediction.prepare(SCORES)
    spent = prediction.timings["postprocess"]
    maps = {score: prediction.anomaly(score) for score in SCORES}
    assert prediction.semantic is prediction.semantic
    assert prediction.timings["postprocess"] == spent
    single = Predictor(model, device="cpu")(photo(40, 52))
    for score, values in maps.items():
        assert values is prediction.anomaly(score)
        np.testing.assert_allclose(single.anomaly(score), values, atol=1e-6)
    with pytest.raises(ConfigError, match="Unknown anomaly score"):
        prediction.anomaly("maximum")


def test_timings_cover_the_stages(model):
    timings = Predictor(model, device="cpu")(photo(40, 52)).timings
    parts = ("backbone", "pixel_decoder", "transformer_decoder")
    assert {"decode", "resize", "model", *parts} <= set(timings)
    assert 0 < sum(timings[part] for part in parts) <= timings["model"]


SEVERAL = InferenceSettings(sides=(32, 48, 4096), score="rba", sigma=0.02, smallest_region=0.01)


def test_settings_average_class_scores_over_sizes(model):
    image = photo(40, 52)
    prediction = Predictor(model, device="cpu", settings=SEVERAL)(image)
    each = [Predictor(model, device="cpu", max_side=side)(image) for side in (48, 32)]
    mean = np.mean([single.class_scores for single in each], axis=0)
    np.testing.assert_allclose(prediction.class_scores, mean, atol=1e-5)
    np.testing.assert_array_equal(prediction.semantic, mean.argmax(0))
    np.testing.assert_allclose(prediction.anomaly(), -np.tanh(mean).sum(0), atol=1e-5)
    np.testing.assert_array_equal(prediction.pred_logits, each[0].pred_logits)
    assert prediction.compute_size == each[0].compute_size
    assert "48 + 32 pixels" in prediction.notes[0]


def test_thresholds_see_the_smoothed_map_and_figures_the_plain_one(model):
    prediction = Predictor(model, device="cpu", settings=SEVERAL)(photo(40, 52))
    plain = prediction.anomaly("msp")
    expected = ndimage.gaussian_filter(plain.astype(np.float64), 0.02 * 52, mode="reflect")
    np.testing.assert_allclose(prediction.anomaly_map("msp"), expected, atol=2e-3)
    assert prediction.anomaly("msp") is plain
    assert prediction.smallest_region() == round(0.01 * 40 * 52)
    assert prediction.smallest_region(50) == 50


def test_another_smoothing_leaves_the_settings_own_in_place(model):
    prediction = Predictor(model, device="cpu", settings=SEVERAL)(photo(40, 52))
    usual = prediction.anomaly_map("msp")
    for sigma in (0.03, 0.05):
        other = prediction.anomaly_map("msp", sigma)
        np.testing.assert_array_equal(other, smoothed(prediction.anomaly("msp"), sigma * 52))
        assert Analysis(prediction, "msp", sigma=sigma).values is other
    assert prediction.anomaly_map("msp", 0.0) is prediction.anomaly("msp")
    assert prediction.anomaly_map("msp") is usual


def test_settings_are_the_checkpoints_unless_native_is_asked_for(model, monkeypatch):
    image = photo(40, 52)
    native = Predictor(model, device="cpu")(image)
    assert native.settings == InferenceSettings()
    monkeypatch.setattr(model, "settings", SEVERAL)
    assert Predictor(model, device="cpu")(image).settings == SEVERAL
    again = Predictor(model, device="cpu", settings="native")(image)
    np.testing.assert_array_equal(again.class_scores, native.class_scores)
    assert again.anomaly_map("msp") is again.anomaly("msp")
    assert not any("only a start" in note for note in again.notes)
    monkeypatch.setattr(model, "calibration", {"msp": {"range": [0.0, 1.0], "fpr05": 0.5}})
    again = Predictor(model, device="cpu", settings="native")(image)
    assert any("only a start" in note for note in again.notes)
    own = Predictor(model, device="cpu")(image)
    assert not any("only a start" in note for note in own.notes)
    with pytest.raises(ConfigError, match="Unknown settings 'best'"):
        Predictor(model, device="cpu", settings="best")


@pytest.mark.parametrize(
    ("field", "value"),
    [("sides", (8,)), ("sides", (64.5,)), ("score", "maximum"), ("sigma", -1.0), ("sigma", 3)],
)
def test_settings_that_cannot_be_run_are_refused(field, value):
    with pytest.raises(ConfigError, match="settings|score"):
        InferenceSettings(**{field: value})


def test_flip_averages_with_the_mirrored_image(model):
    image = photo(40, 52)
    plain = Predictor(model, device="cpu")
    both = Predictor(model, device="cpu", flip=True)(image)
    plain_view, mirrored_view = plain(image), plain(image[:, ::-1].copy())
    mean = (plain_view.class_scores + mirrored_view.class_scores[:, :, ::-1]) / 2
    np.testing.assert_allclose(both.class_scores, mean, atol=1e-5)
    np.testing.assert_allclose(both.anomaly("msp"), 1 - mean.max(0), atol=1e-5)
    np.testing.assert_array_equal(both.pred_logits, plain_view.pred_logits)
    assert "flipped" in both.notes[0]
    mirrored = Predictor(model, device="cpu", flip=True)(image[:, ::-1].copy())
    np.testing.assert_allclose(mirrored.anomaly(), both.anomaly()[:, ::-1], atol=1e-5)


def test_refine_is_a_default_that_anomaly_can_override(model):
    refined = Predictor(model, device="cpu", refine=True)(photo(40, 52))
    assert refined.anomaly().shape == (40, 52)
    plain = refined.anomaly(refine=False)
    assert ((refined.anomaly() == plain) | (refined.anomaly() == 0)).all()
    unnamed = create_model("mask2former_mobilenetv2", num_classes=3, **TINY)
    with pytest.raises(ConfigError, match="Turn it off"):
        Predictor(unnamed, device="cpu", refine=True)(photo(8, 8)).anomaly()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16])
def test_lower_precision_is_close(model, dtype):
    image = photo(64, 64)
    exact = Predictor(model, device="cpu", dtype="float32")(image)
    lower = Predictor(model, device="cpu", dtype=dtype)(image)
    assert lower.pred_logits.dtype == np.float32
    assert 0 < np.abs(lower.class_scores - exact.class_scores).max() < 0.2


def test_evaluation_mode_and_no_gradients(model):
    model.train()
    prediction = Predictor(model, device="cpu")(photo(32, 32))
    assert not model.training
    np.testing.assert_array_equal(
        prediction.pred_logits, Predictor(model, device="cpu")(photo(32, 32)).pred_logits
    )
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_output_is_an_error(value):
    broken = create_model("mask2kan_mobilenetv2", num_classes=4, **TINY)
    with torch.no_grad():
        broken.transformer_decoder.class_embed.bias[0] = value
    with pytest.raises(NumericsError, match=r"pred_logits has 7 non-finite numbers out of 35"):
        Predictor(broken, device="cpu")(photo(32, 32))


class Hungry(torch.nn.Module):
    """A model whose device has room for so many pixels; keeps the sizes."""

    class_names = ("a", "b")
    palette = np.zeros((2, 3), np.uint8)

    def __init__(self, room, error):
        super().__init__()
        self.room, self.error, self.sizes = room, error, []

    def backbone_maps(self, images):
        self.sizes.append(tuple(images.shape[2:]))
        if images[0, 0].numel() > self.room:
            raise self.error
        return [images]

    def pixel_decoder(self, maps):
        height, width = (-(-side // 32) * 8 for side in maps[0].shape[2:])
        return Features(torch.ones(1, 3, height, width), [])

    def decode(self, features, *, with_aux):
        assert not with_aux
        return {
            "pred_logits": torch.ones(1, 3, 3),
            "pred_masks": features.mask_features,
            "queries": torch.ones(1, 3, 3),
        }


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("flip", [False, True])
def test_an_image_too_large_for_memory_is_computed_smaller_and_says_so(error, flip):
    model = Hungry(room=200 * 400, error=error)
    prediction = Predictor(model, device="cpu", flip=flip)(photo(400, 800))
    passes = 2 if flip else 1
    assert model.sizes == [(400, 800), (280, 560), *[(196, 392)] * passes]
    assert prediction.size == prediction.semantic.shape == (400, 800)
    assert prediction.compute_size == (196, 392)
    expected = "computed at 392 × 196 because memory did not suffice for more and mapped back"
    assert expected in prediction.notes[0]
    assert len(prediction.notes) == passes


def test_no_memory_for_anything_is_one_error():
    model = Hungry(room=0, error=SHORTAGES[0])
    with pytest.raises(OutOfMemoryError, match=r"on cpu for a 1000×500 .* at 342×171\. Close"):
        Predictor(model, device="cpu")(photo(500, 1000))
    small = Hungry(room=0, error=SHORTAGES[0])
    with pytest.raises(OutOfMemoryError, match="for a 20×10 image"):
        Predictor(small, device="cpu")(photo(10, 20))
    assert small.sizes == [(10, 20)]


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory():
    model = Hungry(room=0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        Predictor(model, device="cpu")(photo(64, 64))
    assert len(model.sizes) == 1


def test_one_model_in_many_threads(model):
    images = [photo(40, 52, seed) for seed in range(4)]
    alone = [Predictor(model, device="cpu")(image).anomaly() for image in images]
    results = {}

    def work(index):
        predictor = Predictor(model, device="cpu")
        results[index] = [predictor(images[index]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(4):
        for prediction in results[index]:
            np.testing.assert_allclose(prediction.anomaly(), alone[index], atol=1e-6)
            assert prediction.timings["backbone"] <= prediction.timings["model"]


def test_maps_asked_for_by_several_threads_are_computed_once(model, monkeypatch):
    prediction = Predictor(model, device="cpu")(photo(40, 52))
    calls, together = [], threading.Barrier(4)
    reduce_pixels = postprocess.reduce_pixels

    def counted(*arguments):
        calls.append(arguments)
        return reduce_pixels(*arguments)

    monkeypatch.setattr(postprocess, "reduce_pixels", counted)

    def ask():
        together.wait()
        prediction.anomaly("msp")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_predictions_travel_between_processes(model):
    prediction = Predictor(model, device="cpu")(photo(64, 96))
    scores = prediction.anomaly("rba")
    for other in (pickle.loads(pickle.dumps(prediction)), copy.deepcopy(prediction)):
        assert np.array_equal(other.anomaly("rba"), scores)
        assert np.array_equal(other.semantic, prediction.semantic)
        assert other.settings == prediction.settings


def test_calibration_decides_range_and_threshold():
    calibrated = create_model("mask2former_mobilenetv2", num_classes=4, **TINY)
    calibrated.calibration = {"msp": {"range": [-0.2, 0.8], "fpr05": 0.3}}
    prediction = Predictor(calibrated, device="cpu")(photo(32, 32))
    assert prediction.score_range("msp") == (-0.2, 0.8, True)
    assert prediction.default_threshold("msp") == (0.3, "fpr05")
    assert prediction.default_threshold("rba") == (-np.tanh(1) / 2, "middle of the range")
    assert prediction.num_parameters == sum(p.numel() for p in calibrated.parameters())


def test_what_cannot_be_used_is_said(model):
    with pytest.raises(BackendError, match="CUDA graphs were asked for on cpu"):
        Predictor(model, device="cpu", graphs=True)
    with pytest.raises(ConfigError, match="max_side is 8"):
        Predictor(model, max_side=8)
    with pytest.raises(ConfigError, match="Nearest: float16"):
        Predictor(model, dtype="floaty16")
    with pytest.raises(BackendError, match="Unknown device"):
        Predictor(model, device="gpu?")
    if torch.cuda.device_count() < 9:
        with pytest.raises(BackendError, match="CUDA GPUs were found"):
            Predictor(model, device="cuda:8")
