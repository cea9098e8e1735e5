"""Which query answers for which ground-truth mask: the cheapest one-to-one assignment.

Costs are Mask2Former's (Cheng et al., CVPR 2022): minus the class probability, the binary
cross-entropy and the dice distance of the masks at uniformly drawn points.

Departs from the original: the predictions of all layers are matched in one go on one set of
points per picture (a fresh set per step), because thirty small matchings cost more in overhead
than in arithmetic; and a non-finite cost stops with a message that says whose it is, where the
original lets the assignment solver fail.

Shapes: S predicted sets (decoder layers), B batch, Q queries, K classes, T masks of a picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2kan.errors import NumericsError
from training.point_sampling import MapTable, sample_masks

Target = Mapping[str, Tensor]
"""One picture's ground truth: ``labels`` (T,) int64 and ``masks`` (T, h, w) bool."""

_PIECE = 1024  # points


class Match(NamedTuple):
    """Who answers for what in one picture: pairs n = min(Q, T) in each of S predicted sets.

    Attributes:
        query: (S, n) int64 indices of queries, rising.
        mask: (S, n) int64 indices of the picture's ground-truth masks.
    """

    query: Tensor
    mask: Tensor


@dataclasses.dataclass(frozen=True)
class HungarianMatcher:
    """Minimum-cost assignment of queries to ground-truth masks.

    Attributes:
        class_weight, mask_weight, dice_weight: of the three costs.
        num_points: points per picture at which masks are compared.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    num_points: int = 12544

    @torch.no_grad()
    def __call__(
        self,
        logits: Tensor,
        masks: Sequence[Tensor],
        targets: Sequence[Target],
        points: Tensor | None = None,
    ) -> list[Match]:
        """Match every predicted set of every picture.

        Args:
            logits: (S, B, Q, K+1) class logits.
            masks: S tensors (B, Q, h, w) of mask logits.
            targets: B pictures' ground truth; a picture may have no mask at all.
            points: (B, P, 2) where to compare, (x, y) in [0, 1]; drawn uniformly when absent.

        Returns:
            One match per picture.

        Raises:
            NumericsError: when a cost is not finite, naming the tensor, layer and picture.
        """
        if points is None:
            points = torch.rand(len(targets), self.num_points, 2, device=logits.device)
        matches = []
        for b, target in enumerate(targets):
            with torch.autocast(logits.device.type, enabled=False):
                cost = self._cost(
                    logits[:, b].float(), [one[b] for one in masks], target, points[b]
                )
            _require_finite(cost, logits, masks, b)
            pairs = [linear_sum_assignment(table) for table in cost.cpu().numpy()]
            query, mask = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
            matches.append(Match(query.to(logits.device), mask.to(logits.device)))
        return matches

    def _cost(
        self, logits: Tensor, masks: Sequence[Tensor], target: Target, points: Tensor
    ) -> Tensor:
        """Cost of every query of every set for every mask of a picture: (S, Q, T).

        Args:
            logits: (S, Q, K+1).
            masks: S tensors (Q, h, w).
            target: T masks.
            points: (P, 2).
        """
        labels = target["labels"]
        if not len(labels):
            return logits.new_zeros(*logits.shape[:2], 0)
        class_cost = -logits.softmax(-1)[..., labels]
        mask_cost = self._mask_cost(masks, sample_masks(target["masks"], points), points)
        return self.class_weight * class_cost + mask_cost.T.view_as(class_cost)

    def _mask_cost(self, masks: Sequence[Tensor], truth: Tensor, points: Tensor) -> Tensor:
        """Of every predicted mask for every true one, (T, P), at P points: (T, S·Q)."""
        table = MapTable(masks)
        # A processor adds the points up piece by piece, while a piece is in its cache.
        step = _PIECE if points.device.type == "cpu" else len(points)
        sums: list[Tensor] = []
        for some, there in zip(points.split(step), truth.split(step, dim=1), strict=True):
            predicted = table.at(some)  # (P, S·Q)
            # BCE(x, y) = softplus(x) - x y, so one product with the truth covers every pair.
            cross_entropy = F.softplus(predicted).sum(0) - there @ predicted
            probability = predicted.sigmoid_()
            part = [cross_entropy, there @ probability, probability.sum(0)]
            sums = [whole + new for whole, new in zip(sums, part, strict=True)] if sums else part
        cross_entropy, overlap, area = sums
        dice = 1.0 - (2.0 * overlap + 1.0) / (area + truth.sum(-1, keepdim=True) + 1.0)
        return self.mask_weight * cross_entropy / len(points) + self.dice_weight * dice


def _require_finite(cost: Tensor, logits: Tensor, masks: Sequence[Tensor], picture: int) -> None:
    """Stop with the place of the first number that is not finite in a picture's (S, Q, T) cost."""
    if torch.isfinite(cost).all():
        return
    layer = int(torch.nonzero(~torch.isfinite(cost))[0, 0])
    place = f"layer output {layer}, picture {picture} of the batch"
    for name, tensor in (("pred_logits", logits), ("pred_masks", masks)):
        broken = int((~torch.isfinite(tensor[layer][picture])).sum())
        if broken:
            raise NumericsError(
                f"Matching failed: {name} of {place} has {broken} non-finite values; expected "
                "finite numbers. Lower the learning rate, or train in float32."
            )
    raise NumericsError(
        f"Matching failed: the cost of {place} ({cost.shape[2]} masks) is not finite although its "
        "predictions are; they are too large."
    )
