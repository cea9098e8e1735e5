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

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2kan.errors import NumericsError
from training.point_sampling import sample_many, sample_masks

Target = Mapping[str, Tensor]
"""One picture's ground truth: ``labels`` (T,) int64 and ``masks`` (T, h, w) bool."""


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
        masks: Tensor,
        targets: Sequence[Target],
        points: Tensor | None = None,
    ) -> list[list[tuple[Tensor, Tensor]]]:
        """Match every predicted set of every picture.

        Args:
            logits: (S, B, Q, K+1) class logits.
            masks: (S, B, Q, h, w) mask logits.
            targets: B pictures' ground truth; a picture may have no mask at all.
            points: (B, P, 2) where to compare, (x, y) in [0, 1]; drawn uniformly when absent.

        Returns:
            Per set and picture ``(query, target)`` index pairs, min(Q, T) of them, on the CPU.

        Raises:
            NumericsError: when a cost is not finite, naming the tensor, layer and picture.
        """
        sets, batch = logits.shape[:2]
        labels = [target["labels"] for target in targets]
        counts = [len(label) for label in labels]
        if points is None:
            points = torch.rand(batch, self.num_points, 2, device=logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            truth = self._truth_at(points, targets, counts)
            cost = self._cost(logits.float(), masks.float(), labels, truth, points)
        _require_finite(cost, logits, masks, counts)
        table = cost.cpu().numpy()
        result = []
        for s in range(sets):
            rows = []
            for b in range(batch):
                pair = linear_sum_assignment(table[s, b, :, : counts[b]])
                rows.append((torch.from_numpy(pair[0]), torch.from_numpy(pair[1])))
            result.append(rows)
        return result

    @staticmethod
    def _truth_at(points: Tensor, targets: Sequence[Target], counts: Sequence[int]) -> Tensor:
        """Ground-truth masks at the points, padded with empty masks: (B, max T, P)."""
        batch, num_points = points.shape[:2]
        out = points.new_zeros(batch, max([*counts, 1]), num_points)
        for b, target in enumerate(targets):
            if counts[b]:
                index = torch.arange(counts[b], device=points.device)
                here = points[b].expand(counts[b], -1, -1)
                out[b, : counts[b]] = sample_masks(target["masks"], index, here)
        return out

    def _cost(
        self,
        logits: Tensor,
        masks: Tensor,
        labels: Sequence[Tensor],
        truth: Tensor,
        points: Tensor,
    ) -> Tensor:
        """Cost of every query for every ground-truth mask: (S, B, Q, max T)."""
        sets, batch, queries = logits.shape[:3]
        mask_cost = torch.stack(
            [
                self._mask_cost(masks[:, b].flatten(0, 1), truth[b], points[b]).T
                for b in range(batch)
            ]
        )
        padded = torch.zeros(batch, truth.shape[1], dtype=torch.int64, device=logits.device)
        for b, label in enumerate(labels):
            padded[b, : len(label)] = label
        index = padded[None, :, None].expand(sets, -1, queries, -1)
        class_cost = -logits.softmax(-1).gather(-1, index)
        mask_cost = mask_cost.view(batch, sets, queries, -1).transpose(0, 1)
        return self.class_weight * class_cost + mask_cost

    def _mask_cost(self, masks: Tensor, truth: Tensor, points: Tensor) -> Tensor:
        """Of every predicted mask (N, h, w) for every true one (T, P) at P points: (T, N)."""
        predicted = sample_many(masks, points)  # (P, N)
        # BCE(x, y) = softplus(x) - x y, so one product with the truth covers every pair.
        cross_entropy = (F.softplus(predicted).sum(0) - truth @ predicted) / len(points)
        probability = predicted.sigmoid()
        overlap = 2.0 * (truth @ probability)
        total = probability.sum(0) + truth.sum(-1, keepdim=True)
        dice = 1.0 - (overlap + 1.0) / (total + 1.0)
        return self.mask_weight * cross_entropy + self.dice_weight * dice


def _require_finite(cost: Tensor, logits: Tensor, masks: Tensor, counts: Sequence[int]) -> None:
    if torch.isfinite(cost).all():
        return
    bad = torch.nonzero(~torch.isfinite(cost))[0].tolist()
    for name, tensor in (("pred_logits", logits), ("pred_masks", masks)):
        broken = int((~torch.isfinite(tensor[bad[0], bad[1]])).sum())
        if broken:
            raise NumericsError(
                f"Matching failed: {name} of layer output {bad[0]}, picture {bad[1]} of the batch "
                f"has {broken} non-finite values; expected finite numbers. Lower the learning "
                "rate, or train in float32."
            )
    raise NumericsError(
        f"Matching failed: the cost of layer output {bad[0]}, picture {bad[1]} of the batch "
        f"({counts[bad[1]]} masks) is not finite although its predictions are; they are too large."
    )
