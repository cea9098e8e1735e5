"""A comparison gives what its predictors give by themselves, and computes no more than it must."""

import copy

import numpy as np
import pytest
import torch

import mask2kan
from mask2kan import Comparison, Predictor, create_model
from mask2kan.inference.comparison import TrunkHashes
from mask2kan.modeling.pixel_decoder import Features

TINY = {
    "num_classes": 5,
    "num_queries": 7,
    "hidden_dim": 16,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "encoder_feedforward_dim": 16,
    "decoder_feedforward_dim": 16,
    "backbone_depths": (1, 1, 1, 1),
    "backbone_width": 12,
    "backbone_num_heads": (1, 2, 2, 4),
}


def tiny(name, seed):
    torch.manual_seed(seed)
    return create_model(name, **TINY)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


@pytest.fixture
def pair():
    """A KAN and an MLP model with different weights everywhere."""
    return tiny("mask2kan_swin_t", 0), tiny("mask2former_swin_t", 1)


def copy_part(pair, *parts):
    for part in parts:
        getattr(pair[1], part).load_state_dict(getattr(pair[0], part).state_dict())


def calls_of(models):
    """How often each stage of each model runs."""
    counts = {}
    for index, model in enumerate(models):
        for stage in ("backbone", "pixel_decoder", "transformer_decoder"):
            counts[index, stage] = 0

            def count(*_, key=(index, stage)):
                counts[key] += 1

            getattr(model, stage).register_forward_hook(count)
    return counts


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("parts", "shared"),
    [
        ((), ()),
        (("backbone",), ("backbone",)),
        (("backbone", "pixel_decoder"), ("backbone", "pixel_decoder")),
        (("pixel_decoder",), ()),
    ],
)
def test_bit_equal_and_computed_once(pair, image, parts, shared, flip):
    copy_part(pair, *parts)
    predictors = [Predictor(model, "cpu", "float32", flip=flip) for model in pair]
    alone = [predictor(image) for predictor in predictors]
    counts = calls_of(pair)
    together = Comparison(*predictors)(image)
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first.pred_logits, second.pred_logits)
        np.testing.assert_array_equal(first.pred_masks, second.pred_masks)
        np.testing.assert_array_equal(first.anomaly("entropy"), second.anomaly("entropy"))
    passes = 2 if flip else 1
    assert [prediction.shared for prediction in together] == [(), shared]
    assert counts[0, "backbone"] == counts[0, "pixel_decoder"] == passes
    assert counts[1, "transformer_decoder"] == passes
    assert counts[1, "pixel_decoder"] == (0 if "pixel_decoder" in shared else passes)
    assert counts[1, "backbone"] == (0 if shared else passes)
    assert set(shared).isdisjoint(together[1].timings)
    assert "backbone" in together[0].timings


