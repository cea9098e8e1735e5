"""Which query answers for which ground-truth mask: the cheapest one-to-one assignment.

Costs are Mask2Former's (Cheng et al., CVPR 2022): minus the class probability, the binary
cross-entropy and the dice distance of the masks at uniformly drawn points.

Departs from the original: the predictions of all layers are matched in one go on one set of
points per image (a fresh set per step), because thirty small matchings cost more in overhead
than in arithmetic; and a non-finite cost stops with a message that says whose it is, where the
original lets the assignment solver fail. Pixels that say nothing count in no cost.

Images are worked on together on a GPU, where many small kernels cost more than their arithmetic,
and one by one on a CPU, whose cache then holds a whole image (``together``).

Shapes: S predicted sets (decoder layers), B batch, Q queries, K classes, G groups of classes, T
masks of an image, or the most of any image where several are padded to one size, P points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from mask2kan.errors import NumericsError

from .point_sampling import MapTable, sample_masks

Target = Mapping[str, Tensor]
"""One image's ground truth.

``labels`` (T,) int64, classes and groups (see ``training.data.label_space``), and ``masks`` (T, h,
w) bool; also ``ignored`` (h, w) bool where some of its pixels say nothing.
"""

_PIECE = 1024  # points


class Match(NamedTuple):
    """Who answers for what in one image: pairs n = min(Q, T) in each of S predicted sets.

    Attributes:
        query: (S, n) int64 indices of queries, rising.
        mask: (S, n) int64 indices of the image's ground-truth masks.
    """

    query: Tensor
    mask: Tensor


def together(images: int, device: torch.device) -> list[slice]:
    """Which images of a batch to work on at once: all on a GPU, one by one on a CPU."""
    if device.type != "cpu":
        return [slice(0, images)] if images else []
    return [slice(b, b + 1) for b in range(images)]


def padded_masks(targets: Sequence[Target]) -> Tensor:
    """Ground-truth masks of several images, empty ones added: (B, T, h, w) bool."""
    if len(targets) == 1:
        return targets[0]["masks"][None]
    return nn.utils.rnn.pad_sequence([target["masks"] for target in targets], batch_first=True)


def point_weights(targets: Sequence[Target], points: Tensor) -> Tensor | None:
    """Which points count: not those with a pixel that says nothing among the four they read.

    There a true mask would fade out, though nobody said that it ends.

    Args:
        targets: of B images.
        points: (B, P, 2).

    Returns:
        (B, P) of 1 and 0, or None where every pixel of every image counts.
    """
    if not any("ignored" in target for target in targets):
        return None
    shape = targets[0]["masks"].shape[1:]
    ignored = [
        target.get("ignored", torch.zeros(shape, dtype=torch.bool, device=points.device))
        for target in targets
    ]
    return (sample_masks(torch.stack(ignored)[:, None], points)[:, 0] == 0).float()


@dataclasses.dataclass(frozen=True)
class HungarianMatcher:
    """Minimum-cost assignment of queries to ground-truth masks.

    Attributes:
        class_weight, mask_weight, dice_weight: of the three costs.
        num_points: points per image at which masks are compared.
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
        members: Tensor | None = None,
    ) -> list[Match]:
        """Match every predicted set of every image.

        Args:
            logits: (S, B, Q, K+1) class logits.
            masks: S tensors (B, Q, h, w) of mask logits.
            targets: B images' ground truth; an image may have no mask at all.
            points: (B, P, 2) where to compare, (x, y) in [0, 1]; drawn uniformly when absent.
            members: (K+G, K) bool, which classes a label stands for; None where it is a class.

        Returns:
            One match per image.

        Raises:
            NumericsError: when a cost is not finite, naming the tensor, layer and image.
        """
        if points is None:
            points = torch.rand(len(targets), self.num_points, 2, device=logits.device)
        counts = [len(target["labels"]) for target in targets]
        costs: list[Tensor] = []
        with torch.autocast(logits.device.type, enabled=False):
            probability = logits.float().softmax(-1)
            if members is not None:
                probability = probability[..., :-1] @ members.T.to(probability.dtype)
            for some in together(len(targets), logits.device):
                costs.append(self._cost(probability, masks, targets[some], points[some], some))
        tables = _padded_rows(costs, max(counts, default=0)).cpu()
        _require_finite(tables, counts, logits, masks)
        pairs = [
            [linear_sum_assignment(table[:, :count]) for table in of_image]
            for of_image, count in zip(tables.numpy(), counts, strict=True)
        ]
        sizes = [min(count, logits.shape[2]) for count in counts]
        found = [
            torch.from_numpy(np.stack([np.stack(pair) for pair in of_image], 1))  # (2, S, n)
            for of_image in pairs
        ]
        both = torch.cat(found, dim=2).to(logits.device) if found else torch.empty(2, 0, 0)
        return [Match(*part) for part in both.split(sizes, dim=2)] if found else []

    def _cost(
        self,
        probability: Tensor,
        masks: Sequence[Tensor],
        targets: Sequence[Target],
        points: Tensor,
        some: slice,
    ) -> Tensor:
        """Cost of every query of some images for every ground-truth mask: (B, S, Q, T)."""
        labels = nn.utils.rnn.pad_sequence(
            [target["labels"] for target in targets], batch_first=True
        )
        chances = probability[:, some].transpose(0, 1)  # (B, S, Q, K+G)
        index = labels[:, None, None].expand(-1, *chances.shape[1:3], -1)
        truth = sample_masks(padded_masks(targets), points)
        mask_cost = self._mask_cost(
            [one[some] for one in masks], truth, points, point_weights(targets, points)
        )
        return mask_cost.transpose(1, 2).view(index.shape) - self.class_weight * chances.gather(
            -1, index
        )

    def _mask_cost(
        self, masks: Sequence[Tensor], truth: Tensor, points: Tensor, weights: Tensor | None
    ) -> Tensor:
        """Of every predicted mask for every true one, (B, T, P), at (B, P, 2) points: (B, T, S·Q).

        A CPU adds the points up piece by piece, while a piece is in its cache.
        """
        table = MapTable(masks)
        count = points.shape[1]
        step = _PIECE if points.device.type == "cpu" else max(count, 1)
        sums: list[Tensor] = []
        for start in range(0, count, step):
            piece = slice(start, start + step)
            predicted = table.at(points[:, piece])  # (B, P, S·Q)
            there = truth[..., piece]
            # BCE(x, y) = softplus(x) - x y, so one product with the truth covers every pair.
            plain = F.softplus(predicted)
            weight = None if weights is None else weights[:, piece, None]
            if weight is not None:
                plain, there = plain * weight, there * weight.transpose(1, 2)
            part = [plain.sum(1, keepdim=True) - there @ predicted]
            probability = predicted.sigmoid_()
            part.append(there @ probability)
            counted = probability if weight is None else probability * weight
            part += [counted.sum(1, keepdim=True), there.sum(-1, keepdim=True)]
            sums = [whole + new for whole, new in zip(sums, part, strict=True)] if sums else part
        cross_entropy, overlap, area, size = sums
        total = count if weights is None else weights.sum(1)[:, None, None].clamp(min=1.0)
        dice = 1.0 - (2.0 * overlap + 1.0) / (area + size + 1.0)
        return self.mask_weight * cross_entropy / total + self.dice_weight * dice


def _padded_rows(costs: Sequence[Tensor], masks: int) -> Tensor:
    """Costs of all images as one tensor, (B, S, Q, T) each, to leave the GPU in one transfer."""
    return torch.cat([F.pad(cost, (0, masks - cost.shape[-1])) for cost in costs])


def _require_finite(
    costs: Tensor, counts: Sequence[int], logits: Tensor, masks: Sequence[Tensor]
) -> None:
    """Stop with the place of the first number that is not finite in (B, S, Q, T) costs."""
    if torch.isfinite(costs).all():
        return
    image, layer = torch.nonzero(~torch.isfinite(costs))[0, :2].tolist()
    place = f"layer output {layer}, image {image} of the batch"
    for name, tensor in (("pred_logits", logits), ("pred_masks", masks)):
        broken = int((~torch.isfinite(tensor[layer][image])).sum())
        if broken:
            raise NumericsError(
                f"Matching failed: {name} of {place} has {broken} non-finite values; expected "
                "finite numbers. Lower the learning rate, or train in float32."
            )
    raise NumericsError(
        f"Matching failed: the cost of {place} ({counts[image]} masks) is not finite although "
        "its predictions are; they are too large."
    )
