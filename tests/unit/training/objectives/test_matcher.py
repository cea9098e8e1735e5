"""The matcher against a direct computation of every cost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

import training.objectives.matcher as matcher_module
from mask2kan.errors import NumericsError
from training.data.label_space import membership
from training.objectives.matcher import HungarianMatcher

Q, K, H, W = 7, 5, 12, 16


def _case(counts, sets=1, seed=0):
    torch.manual_seed(seed)
    logits = torch.randn(sets, len(counts), Q, K + 1)
    masks = 3 * torch.randn(sets, len(counts), Q, H, W)
    targets = [
        {"labels": torch.randperm(K)[:n], "masks": torch.rand(n, 2 * H, 2 * W) > 0.5}
        for n in counts
    ]
    return logits, masks, targets


def _pixel_centres():
    y, x = torch.meshgrid((torch.arange(H) + 0.5) / H, (torch.arange(W) + 0.5) / W, indexing="ij")
    return torch.stack([x, y], -1).reshape(1, -1, 2)


def test_matches_the_assignment_of_costs_computed_pair_by_pair():
    logits, masks, _ = _case([3])
    truth = torch.rand(3, H, W) > 0.5
    labels = torch.tensor([1, 4, 0])
    cost = torch.zeros(Q, 3)
    for q in range(Q):
        for t in range(3):
            x, y = masks[0, 0, q], truth[t].float()
            p = x.sigmoid()
            dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
            bce = F.binary_cross_entropy_with_logits(x, y)
            cost[q, t] = 5 * bce + 5 * dice - 2 * logits[0, 0, q].softmax(-1)[labels[t]]
    expected = linear_sum_assignment(cost.numpy())
    # At every pixel's centre, sampling is reading: the costs are those of whole masks.
    [(query, target)] = HungarianMatcher()(
        logits, masks, [{"labels": labels, "masks": truth}], _pixel_centres()
    )
    assert query.tolist() == [expected[0].tolist()]
    assert target.tolist() == [expected[1].tolist()]


@pytest.fixture(params=["one by one", "together"])
def gathering(request, monkeypatch):
    """Work on images as a CPU does, and as a GPU does."""
    if request.param == "together":
        monkeypatch.setattr(matcher_module, "together", lambda count, _: [slice(0, count)])


@pytest.mark.usefixtures("gathering")
def test_batched_equals_single():
    logits, masks, targets = _case([3, 0, 5, 2], sets=3)
    points = torch.rand(4, 50, 2)
    batched = HungarianMatcher()(logits, masks, targets, points)
    for s in range(3):
        for b in range(4):
            [single] = HungarianMatcher()(
                logits[s : s + 1, b : b + 1],
                masks[s : s + 1, b : b + 1],
                targets[b : b + 1],
                points[b : b + 1],
            )
            assert torch.equal(single[0], batched[b].query[s : s + 1])
            assert torch.equal(single[1], batched[b].mask[s : s + 1])


@pytest.mark.parametrize("counts", [[0], [0, 0]])
def test_no_targets_gives_empty_matches(counts):
    result = HungarianMatcher(num_points=20)(*_case(counts))
    assert [match.query.shape for match in result] == [(1, n) for n in counts]


def test_every_target_is_matched_once_and_more_targets_than_queries_work():
    logits, masks, targets = _case([4])
    [(query, target)] = HungarianMatcher(num_points=64)(logits, masks, targets)
    assert sorted(target[0].tolist()) == [0, 1, 2, 3]
    assert len(set(query[0].tolist())) == 4
    [(query, target)] = HungarianMatcher(num_points=64)(logits[:, :, :2], masks[:, :, :2], targets)
    assert query.shape == (1, 2)


def test_a_perfect_query_is_chosen():
    logits, masks, targets = _case([1])
    targets[0]["masks"] = F.interpolate(
        (masks[:, :, 5] > 0).float(), scale_factor=2, mode="nearest"
    )[0].bool()
    [(query, _)] = HungarianMatcher(num_points=200)(logits, masks * 10, targets)
    assert query.tolist() == [[5]]


@pytest.mark.parametrize(("name", "index"), [("pred_logits", 0), ("pred_masks", 1)])
def test_non_finite_predictions_are_named(name, index):
    case = _case([2, 2], sets=2)
    case[index][1, 0] = float("nan")
    with pytest.raises(NumericsError, match=f"{name} of layer output 1, image 0"):
        HungarianMatcher(num_points=20)(*case)


def test_float16_predictions_are_compared_in_float32():
    logits, masks, targets = _case([3])
    points = torch.rand(1, 100, 2)
    [half] = HungarianMatcher()(logits.half(), (masks * 5000).half(), targets, points)
    [full] = HungarianMatcher()(
        logits.half().float(), (masks * 5000).half().float(), targets, points
    )
    assert torch.equal(half[0], full[0])


def test_a_group_costs_what_its_classes_cost_together():
    logits, masks, targets = _case([1])
    points = torch.rand(1, 100, 2)
    targets[0]["labels"] = torch.tensor([K])
    members = membership(K, ((1, 3),))
    chance = logits.softmax(-1)
    matcher = HungarianMatcher(mask_weight=0.0, dice_weight=0.0)
    [(query, _)] = matcher(logits, masks, targets, points, members)
    assert query.item() == (chance[0, 0, :, 1] + chance[0, 0, :, 3]).argmax()


def test_a_group_of_one_class_is_that_class():
    logits, masks, targets = _case([3, 2], sets=2)
    points = torch.rand(2, 100, 2)
    plain = HungarianMatcher()(logits, masks, targets, points)
    members = membership(K, ((2,),))
    renamed = [
        one | {"labels": torch.where(one["labels"] == 2, K, one["labels"])} for one in targets
    ]
    grouped = HungarianMatcher()(logits, masks, renamed, points, members)
    for one, other in zip(plain, grouped, strict=True):
        assert torch.equal(one.query, other.query)
        assert torch.equal(one.mask, other.mask)


def test_pixels_that_say_nothing_do_not_count():
    logits, masks, _ = _case([1])
    columns = torch.arange(W).expand(H, W)
    truth, left = columns < 4, columns < W // 2
    # Query 2 is right on the left half and wrong on the right one, where nothing is known;
    # query 3 is half right on the left and right on the other.
    masks[:] = -10.0
    masks[0, 0, 2] = torch.where(truth | ~left, 10.0, -10.0)
    masks[0, 0, 3] = torch.where(columns < 2, 10.0, -10.0)
    target = {"labels": torch.tensor([0]), "masks": truth[None]}
    matcher = HungarianMatcher(class_weight=0.0)
    [(query, _)] = matcher(logits, masks, [target], _pixel_centres())
    assert query.item() == 3
    [(query, _)] = matcher(logits, masks, [target | {"ignored": ~left}], _pixel_centres())
    assert query.item() == 2
