"""Pixels taken apart: the parts give the scores back. Against dense, independent computations."""

import base64
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mask2kan import Predictor, create_model, load_model
from mask2kan.errors import ConfigError
from mask2kan.inference.explain import THUMBNAIL_SIDE, explain_pixel
from mask2kan.inference.postprocess import View
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.scores import SCORES
from mask2kan.modeling.classes import class_names_for

ROOT = Path(__file__).resolve().parents[4]
TINY = {
    "backbone_depths": (1,) * 7,
    "backbone_width": 8,
    "hidden_dim": 64,
    "num_heads": 2,
    "num_queries": 9,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "encoder_feedforward_dim": 16,
    "decoder_feedforward_dim": 16,
}
NO_CLAIM = -200.0  # a mask logit whose sigmoid is 0 in float32


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("mask2kan_mobilenetv2", num_classes=19, **TINY)


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def made_up(size, views=1, *, computed=None, queries=9, classes=19, refine=False, seed=0):
    """A prediction with contrast: confident classes and masks, which random weights do not give."""
    rng = np.random.default_rng(seed)
    computed = computed or size
    shape = [-(-side // 32) * 8 for side in computed]
    names = class_names_for(classes)
    return Prediction(
        image=photo(*size),
        views=tuple(
            View(
                torch.from_numpy(rng.normal(0, 4, (queries, classes + 1)).astype(np.float32)),
                torch.from_numpy(rng.normal(0, 4, (queries, *shape)).astype(np.float32)),
                mirrored,
            )
            for mirrored in (False, True)[:views]
        ),
        compute_size=computed,
        class_names=names,
        palette=rng.integers(0, 256, (classes, 3), dtype=np.uint8),
        calibration={},
        spent={},
        notes=(),
        refine=refine,
    )


def dense(logits, masks, computed, size, *, mirrored=False):
    """The originals' postprocessing of one view: p (Q, K+1) and full masks (Q, H, W), float64."""
    masks = torch.as_tensor(masks)[None]
    masks = F.interpolate(
        masks, size=[4 * side for side in masks.shape[2:]], mode="bilinear", align_corners=False
    )[..., : computed[0], : computed[1]]
    if computed != size:
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    masks = torch.sigmoid(masks[0].double()).numpy()
    logits = np.asarray(logits, dtype=np.float64)
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True), masks[:, :, ::-1] if mirrored else masks


def dense_views(prediction):
    return [
        dense(
            view.pred_logits,
            view.pred_masks,
            view.computed or prediction.compute_size,
            prediction.size,
            mirrored=view.mirrored,
        )
        for view in prediction.views
    ]


def some_pixels(size, count, seed=1):
    rng = np.random.default_rng(seed)
    corners = [(0, 0), (size[1] - 1, size[0] - 1)]
    drawn = zip(rng.integers(0, size[1], count), rng.integers(0, size[0], count), strict=True)
    return corners + [(int(x), int(y)) for x, y in drawn]


def rebuilt(step, score, views):
    """A score from the listed parts alone."""
    if score == "msp":
        return 1 - step["largest_class_score"]
    total = sum(term["term"] for term in step["terms"]) + step["others"]
    if score == "entropy":
        for term in step["terms"]:
            assert term["term"] == pytest.approx(-term["share"] * math.log(term["share"]))
        return total / step["log_num_classes"]
    if score == "energy":
        for term in step["terms"]:
            assert term["term"] == pytest.approx(math.exp(term["class_score"]))
        assert step["logsumexp"] == pytest.approx(math.log(total))
        return -math.log(total)
    if score == "rba":
        for term in step["terms"]:
            assert term["term"] == pytest.approx(math.tanh(term["class_score"]))
        return -total
    for term in step["terms"]:
        product = term["class_probability"] * term["mask_probability"]
        assert views > 1 or term["term"] == pytest.approx(product)  # of several, a mean of products
    return 1 - total


def check_pixel(prediction, samples, x, y, **options):
    """Every claim of an explanation, against (p, m) of the whole image per view."""
    p = np.array([sample[0] for sample in samples])
    m = np.array([sample[1][:, y, x] for sample in samples])
    sums = np.einsum("vqc,vq->vc", p[..., :-1], m)
    mean = sums.mean(axis=0)
    for score in SCORES:
        explanation = explain_pixel(prediction, x, y, score, **options)
        assert explanation.value == prediction.anomaly(score, refine=False)[y, x]
        (step,) = explanation.steps
        value = rebuilt(step, score, len(samples))
        assert value == pytest.approx(explanation.value, abs=1e-4)
        assert step["value"] == pytest.approx(value, abs=1e-9)

    # by value, not by index: what ties within rounding may come in either order
    largest = np.sort(mean)[::-1][: len(explanation.classes)]
    np.testing.assert_allclose([item.score for item in explanation.classes], largest, atol=1e-4)
    assert len({item.index for item in explanation.classes}) == len(explanation.classes)
    assert explanation.predicted.index == prediction.semantic[y, x]
    for item in explanation.classes:
        assert item.score == pytest.approx(mean[item.index], abs=1e-4)
        assert item.name == prediction.class_names[item.index]
        assert item.color == tuple(prediction.palette[item.index])

    top = explanation.predicted
    contributions = (p[:, :, top.index] * m).mean(axis=0)
    largest = np.sort(contributions)[::-1][: len(explanation.queries)]
    np.testing.assert_allclose(
        [part.contribution for part in explanation.queries], largest, atol=1e-4
    )
    assert len({part.query for part in explanation.queries}) == len(explanation.queries)
    total = sum(part.contribution for part in explanation.queries) + explanation.rest
    assert total == pytest.approx(top.score, abs=1e-9)
    assert total == pytest.approx(prediction.class_scores[top.index, y, x], abs=1e-4)
    for part in explanation.queries:
        q = part.query
        assert part.contribution == pytest.approx(contributions[q], abs=1e-4)
        assert part.class_probability == pytest.approx(p[:, q, top.index].mean(), abs=1e-4)
        assert part.mask_probability == pytest.approx(m[:, q].mean(), abs=1e-4)
        check_label(part.label, p[:, q].mean(axis=0), prediction.class_names)
        for index, sample in enumerate(part.views):
            assert sample.class_probability == pytest.approx(p[index, q, top.index], abs=1e-4)
            assert sample.mask_probability == pytest.approx(m[index, q], abs=1e-4)
            check_label(sample.label, p[index, q], prediction.class_names)
    return explanation


def check_label(label, probabilities, names):
    if label.index is None:
        assert label.name == "no object"
    else:
        assert label.name == names[label.index]
    explanation = probabilities[len(names) if label.index is None else label.index]
    assert explanation == pytest.approx(probabilities.max(), abs=1e-4)
    assert label.probability == pytest.approx(explanation, abs=1e-4)


# -------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("size", [(64, 96), (50, 77), (1, 1), (33, 200)])
@pytest.mark.parametrize("views", [1, 2])
def test_the_parts_give_every_score(size, views):
    prediction = made_up(size, views)
    samples = dense_views(prediction)
    for x, y in some_pixels(size, 8):
        explanation = check_pixel(prediction, samples, x, y)
        assert (len(explanation.classes), len(explanation.queries)) == (5, 6)
        assert [len(part.views) for part in explanation.queries] == [views] * 6


@pytest.mark.parametrize("views", [1, 2])
def test_a_image_computed_smaller_is_explained_at_full_size(views):
    prediction = made_up((150, 333), views, computed=(29, 64))
    samples = dense_views(prediction)
    for x, y in some_pixels((150, 333), 8):
        check_pixel(prediction, samples, x, y)


@pytest.mark.parametrize(
    "options", [{}, {"flip": True}, {"max_side": 48}, {"flip": True, "max_side": 48}]
)
def test_predictions_of_a_model(model, options):
    image = photo(60, 90)
    prediction = Predictor(model, device="cpu", **options)(image)
    samples = dense_views(prediction)
    for x, y in some_pixels(prediction.size, 4):
        check_pixel(prediction, samples, x, y)


def test_the_second_view_is_that_of_the_flipped_image(model):
    """Expected from two predictions without flip, one of the mirrored image."""
    image = photo(40, 52)
    plain = Predictor(model, device="cpu")
    both = Predictor(model, device="cpu", flip=True)(image)
    one, other = plain(image), plain(image[:, ::-1].copy())
    samples = [
        dense(item.pred_logits, item.pred_masks, (40, 52), (40, 52), mirrored=mirrored)
        for item, mirrored in ((one, False), (other, True))
    ]
    for x, y in some_pixels((40, 52), 4):
        check_pixel(both, samples, x, y)


def test_a_score_is_that_of_the_views_mean_not_the_mean_of_theirs():
    """Two views that are sure of different classes: each has msp 0, their mean class score 0.5."""
    prediction = made_up((8, 8), views=2, queries=1, classes=19)
    views = []
    for index, view in enumerate(prediction.views):
        logits = torch.full((1, 20), -50.0)
        logits[0, index] = 50.0
        views.append(View(logits, torch.full_like(view.pred_masks, 50.0), view.mirrored))
    prediction = dataclasses.replace(prediction, views=tuple(views))
    explanation = explain_pixel(prediction, 3, 3)
    assert explanation.value == 0.5
    assert [step["largest_class_score"] for step in explanation.steps] == [0.5]
    assert sorted(item.score for item in explanation.classes[:2]) == [0.5, 0.5]
    (part,) = explanation.queries
    assert part.contribution == explanation.predicted.score == 0.5
    assert (part.class_probability, part.mask_probability) == (0.5, 1)
    assert [sample.label.index for sample in part.views] == [0, 1]


def test_everything_can_be_listed_and_then_nothing_is_left():
    prediction = made_up((40, 52), 2)
    samples = dense_views(prediction)
    explanation = check_pixel(prediction, samples, 7, 5, num_classes=99, num_queries=99)
    assert (len(explanation.classes), len(explanation.queries), explanation.rest) == (19, 9, 0)
    assert all(step["others"] == 0 for step in explanation.steps)
    few = check_pixel(prediction, samples, 7, 5, num_classes=1, num_queries=1)
    assert (len(few.classes), len(few.queries)) == (1, 1)
    assert few.rest == pytest.approx(few.predicted.score - few.queries[0].contribution)


def test_a_pixel_that_no_query_claims():
    prediction = made_up((8, 8))
    view = prediction.views[0]
    unclaimed = View(view.pred_logits, torch.full_like(view.pred_masks, NO_CLAIM))
    prediction = dataclasses.replace(prediction, views=(unclaimed,))
    expected = {"msp": 1, "entropy": 1, "energy": -math.log(19), "rba": 0, "eam": 1}
    for score, value in expected.items():
        explanation = explain_pixel(prediction, 0, 0, score)
        assert explanation.value == pytest.approx(value)
        assert explanation.steps[0]["value"] == pytest.approx(value)
        json.dumps(explanation.to_json(), allow_nan=False)
    assert explain_pixel(prediction, 0, 0, "entropy").steps[0]["total"] == 0


def test_refined_predictions_are_explained_plainly_and_say_so():
    refined = made_up((64, 64), refine=True)
    view = refined.views[0]
    logits = torch.full((9, 20), -10.0)
    logits[:, 10] = 10.0  # sky, of which the refinement is sure
    logits[2:, 19] = 20.0
    refined = dataclasses.replace(refined, views=(View(logits, view.pred_masks),))
    plain, shown = refined.anomaly("rba", refine=False), refined.anomaly("rba")
    y, x = np.argwhere(plain != shown)[0]
    explanation = explain_pixel(refined, x, y, "rba")
    assert explanation.refined
    assert explanation.value == plain[y, x] != shown[y, x]
    assert "refined" in explanation.notes[0]
    assert "plain" in explanation.notes[0]
    explanation = explain_pixel(made_up((64, 64)), 0, 0)
    assert (explanation.refined, explanation.notes) == (False, ())


# ------------------------------------------------------------------------------------- thumbnails


def area_means(mask, computed, size):
    """The integral of a piecewise constant image over the thumbnail's pixels, axis by axis."""
    for axis, (length, parts) in enumerate(zip(computed, size, strict=True)):
        values = np.moveaxis(mask, axis, 0).repeat(4, axis=0)[:length]
        integral = np.concatenate([np.zeros_like(values[:1]), values.cumsum(axis=0)])
        edges = np.linspace(0, length, parts + 1)
        at = np.array([np.interp(edges, np.arange(length + 1), line) for line in integral.T]).T
        mask = np.moveaxis(np.diff(at, axis=0) / (length / parts), 0, axis)
    return mask


@pytest.mark.parametrize(
    ("size", "computed", "expected"),
    [
        ((64, 96), None, (16, 24)),
        ((50, 77), None, (13, 20)),
        ((1, 1), None, (1, 1)),
        ((33, 800), None, (4, 96)),
        ((700, 350), None, (96, 48)),
        ((900, 600), (45, 30), (12, 8)),
    ],
)
@pytest.mark.parametrize("views", [1, 2])
def test_thumbnails_show_the_mask_of_the_image_without_padding(size, computed, expected, views):
    prediction = made_up(size, views, computed=computed)
    explanation = explain_pixel(prediction, 0, 0, num_queries=3)
    for part in explanation.queries:
        masks = []
        for view in prediction.views:
            mask = 1 / (1 + np.exp(-view.pred_masks[part.query].double().numpy()))
            mask = area_means(mask, prediction.compute_size, expected)
            masks.append(mask[:, ::-1] if view.mirrored else mask)
        assert part.mask.dtype == np.uint8
        assert part.mask.shape == expected
        assert max(part.mask.shape) <= THUMBNAIL_SIDE
        # half a step of rounding
        np.testing.assert_allclose(part.mask, 255 * np.mean(masks, axis=0), atol=0.5 + 1e-3)


def test_a_mask_of_the_left_half_is_one_in_the_thumbnail_and_its_flipped_view_too():
    prediction = made_up((400, 600), 2)
    views = []
    for view in prediction.views:
        masks = torch.full_like(view.pred_masks, -50.0)
        left = slice(75, None) if view.mirrored else slice(None, 75)
        masks[..., left] = 50.0
        views.append(View(view.pred_logits, masks, view.mirrored))
    prediction = dataclasses.replace(prediction, views=tuple(views))
    mask = explain_pixel(prediction, 10, 10).queries[0].mask
    assert mask.shape == (64, 96)
    assert (mask[:, :48] == 255).all()
    assert (mask[:, 48:] == 0).all()


# ------------------------------------------------------------------------------- JSON and refusals


@pytest.mark.parametrize("score", SCORES)
def test_json_holds_everything_unrounded(score):
    prediction = made_up((40, 52), 2)
    explanation = explain_pixel(prediction, np.int64(7), np.int64(5), score)
    read = json.loads(json.dumps(explanation.to_json(), allow_nan=False))
    assert (read["x"], read["y"], read["score"]) == (7, 5, score)
    assert read["value"] == explanation.value
    assert read["predicted"] == read["classes"][0]
    assert set(read["classes"][0]) == {"index", "name", "color", "score"}
    assert read["rest"] == explanation.rest
    assert read["steps"] == list(explanation.steps)
    for part, query in zip(explanation.queries, read["queries"], strict=True):
        assert query["query"] == part.query
        assert query["contribution"] == part.contribution
        assert set(query["label"]) == {"index", "name", "probability"}
        mask = np.frombuffer(base64.b64decode(query["mask"]["data"]), np.uint8)
        shape = query["mask"]["height"], query["mask"]["width"]
        np.testing.assert_array_equal(mask.reshape(shape), part.mask)


@pytest.mark.parametrize("pixel", [(-1, 0), (0, -1), (52, 0), (0, 40), (1.5, 0), (0, float("nan"))])
def test_pixels_outside_the_image_are_refused(pixel):
    with pytest.raises(ConfigError, match="52 × 40 pixels.*0 to 51.*0 to 39"):
        explain_pixel(made_up((40, 52)), *pixel)


def test_what_else_cannot_be_explained():
    prediction = made_up((40, 52))
    with pytest.raises(ConfigError, match="Unknown anomaly score 'entrpy'. Nearest: entropy"):
        explain_pixel(prediction, 0, 0, "entrpy")
    for name in ("num_classes", "num_queries"):
        with pytest.raises(ConfigError, match=f"{name} is 0; it must be a number of at least 1"):
            explain_pixel(prediction, 0, 0, **{name: 0})


# ------------------------------------------------------------------------------- a trained model


@pytest.mark.parametrize("flip", [False, True])
def test_a_street_with_a_sofa(flip):
    model = load_model("mask2kan_road", device="cpu")
    image = ROOT / "examples" / "road_sofa.webp"
    prediction = Predictor(model, device="cpu", dtype="float32", flip=flip)(image)
    prediction.prepare(SCORES)
    samples = dense_views(prediction)
    for x, y in some_pixels(prediction.size, 20):
        check_pixel(prediction, samples, x, y)
