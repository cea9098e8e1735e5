"""The criterion against a plain reading of its definition, one layer and one mask at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mask2kan.modeling.kan.layers import KAN
from training.data.augmentation import IGNORED, OUTLIER
from training.objectives import criterion as criterion_module
from training.objectives import matcher as matcher_module
from training.objectives.criterion import SetCriterion, semantic_targets
from training.objectives.distributed import PointDraws
from training.objectives.point_sampling import point_sample

Q, K, H, W = 6, 4, 16, 16


def _outputs(batch, layers, seed=0):
    torch.manual_seed(seed)

    def one():
        return {
            "pred_logits": torch.randn(batch, Q, K + 1, requires_grad=True),
            "pred_masks": torch.randn(batch, Q, H, W, requires_grad=True),
        }

    return {**one(), "aux_outputs": [one() for _ in range(layers - 1)]}


def _targets(counts, seed=1):
    torch.manual_seed(seed)
    return [{"labels": torch.randperm(K)[:n], "masks": torch.rand(n, 32, 32) > 0.5} for n in counts]


def test_semantic_targets_are_one_mask_per_class_without_void():
    label = torch.full((2, 4, 4), 255)
    label[0, 0], label[0, 1] = 3, 1
    first, second = semantic_targets(label)
    assert first["labels"].tolist() == [1, 3]
    assert first["masks"].shape == (2, 4, 4)
    assert torch.equal(first["masks"][1], label[0] == 3)
    assert first["masks"].sum() == 8
    assert second["labels"].numel() == 0
    assert second["masks"].shape == (0, 4, 4)


def test_losses_equal_the_definition(monkeypatch):
    outputs, targets = _outputs(3, 2), _targets([2, 0, 3])
    criterion = SetCriterion(K, num_points=300)
    fixed = torch.rand(1, 300, 2)
    monkeypatch.setattr(
        criterion_module,
        "uncertain_points",
        lambda masks, *_: torch.arange(300).expand(*masks.shape[:2], -1),
    )
    kept = []
    matcher = criterion.matcher
    monkeypatch.setattr(
        criterion, "matcher", lambda *arguments: kept.append(matcher(*arguments)) or kept[0]
    )
    losses = criterion(outputs, targets, lambda _: fixed.expand(3, -1, -1))
    for s, (output, suffix) in enumerate([(outputs["aux_outputs"][0], "_0"), (outputs, "")]):
        expected = torch.full((3, Q), K)
        mask_loss, dice_loss = 0.0, 0.0
        for b in range(3):
            for q, t in zip(kept[0][b].query[s], kept[0][b].mask[s], strict=True):
                expected[b, q] = targets[b]["labels"][t]
                x = point_sample(output["pred_masks"][b : b + 1, q : q + 1], fixed)[0, 0]
                y = point_sample(targets[b]["masks"][None, t : t + 1].float(), fixed)[0, 0]
                mask_loss += F.binary_cross_entropy_with_logits(x, y) / 5
                p = x.sigmoid()
                dice_loss += (1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)) / 5
        weight = torch.tensor([1.0] * K + [0.1])
        class_loss = F.cross_entropy(output["pred_logits"].transpose(1, 2), expected, weight)
        for name, value in (("ce", class_loss), ("mask", mask_loss), ("dice", dice_loss)):
            torch.testing.assert_close(losses[f"loss_{name}{suffix}"], value, rtol=1e-5, atol=1e-6)


def test_point_losses_approach_dense_losses():
    columns = torch.arange(W).expand(H, W)
    target = {"labels": torch.tensor([1]), "masks": (columns < 5)[None]}
    outputs = _outputs(1, 1)
    torch.manual_seed(2)
    criterion = SetCriterion(K, num_points=400_000, importance_ratio=0.0)
    losses = criterion(outputs, [target])
    [(query, _)] = criterion.matcher(
        outputs["pred_logits"][None], outputs["pred_masks"][None], [target]
    )
    # Dense: both maps enlarged sixteenfold, zero beyond the edge as a point sample reads them.
    fine = (torch.arange(16 * W) + 0.5) / (16 * W)
    y, x = torch.meshgrid(fine, fine, indexing="ij")
    grid = torch.stack([x, y], -1).reshape(1, -1, 2)
    logit = point_sample(outputs["pred_masks"][:, query[0]], grid)[0, 0]
    truth = point_sample(target["masks"][None].float(), grid)[0, 0]
    p = logit.sigmoid()
    dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    # 400,000 draws of a term of spread about 1: standard error 0.0016
    dense = F.binary_cross_entropy_with_logits(logit, truth)
    torch.testing.assert_close(losses["loss_mask"], dense, rtol=0, atol=0.006)
    torch.testing.assert_close(losses["loss_dice"], dice, rtol=0, atol=0.006)


def test_a_image_draws_the_same_points_in_any_batch():
    outputs, targets = _outputs(3, 2), _targets([2, 3, 1])
    criterion = SetCriterion(K, num_points=64)
    together = criterion(outputs, targets, PointDraws(7, [10, 11, 12], torch.device("cpu")))
    parts = []
    for b in range(3):
        one = {key: outputs[key][b : b + 1] for key in ("pred_logits", "pred_masks")} | {
            "aux_outputs": [
                {key: value[b : b + 1] for key, value in aux.items()}
                for aux in outputs["aux_outputs"]
            ]
        }
        draws = PointDraws(7, [10 + b], torch.device("cpu"))
        parts.append(criterion(one, targets[b : b + 1], draws))
    for key in ("loss_mask", "loss_dice", "loss_mask_0", "loss_dice_0"):
        weighted = sum(part[key] * n for part, n in zip(parts, (2, 3, 1), strict=True)) / 6
        torch.testing.assert_close(together[key], weighted, rtol=1e-5, atol=1e-6)


def test_images_together_cost_what_they_cost_one_by_one(monkeypatch):
    outputs, targets = _outputs(4, 3), _targets([2, 0, 3, 1])
    targets[2]["ignored"] = torch.rand(32, 32) > 0.7
    criterion = SetCriterion(K, num_points=64)
    points = {count: torch.rand(4, count, 2) for count in (64, 64 * 3 + 16)}
    found = []
    for gather in (matcher_module.together, lambda count, _: [slice(0, count)]):
        monkeypatch.setattr(matcher_module, "together", gather)
        monkeypatch.setattr(criterion_module, "together", gather)
        found.append(criterion(outputs, targets, points.get))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-6)


def test_a_set_without_groups_and_ignored_pixels_costs_what_it_did():
    outputs, targets = _outputs(2, 2), _targets([2, 3])
    points = {count: torch.rand(2, count, 2) for count in (64, 64 * 3 + 16)}
    plain = SetCriterion(K, num_points=64)(outputs, targets, points.get)
    marked = [target | {"ignored": torch.zeros(32, 32, dtype=torch.bool)} for target in targets]
    other = SetCriterion(K, num_points=64, groups=((1,), (0, 2)))(outputs, marked, points.get)
    for key, value in plain.items():
        torch.testing.assert_close(other[key], value, rtol=1e-6, atol=1e-6)


def test_the_class_loss_of_a_group_by_hand():
    # Two queries; the first answers for "class 0 or 2" with chances 1/2, 1/8, 1/4 and 1/8 of
    # nothing, the second for nothing with chance 1/2.
    logits = torch.tensor([[[4.0, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0, 3.0]]]).log()
    masks = torch.stack([torch.full((8, 8), 20.0), torch.full((8, 8), -20.0)])[None]
    target = {"labels": torch.tensor([3]), "masks": torch.ones(1, 8, 8, dtype=torch.bool)}
    criterion = SetCriterion(3, num_points=64, groups=((0, 2),))
    losses = criterion({"pred_logits": logits, "pred_masks": masks}, [target])
    expected = (-math.log(3 / 4) - 0.1 * math.log(1 / 2)) / 1.1
    assert losses["loss_ce"].item() == pytest.approx(expected, rel=1e-5)


def test_mask_losses_with_pixels_that_say_nothing_by_hand():
    # One mask, the left half; the prediction says so on the left and is wrong on the right.
    columns = torch.arange(32).expand(32, 32)
    truth = columns < 16
    predicted = torch.full((1, 1, 32, 32), 30.0)
    outputs = {"pred_logits": torch.zeros(1, 1, K + 1), "pred_masks": predicted}
    target = {"labels": torch.tensor([0]), "masks": truth[None]}
    inside = (torch.rand(1, 2000, 2) * 0.9 + 0.05,)  # clear of the border, where zeros mix in
    criterion = SetCriterion(K, num_points=500, importance_ratio=0.0)
    whole = criterion(outputs, [target], lambda count: inside[0][:, :count])
    left = criterion(outputs, [target | {"ignored": ~truth}], lambda count: inside[0][:, :count])
    assert whole["loss_mask"].item() > 10
    assert left["loss_mask"].item() < 1e-6
    assert left["loss_dice"].item() < 1e-3
    assert whole["loss_dice"].item() > 0.3


def test_semantic_targets_name_groups_and_what_says_nothing():
    label = torch.full((2, 4, 4), 255)
    label[0, 0], label[0, 1], label[0, 2] = 3, 20, IGNORED
    first, second = semantic_targets(label)
    assert first["labels"].tolist() == [3, 20]
    assert torch.equal(first["ignored"], label[0] == IGNORED)
    assert "ignored" not in second


def test_pasted_outliers_are_of_no_class():
    label = torch.full((1, 4, 4), 2)
    label[0, 0] = OUTLIER
    [target] = semantic_targets(label)
    assert target["labels"].tolist() == [2]
    assert target["masks"].sum() == 12


def test_every_layer_learns():
    outputs = _outputs(2, 3)
    criterion = SetCriterion(K, num_points=64)
    criterion.total(criterion(outputs, _targets([2, 1])), torch.nn.Identity()).backward()
    for output in [outputs, *outputs["aux_outputs"]]:
        assert output["pred_logits"].grad.abs().sum() > 0
        assert output["pred_masks"].grad.abs().sum() > 0


def test_images_without_masks_train_the_no_object_class_only():
    outputs = _outputs(2, 2)
    criterion = SetCriterion(K, num_points=64)
    losses = criterion(outputs, _targets([0, 0]))
    assert losses["loss_mask"] == 0
    assert losses["loss_dice"] == 0
    criterion.total(losses, torch.nn.Identity()).backward()
    assert outputs["pred_masks"].grad.abs().sum() == 0
    assert outputs["pred_logits"].grad.abs().sum() > 0


def test_perfect_predictions_cost_almost_nothing():
    columns = torch.arange(32).expand(32, 32)
    masks = torch.stack([columns < 8, (columns >= 8) & (columns < 20), columns >= 20])
    target = {"labels": torch.tensor([2, 0, 1]), "masks": masks}
    predicted = torch.full((1, Q, 32, 32), -30.0)
    predicted[0, :3] = torch.where(masks, 30.0, -30.0)
    logits = torch.full((1, Q, K + 1), -30.0)
    logits[0, range(3), target["labels"]] = 30.0
    logits[0, 3:, K] = 30.0
    criterion = SetCriterion(K, num_points=2000, importance_ratio=0.0)
    losses = criterion({"pred_logits": logits, "pred_masks": predicted}, [target])
    assert losses["loss_ce"] < 1e-6
    # What remains is the soft border of one pixel out of 32 columns.
    assert losses["loss_dice"] < 0.05


def test_regularisation_joins_for_a_kan_only():
    outputs, targets = _outputs(1, 1), _targets([2])
    criterion = SetCriterion(K, num_points=64, regularization_weight=0.5)
    losses = criterion(outputs, targets)
    head = KAN([4, 4, 4])
    plain = criterion.total(losses, torch.nn.Identity())
    expected = plain + 0.5 * head.regularization_loss()
    torch.testing.assert_close(criterion.total(losses, head), expected)
    weighted = 2 * losses["loss_ce"] + 5 * losses["loss_mask"] + 5 * losses["loss_dice"]
    torch.testing.assert_close(plain, weighted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_give_float32_losses(dtype):
    outputs = _outputs(1, 2)
    half = {
        "pred_logits": outputs["pred_logits"].to(dtype),
        "pred_masks": outputs["pred_masks"].to(dtype),
        "aux_outputs": [],
    }
    losses = SetCriterion(K, num_points=64)(half, _targets([2]))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
