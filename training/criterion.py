"""What a set of predicted masks costs: class, mask and dice losses after matching.

Mask2Former's losses (Cheng et al., CVPR 2022): cross-entropy over the classes with a
down-weighted no-object class, and binary cross-entropy plus dice at points that favour
uncertain places; every decoder layer and the learnable queries are supervised the same way.
The thesis adds λ1 times the KAN regularisation (eq. 2.6-2.9) and, for outlier training, λ2
times a contrastive term; ``total`` is where such terms join.

Departs from the original: a picture draws one set of uniform points per step, from a stream of its
own, and each of its masks in each layer chooses the uncertain ones among them for itself, where
the original draws anew for every mask and layer: the expected loss is the same, and reading all
masks at the same points takes a third of the time. The class loss is averaged over the queries of
all processes where the original averages per process, so that the loss of a batch does not depend
on how it is spread. Void pixels are in no mask, as there: they count as background of every mask;
so do pasted outliers.

Shapes: S predicted sets (decoder layers), B batch, Q queries, K classes, T masks of a picture, n
matched pairs of a picture in a set, P points.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2kan.kan import KAN
from training.data.transforms import OUTLIER
from training.distributed import mean_over_processes
from training.matcher import HungarianMatcher, Match, Target
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
        oversample_ratio: candidates for uncertain points, as a multiple of P.
        importance_ratio: share of P that are uncertain points; the others are uniform.
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
        self._important = int(importance_ratio * num_points)
        self._drawn = int(oversample_ratio * num_points) + num_points - self._important
        self.regularization_weight = regularization_weight
        weight = torch.ones(num_classes + 1)
        weight[-1] = no_object_weight
        self.class_weights: Tensor
        self.register_buffer("class_weights", weight, persistent=False)

    def forward(
        self,
        outputs: Mapping[str, Any],
        targets: Sequence[Target],
        draws: Callable[[int], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Unweighted losses.

        Args:
            outputs: the model's ``pred_logits`` (B, Q, K+1), ``pred_masks`` (B, Q, h, w) and
                ``aux_outputs``.
            targets: B pictures' ground truth, see ``semantic_targets``.
            draws: gives (B, P, 2) uniform points for P, such as ``PointDraws``; torch's own stream
                when absent.

        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last layer, and the same with
            ``_<i>`` appended for the i-th of ``aux_outputs``.

        Raises:
            NumericsError: when a prediction is not finite.
        """
        every = [*outputs.get("aux_outputs", []), outputs]
        logits = torch.stack([output["pred_logits"] for output in every]).float()
        masks = [output["pred_masks"] for output in every]
        if draws is None:
            draws = functools.partial(_draw, len(targets), logits.device)
        matches = self.matcher(logits, masks, targets, draws(self.num_points))
        with torch.autocast(logits.device.type, enabled=False):
            per_set = {
                "loss_ce": self._class_losses(logits, targets, matches),
                **self._mask_losses(masks, targets, matches, draws(self._drawn)),
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
        self, logits: Tensor, targets: Sequence[Target], matches: Sequence[Match]
    ) -> Tensor:
        """Weighted cross-entropy of each set: (S,)."""
        expected = torch.full(
            logits.shape[:3], self.num_classes, dtype=torch.int64, device=logits.device
        )
        for b, (target, match) in enumerate(zip(targets, matches, strict=True)):
            expected[:, b].scatter_(1, match.query, target["labels"][match.mask])
        loss = F.cross_entropy(
            logits.flatten(0, 2), expected.flatten(), self.class_weights, reduction="none"
        )
        weight = self.class_weights[expected]
        total = mean_over_processes(weight.sum((1, 2)))
        # without any match and with a no-object weight of 0 there is nothing to divide by
        return loss.view_as(weight).sum((1, 2)) / total.clamp(min=torch.finfo(total.dtype).eps)

    def _mask_losses(
        self,
        masks: Sequence[Tensor],
        targets: Sequence[Target],
        matches: Sequence[Match],
        drawn: Tensor,
    ) -> dict[str, Tensor]:
        """Binary cross-entropy and dice at uncertain points, each (S,).

        Args:
            masks: S tensors (B, Q, h, w).
            targets: of B pictures.
            matches: of B pictures.
            drawn: (B, R, 2) uniform points, see ``uncertain_points``.
        """
        counts = [match.query.shape[1] for match in matches]
        count = torch.tensor(float(sum(len(target["labels"]) for target in targets)))
        num_masks = mean_over_processes(count.to(drawn.device)).clamp(min=1.0)
        pictures = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        pictures = pictures.to(drawn.device)
        queries = torch.cat([match.query for match in matches], dim=1)
        chosen = torch.stack(
            [one[pictures, query].float() for one, query in zip(masks, queries, strict=True)]
        )
        # Without any match still a function of the masks: every parameter gets a (zero) gradient.
        losses = drawn.new_zeros(2, len(masks)) + (0.0 if any(counts) else chosen.sum())
        for b, predicted in enumerate(chosen.split(counts, dim=1)):
            if counts[b]:
                truth = targets[b]["masks"], matches[b].mask
                losses = losses + self._picture_losses(predicted, *truth, drawn[b])
        cross_entropy, dice = losses / num_masks
        return {"loss_mask": cross_entropy, "loss_dice": dice}

    def _picture_losses(
        self, predicted: Tensor, masks: Tensor, index: Tensor, drawn: Tensor
    ) -> Tensor:
        """Sums over the matched masks of one picture: (2, S), cross-entropy and dice.

        Args:
            predicted: (S, n, h, w) float32 logits of the matched queries.
            masks: (T, H, W) bool ground truth.
            index: (S, n) which of it a query answers for.
            drawn: (R, 2) uniform points.
        """
        flat = predicted.flatten(0, 1)
        chosen = uncertain_points(flat.detach(), drawn, self.num_points, self._important)
        truth = sample_masks(masks, drawn)[index.flatten()].gather(1, chosen)
        points = drawn.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
        values = point_sample(flat[:, None], points)[:, 0]
        cross_entropy = F.binary_cross_entropy_with_logits(values, truth, reduction="none").mean(1)
        probability = values.sigmoid()
        overlap = 2.0 * (probability * truth).sum(1)
        dice = 1.0 - (overlap + 1.0) / (probability.sum(1) + truth.sum(1) + 1.0)
        return torch.stack([cross_entropy, dice]).view(2, *index.shape).sum(2)


def _draw(pictures: int, device: torch.device, num_points: int) -> Tensor:
    """(B, P, 2) uniform points in [0, 1] from torch's own stream."""
    return torch.rand(pictures, num_points, 2, device=device)
