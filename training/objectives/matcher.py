"""The cheapest one-to-one assignment of queries to ground-truth masks.

Costs are Mask2Former's (Cheng et al., CVPR 2022): class probability, binary cross-entropy and dice
at uniformly drawn points. Departs from it: all layers are matched at once on one set of points per
image and step, because thirty small matchings are mostly overhead; ignored pixels count nowhere; a
non-finite cost stops with a message.

Images are processed together on a GPU, where small kernels are mostly overhead, and one by one on a
CPU, whose cache then holds a whole image.

Shapes: S predicted sets (decoder layers), B batch, Q queries, K classes, G groups, T masks of an
image, or the most of any image where several are padded to one size, P points.
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

``labels`` (T,) int64, classes and groups (see ``training.data.label_space``), ``masks`` (T, h, w)
bool, and ``ignored`` (h, w) bool where some pixels are.
"""

_PIECE = 1024  # points


class Match(NamedTuple):
    """Matched pairs of one image: n = min(Q, T) in each of S predicted sets.

    Attributes:
        query: (S, n) int64 indices of queries, rising.
        mask: (S, n) int64 indices of the image's masks.
    """

    query: Tensor
    mask: Tensor


def together(images: int, device: torch.device) -> list[slice]:
    """Slice a batch into images to process at once: all on a GPU, one by one on a CPU."""
    if device.type != "cpu":
        return [slice(0, images)]
    return [slice(b, b + 1) for b in range(images)]


def padded_masks(targets: Sequence[Target]) -> Tensor:
    """Stack the ground-truth masks of several images, empty ones added: (B, T, h, w) bool."""
    if len(targets) == 1:
        return targets[0]["masks"][None]
    return nn.utils.rnn.pad_sequence([target["masks"] for target in targets], batch_first=True)


def point_weights(targets: Sequence[Target], points: Tensor) -> Tensor | None:
    """Weight (B, P, 2) points: 0 where one of the four pixels read is ignored, else 1.

    There a true mask would fade out although its end is unknown. None: no image has ignored pixels.
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
    """Minimum-cost assignment; masks are compared at ``num_points`` points per image."""

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
            logits: (S, B, Q, K+1).
            masks: S tensors (B, Q, h, w) of logits.
            targets: of B images, with or without masks.
            points: (B, P, 2) in [0, 1]; drawn uniformly when absent.
            members: (K+G, K) bool, the classes of each label; None where every label is a class.

        Raises:
            NumericsError: when a cost is not finite, naming the tensor, layer and image.
        """
        if points is None:
            points = torch.rand(len(targets), self.num_points, 2, device=logits.device)
        counts = [len(target["labels"]) for target in targets]
        with torch.autocast(logits.device.type, enabled=False):
            probability = logits.float().softmax(-1)
            if members is not None:  # without "no object", which no label means
                probability = probability[..., :-1] @ members.T.to(probability.dtype)
            costs = [
                self._cost(probability, masks, targets[part], points[part], part)
                for part in together(len(targets), logits.device)
            ]
        # Padded to one size, (B, S, Q, T), they leave the GPU in one transfer.
        tables = torch.cat([F.pad(cost, (0, max(counts) - cost.shape[-1])) for cost in costs]).cpu()
        _require_finite(tables, counts, logits, masks)
        pairs = [  # (2, S, n) of every image
            np.stack([np.stack(linear_sum_assignment(table[:, :count])) for table in layers], 1)
            for layers, count in zip(tables.numpy(), counts, strict=True)
        ]
        joined = torch.from_numpy(np.concatenate(pairs, axis=2)).to(logits.device)
        sizes = [pair.shape[2] for pair in pairs]
        return [Match(*match) for match in joined.split(sizes, dim=2)]

    def _cost(
        self,
        probability: Tensor,
        masks: Sequence[Tensor],
        targets: Sequence[Target],
        points: Tensor,
        part: slice,
    ) -> Tensor:
        """Cost of some images' queries for their ground-truth masks: (B, S, Q, T)."""
        labels = nn.utils.rnn.pad_sequence(
            [target["labels"] for target in targets], batch_first=True
        )
        probability = probability[:, part].transpose(0, 1)  # (B, S, Q, K+G)
        index = labels[:, None, None].expand(-1, *probability.shape[1:3], -1)
        truth = sample_masks(padded_masks(targets), points)
        weights = point_weights(targets, points)
        mask_cost = self._mask_cost([logits[part] for logits in masks], truth, points, weights)
        class_cost = self.class_weight * probability.gather(-1, index)
        return mask_cost.transpose(1, 2).view(index.shape) - class_cost

    def _mask_cost(
        self, masks: Sequence[Tensor], truth: Tensor, points: Tensor, weights: Tensor | None
    ) -> Tensor:
        """Cost of predicted masks for true ones (B, T, P) at (B, P, 2) points: (B, T, S·Q).

        A CPU adds the points up piece by piece, while a piece is in its cache.
        """
        table = MapTable(masks)
        count = points.shape[1]
        step = _PIECE if points.device.type == "cpu" else max(count, 1)
        sums: list[Tensor] = []
        for start in range(0, count, step):
            piece = slice(start, start + step)
            predicted = table.at(points[:, piece])  # (B, P, S·Q)
            target = truth[..., piece]
            # BCE(x, y) = softplus(x) - x y, so one product with the truth covers every pair.
            softplus = F.softplus(predicted)
            weight = None if weights is None else weights[:, piece, None]
            if weight is not None:
                softplus, target = softplus * weight, target * weight.transpose(1, 2)
            terms = [softplus.sum(1, keepdim=True) - target @ predicted]
            probability = predicted.sigmoid_()  # in place: the logits are not needed again
            terms.append(target @ probability)
            area = probability if weight is None else probability * weight
            terms += [area.sum(1, keepdim=True), target.sum(-1, keepdim=True)]
            sums = [old + new for old, new in zip(sums, terms, strict=True)] if sums else terms
        cross_entropy, overlap, area, size = sums
        total = count if weights is None else weights.sum(1)[:, None, None].clamp(min=1.0)
        dice = 1.0 - (2.0 * overlap + 1.0) / (area + size + 1.0)
        return self.mask_weight * cross_entropy / total + self.dice_weight * dice


def _require_finite(
    costs: Tensor, counts: Sequence[int], logits: Tensor, masks: Sequence[Tensor]
) -> None:
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