def test_a_shared_trunk_is_run_as_the_predictor_runs_it(pair, image, monkeypatch):
    """Compiled predictors share a compiled trunk, and nothing with a plain one."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    copy_part(pair, "backbone", "pixel_decoder")
    predictors = [
        Predictor(model, "cpu", "float32", compile=compiled)
        for model, compiled in zip((*pair, pair[0]), (True, True, False), strict=True)
    ]
    together = Comparison(*predictors)(image)
    both = ("backbone", "pixel_decoder")
    assert [prediction.shared for prediction in together] == [(), both, ()]
    for prediction, predictor in zip(together, predictors, strict=True):
        np.testing.assert_array_equal(prediction.pred_masks, predictor(image).pred_masks)


def test_each_image_is_seen_anew(pair, image):
    copy_part(pair, "backbone", "pixel_decoder")
    comparison = Comparison(*(Predictor(model, "cpu", "float32") for model in pair))
    comparison(image)
    second = 255 - image
    for prediction, predictor in zip(comparison(second), comparison.predictors, strict=True):
        np.testing.assert_array_equal(prediction.pred_masks, predictor(second).pred_masks)


def test_a_model_short_of_memory_does_not_take_the_trunk_of_a_larger_image(pair, monkeypatch):
    copy_part(pair, "backbone", "pixel_decoder")
    image = np.random.default_rng(1).integers(0, 256, (200, 400, 3), dtype=np.uint8)
    decode = pair[1].transformer_decoder.forward

    def hungry(features, *, with_aux):
        if features.mask_features.shape[-1] > 72:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(features, with_aux=with_aux)

    monkeypatch.setattr(pair[1].transformer_decoder, "forward", hungry)
    first, second = Comparison(*(Predictor(model, "cpu", "float32") for model in pair))(image)
    assert first.compute_size == (200, 400)
    assert second.compute_size == (140, 280)
    assert second.shared == ()
    smaller = Predictor(pair[1], "cpu", "float32", max_side=280)(image)
    np.testing.assert_array_equal(second.pred_masks, smaller.pred_masks)


def test_same_weights_under_different_settings_are_not_shared(pair, image):
    copy_part(pair, "backbone", "pixel_decoder")
    settings = [("float32", 2048), ("bfloat16", 2048), ("float32", 64)]
    predictors = [
        Predictor(pair[0], "cpu", dtype, max_side=max_side) for dtype, max_side in settings
    ]
    together = Comparison(*predictors)(image)
    assert [prediction.shared for prediction in together] == [(), (), ()]
    for prediction, predictor in zip(together, predictors, strict=True):
        np.testing.assert_array_equal(prediction.pred_masks, predictor(image).pred_masks)


def test_one_alone_is_not_hashed(pair, image, monkeypatch):
    monkeypatch.setattr(TrunkHashes, "of", None)
    [prediction] = Comparison(Predictor(pair[0], "cpu", "float32"))(image)
    assert prediction.shared == ()


def test_hash_is_of_the_content():
    model = tiny("mask2kan_swin_t", 0)
    same = copy.deepcopy(model)
    assert TrunkHashes.of(model) == TrunkHashes.of(same)
    same.transformer_decoder.query_feat.weight.data.add_(1)
    assert TrunkHashes.of(model) == TrunkHashes.of(same)
    same.pixel_decoder.level_embed.data[0, 0] += 1e-6
    assert TrunkHashes.of(model).backbone == TrunkHashes.of(same).backbone
    assert TrunkHashes.of(model).pixel_decoder != TrunkHashes.of(same).pixel_decoder
    same.backbone.norm0.bias.data[0] += 1e-6
    assert TrunkHashes.of(model).backbone != TrunkHashes.of(same).backbone


@pytest.mark.parametrize(
    "change", [{"pixel_mean": (0.0, 0.0, 0.0)}, {"backbone_num_heads": (2, 2, 2, 4)}]
)
def test_hash_is_of_the_arithmetic_too(change):
    """The same weights, but another normalisation or another split into heads."""
    model = tiny("mask2kan_swin_t", 0)
    torch.manual_seed(0)
    second = create_model("mask2kan_swin_t", **{**TINY, **change})
    for key, value in model.state_dict().items():
        target = second.state_dict()[key]
        if target.shape == value.shape:
            target.copy_(value)
    assert TrunkHashes.of(model) != TrunkHashes.of(second)


def test_bfloat16_weights_and_foreign_models():
    model = tiny("mask2kan_swin_t", 0).bfloat16()
    assert TrunkHashes.of(model) == TrunkHashes.of(copy.deepcopy(model))

    class Foreign(torch.nn.Module):
        class_names = ("a", "b")
        palette = np.zeros((2, 3), np.uint8)

        def backbone_maps(self, images):
            return images[:, :1, ::4, ::4].repeat(1, 3, 1, 1)

        def pixel_decoder(self, maps):
            return Features(maps, [])

        def decode(self, features, *, with_aux):
            queries = torch.ones(1, 3, 3)
            masks = features.mask_features
            return {"pred_logits": queries, "pred_masks": masks, "queries": queries}

    predictors = [Predictor(Foreign(), "cpu"), Predictor(Foreign(), "cpu")]
    together = Comparison(*predictors)(np.zeros((32, 64, 3), np.uint8))
    assert [prediction.shared for prediction in together] == [(), ()]
    assert mask2kan.Comparison is Comparison
