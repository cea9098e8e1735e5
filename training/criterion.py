"""What a set of predicted masks costs: class, mask and dice losses after matching.

Mask2Former's losses (Cheng et al., CVPR 2022): cross-entropy over the classes with a
down-weighted no-object class, and binary cross-entropy plus dice at points that favour
uncertain places; every decoder layer and the learnable queries are supervised the same way.
The thesis adds λ1 times the KAN regularisation (eq. 2.6-2.9) and, for outlier training, λ2
times a contrastive term; ``total`` is where such terms join.

Departs from the original: all layers are computed in one batch, with the same numbers per layer;
every picture draws its points from a stream of its own, and the class loss is averaged over the
queries of all processes where the original averages per process, so that the loss of a batch does
not depend on how it is spread. Void pixels are in no mask, as there: they count as background of
every mask; so do pasted outliers.

Shapes: S predicted sets (decoder layers), B batch, Q queries, K classes, N matched pairs, P points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2kan.kan import KAN
from training.data.transforms import OUTLIER
from training.distributed import PointDraws, mean_over_processes
from training.matcher import HungarianMatcher, Target
from training.point_sampling import point_sample, sample_masks, uncertain_points


def semantic_targets(labels: Tensor) -> list[dict[str, Tensor]]:
    """One mask per class present, from label maps.

    Args:
        labels: (B, H, W) int64 class indices, 255 = void, 254 = outlier.

    Returns:
        B targets with ``labels`` (T,) int64 and ``masks`` (T, H, W) bool.
    """
    targets = []
    for label in labels:
        counts = torch.bincount(label.flatten(), minlength=OUTLIER)[:OUTLIER]
        classes = counts.nonzero().flatten()  # sorting the label, as unique does, takes longer
        targets.append({"labels": classes, "masks": label[None] == classes[:, None, None]})
    return targets


class SetCriterion(nn.Module):
    """Losses of every predicted set of a model's output.

    Args:
        num_classes: K, without the no-object class.
        class_weight, mask_weight, dice_weight: of the losses and of the matching costs.
        no_object_weight: of the no-object class in the cross-entropy.
        num_points: P, points per matched mask, and per picture in the matching.
        oversample_ratio, importance_ratio: see ``uncertain_points``.
        regularization_weight: λ1 of the KAN's regularisation.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        regularization_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
        self.matcher = HungarianMatcher(class_weight, mask_weight, dice_weight, num_points)
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.regularization_weight = regularization_weight
        weight = torch.ones(num_classes + 1)
        weight[-1] = no_object_weight
        self.class_weights: Tensor
        self.register_buffer("class_weights", weight, persistent=False)

    def forward(
        self,
        outputs: Mapping[str, Any],
        targets: Sequence[Target],
        draws: PointDraws | None = None,
    ) -> dict[str, Tensor]:
        """Unweighted losses.

        Args:
            outputs: the model's ``pred_logits`` (B, Q, K+1), ``pred_masks`` (B, Q, h, w) and
                ``aux_outputs``.
            targets: B pictures' ground truth, see ``semantic_targets``.
            draws: where the points come from; torch's own stream when absent.

        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last layer, and the same with
            ``_<i>`` appended for the i-th of ``aux_outputs``.

        Raises:
            NumericsError: when a prediction is not finite.
        """
        every = [*outputs.get("aux_outputs", []), outputs]
        logits = torch.stack([output["pred_logits"] for output in every]).float()
        masks = torch.stack([output["pred_masks"] for output in every]).float()
        points = None if draws is None else draws.per_picture(self.num_points)
        matches = self.matcher(logits, masks, targets, points)
        chosen = _flatten_matches(matches, targets, logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            per_set = {
                "loss_ce": self._class_losses(logits, targets, chosen),
                **self._mask_losses(masks, targets, chosen, self._points(matches, masks, draws)),
            }
        last = len(every) - 1
        return {
            name if s == last else f"{name}_{s}": values[s]
            for s in range(len(every))
            for name, values in per_set.items()
        }

    def total(self, losses: Mapping[str, Tensor], mask_embed: nn.Module) -> Tensor:
        """The number to minimise: L_seg + λ1 L_reg (thesis eq. 2.6).

        Args:
            losses: what ``forward`` returned.
            mask_embed: the model's mask head; only a KAN has a regularisation term.
        """
        terms = [
            weight * losses[key]
            for key in losses
            for name, weight in self.weights.items()
            if key == name or key.startswith(f"{name}_")
        ]
        if self.regularization_weight and isinstance(mask_embed, KAN):
            terms.append(self.regularization_weight * mask_embed.regularization_loss())
        return torch.stack(terms).sum()

    def _class_losses(
        self, logits: Tensor, targets: Sequence[Target], chosen: dict[str, Tensor]
    ) -> Tensor:
        """Weighted cross-entropy of each set: (S,)."""
        expected = torch.full(
            logits.shape[:3], self.num_classes, dtype=torch.int64, device=logits.device
        )
        labels = torch.cat([target["labels"] for target in targets])
        expected[chosen["set"], chosen["picture"], chosen["query"]] = labels[chosen["mask"]]
        loss = F.cross_entropy(
            logits.flatten(0, 2), expected.flatten(), self.class_weights, reduction="none"
        )
        weight = self.class_weights[expected]
        return loss.view_as(weight).sum((1, 2)) / mean_over_processes(weight.sum((1, 2)))

    def _points(
        self,
        matches: Sequence[Sequence[tuple[Tensor, Tensor]]],
        masks: Tensor,
        draws: PointDraws | None,
    ) -> Tensor:
        """Uniform points for every matched mask, candidates and all: (N, R, 2)."""
        important = int(self.importance_ratio * self.num_points)
        count = int(self.oversample_ratio * self.num_points) + self.num_points - important
        per_picture = [len(query) for query, _ in matches[0]]
        if draws is None:
            pairs = len(matches) * sum(per_picture)
            return torch.rand(pairs, count, 2, device=masks.device)
        return draws.per_mask(per_picture, len(matches), count)

    def _mask_losses(
        self,
        masks: Tensor,
        targets: Sequence[Target],
        chosen: dict[str, Tensor],
        drawn: Tensor,
    ) -> dict[str, Tensor]:
        """Binary cross-entropy and dice at uncertain points, each (S,)."""
        zero = masks.new_zeros(len(masks))
        count = torch.tensor(float(sum(len(target["labels"]) for target in targets)))
        num_masks = mean_over_processes(count.to(masks.device)).clamp(min=1.0)
        predicted = masks[chosen["set"], chosen["picture"], chosen["query"]]
        if not len(predicted):
            # Still a function of the masks, so that every parameter gets a (zero) gradient.
            nothing = zero + 0.0 * masks.sum()
            return {"loss_mask": nothing, "loss_dice": nothing}
        points = uncertain_points(
            predicted.detach(),
            drawn,
            self.num_points,
            int(self.importance_ratio * self.num_points),
        )
        truth = sample_masks(
            torch.cat([target["masks"] for target in targets]), chosen["mask"], points
        )
        values = point_sample(predicted[:, None], points)[:, 0]
        cross_entropy = F.binary_cross_entropy_with_logits(values, truth, reduction="none").mean(1)
        probability = values.sigmoid()
        overlap = 2.0 * (probability * truth).sum(1)
        dice = 1.0 - (overlap + 1.0) / (probability.sum(1) + truth.sum(1) + 1.0)
        return {
            "loss_mask": zero.index_add(0, chosen["set"], cross_entropy) / num_masks,
            "loss_dice": zero.index_add(0, chosen["set"], dice) / num_masks,
        }


def _flatten_matches(
    matches: Sequence[Sequence[tuple[Tensor, Tensor]]],
    targets: Sequence[Target],
    device: torch.device,
) -> dict[str, Tensor]:
    """Matched pairs of all sets and pictures as four (N,) index tensors.

    ``mask`` counts through the concatenated masks of all pictures.
    """
    starts = [0]
    for target in targets:
        starts.append(starts[-1] + len(target["labels"]))
    columns: dict[str, list[Tensor]] = {"set": [], "picture": [], "query": [], "mask": []}
    for s, pictures in enumerate(matches):
        for b, (query, mask) in enumerate(pictures):
            columns["set"].append(torch.full_like(query, s))
            columns["picture"].append(torch.full_like(query, b))
            columns["query"].append(query)
            columns["mask"].append(mask + starts[b])
    return {name: torch.cat(parts).to(device) for name, parts in columns.items()}
