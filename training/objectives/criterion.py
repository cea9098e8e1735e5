"""Losses of a set of predicted masks: class, mask and dice after matching.

Mask2Former's (Cheng et al., CVPR 2022), for every decoder layer and the learnable queries, plus λ1
times the KAN regularisation (thesis, eq. 2.6-2.9).

Departs from the original: an image draws one set of uniform points per step, from its own stream,
and each mask in each layer chooses its uncertain ones among them: the expected loss is the same, at
a third of the time. The class loss is averaged over the queries of all processes, so that a batch's
loss does not depend on how it is spread. Void and pasted outliers are background of every mask, as
there; ``IGNORED`` counts nowhere. A group's probability is that of its classes together.

Shapes: S predicted sets (decoder layers), B batch, Q queries, K classes, G groups, T masks of an
image, n matched pairs of an image in a set, N of all images, P points, R drawn points.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2kan.modeling.kan.layers import KAN

from ..data.augmentation import IGNORED, VOID
from ..data.label_space import Groups, membership
from .distributed import mean_over_processes
from .matcher import HungarianMatcher, Match, Target, padded_masks, point_weights, together
from .point_sampling import point_sample, sample_masks, uncertain_points


def semantic_targets(labels: Tensor) -> list[dict[str, Tensor]]:
    """Make one mask per class or group present from (B, H, W) int64 label maps: B ``Target``s."""
    # One count for the whole batch, and one transfer: each image has its own range of values
    images = torch.arange(len(labels), device=labels.device)[:, None]
    values = (labels.flatten(1) + images * (VOID + 1)).flatten()
    counts = torch.bincount(values, minlength=len(labels) * (VOID + 1)).view(len(labels), -1)
    targets = []
    for label, present in zip(labels, counts.cpu(), strict=True):
        classes = present[:IGNORED].nonzero().flatten().to(labels.device)
        target = {"labels": classes, "masks": label[None] == classes[:, None, None]}
        if present[IGNORED]:
            target["ignored"] = label == IGNORED
        targets.append(target)
    return targets


class SetCriterion(nn.Module):
    """Losses of every predicted set of a model's output.

    Args:
        num_classes: K, without the no-object class.
        class_weight, mask_weight, dice_weight: of the losses and of the matching costs.
        no_object_weight: in the cross-entropy.
        num_points: P, per matched mask, and per image in the matching.
        oversample_ratio: candidates for uncertain points, as a multiple of P.
        importance_ratio: share of P that are uncertain points, not uniform ones.
        regularization_weight: λ1.
        groups: of labels from K on.
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
        groups: Groups = (),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.members: Tensor | None
        members = membership(num_classes, groups) if groups else None
        self.register_buffer("members", members, persistent=False)
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
        self.matcher = HungarianMatcher(class_weight, mask_weight, dice_weight, num_points)
        self.num_points = num_points
        self._important = int(importance_ratio * num_points)
        self._drawn = int(oversample_ratio * num_points) + num_points - self._important
        self.regularization_weight = regularization_weight
        weight = torch.ones(num_classes + len(groups) + 1)
        weight[-1] = no_object_weight
        self.class_weights: Tensor
        self.register_buffer("class_weights", weight, persistent=False)

    def forward(
        self,
        outputs: Mapping[str, Any],
        targets: Sequence[Target],
        draws: Callable[[int], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the unweighted losses of one model; see ``of_heads``."""
        return self.of_heads([outputs], targets, draws)[0]

    def of_heads(
        self,
        outputs: Sequence[Mapping[str, Any]],
        targets: Sequence[Target],
        draws: Callable[[int], Tensor] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Return each head's unweighted losses, all at the same points.

        Args:
            outputs: each head's ``pred_logits`` (B, Q, K+1), ``pred_masks`` (B, Q, h, w) and
                ``aux_outputs``, equally many.
            targets: of B images.
            draws: gives (B, P, 2) uniform points for P; None for torch's own stream.

        Returns:
            Per head ``loss_ce``, ``loss_mask`` and ``loss_dice``; those of ``aux_outputs`` end in
            ``_<i>``.

        Raises:
            NumericsError: when a prediction is not finite.
        """
        layers = [[*output.get("aux_outputs", []), output] for output in outputs]
        sets = list(itertools.chain(*layers))
        logits = torch.stack([output["pred_logits"] for output in sets]).float()
        masks = [output["pred_masks"] for output in sets]
        draws = draws or (lambda count: torch.rand(len(targets), count, 2, device=logits.device))
        points = draws(self.num_points)
        matches = self.matcher(logits, masks, targets, points, self.members)
        with torch.autocast(logits.device.type, enabled=False):
            per_set = {
                "loss_ce": self._class_losses(logits, targets, matches),
                **self._mask_losses(masks, targets, matches, draws(self._drawn)),
            }
        count = len(layers[0])
        return [
            {
                name if s == count - 1 else f"{name}_{s}": values[head * count + s]
                for s in range(count)
                for name, values in per_set.items()
            }
            for head in range(len(layers))
        ]

    def total(self, losses: Mapping[str, Tensor], mask_embed: nn.Module) -> Tensor:
        """Weight and sum what ``forward`` returned: L_seg + λ1 L_reg (thesis eq. 2.6)."""
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
        no_object = len(self.class_weights) - 1
        expected = logits.new_full(logits.shape[:3], no_object, dtype=torch.int64)
        images = torch.cat(
            [torch.full_like(match.query, b) for b, match in enumerate(matches)], dim=1
        )
        labels = [
            target["labels"][match.mask] for target, match in zip(targets, matches, strict=True)
        ]
        sets = torch.arange(len(logits), device=logits.device)[:, None]
        queries = torch.cat([match.query for match in matches], dim=1)
        expected[sets, images, queries] = torch.cat(labels, dim=1)
        weight = self.class_weights[expected]
        # A group's probability is a sum over classes, which cross_entropy cannot express
        if self.members is None:
            loss = F.cross_entropy(
                logits.flatten(0, 2), expected.flatten(), self.class_weights, reduction="none"
            ).view_as(weight)
        else:
            classes, no_object = logits.log_softmax(-1).split((self.num_classes, 1), -1)
            groups = [
                classes[..., group].logsumexp(-1, keepdim=True)
                for group in self.members[self.num_classes :]
            ]
            log_probability = torch.cat([classes, *groups, no_object], dim=-1)
            loss = -weight * log_probability.gather(-1, expected[..., None])[..., 0]
        total = mean_over_processes(weight.sum((1, 2)))
        # Without any match and with a no-object weight of 0, the total is 0.
        return loss.sum((1, 2)) / total.clamp(min=torch.finfo(total.dtype).eps)

    def _mask_losses(
        self,
        masks: Sequence[Tensor],
        targets: Sequence[Target],
        matches: Sequence[Match],
        drawn: Tensor,
    ) -> dict[str, Tensor]:
        """Binary cross-entropy and dice at uncertain points among (B, R, 2), each (S,)."""
        counts = [match.query.shape[1] for match in matches]
        count = torch.tensor(float(sum(len(target["labels"]) for target in targets)))
        num_masks = mean_over_processes(count.to(drawn.device)).clamp(min=1.0)
        images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(drawn.device)
        queries = torch.cat([match.query for match in matches], dim=1)
        # Only the matched masks become float32
        matched = torch.stack(
            [logits[images, query].float() for logits, query in zip(masks, queries, strict=True)]
        )
        # Without any match still a function of the masks: every parameter gets a (zero) gradient.
        losses = drawn.new_zeros(2, len(masks)) + (0.0 if any(counts) else matched.sum())
        start = 0
        for part in together(len(counts), drawn.device):
            end = start + sum(counts[part])
            if end > start:
                losses = losses + self._matched_losses(
                    matched[:, start:end], targets[part], matches[part], drawn[part]
                )
            start = end
        cross_entropy, dice = losses / num_masks
        return {"loss_mask": cross_entropy, "loss_dice": dice}

    def _matched_losses(
        self, predicted: Tensor, targets: Sequence[Target], matches: Sequence[Match], drawn: Tensor
    ) -> Tensor:
        """Sum cross-entropy and dice (2, S) of matched float32 logits (S, N, h, w)."""
        weights = point_weights(targets, drawn)
        counts = [match.query.shape[1] for match in matches]
        image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(drawn.device)
        place = torch.cat([torch.arange(count) for count in counts]).to(drawn.device)
        # The choice is made by value alone; no gradient flows through which points were uncertain
        chosen = self._choose(predicted.detach(), drawn, (image, place), max(counts), weights)
        index = torch.cat([match.mask for match in matches], dim=1)
        truth = sample_masks(padded_masks(targets), drawn)[image, index].gather(2, chosen)
        picked = image[:, None].expand_as(chosen)
        points = drawn[picked, chosen]  # (S, N, P, 2)
        values = point_sample(predicted.flatten(0, 1)[:, None], points.flatten(0, 1))
        values = values[:, 0].view_as(truth)
        cross_entropy = F.binary_cross_entropy_with_logits(values, truth, reduction="none")
        probability = values.sigmoid()
        area = probability
        if weights is None:
            cross_entropy = cross_entropy.mean(2)
        else:
            weight = weights[picked, chosen]
            cross_entropy = (cross_entropy * weight).sum(2) / weight.sum(2).clamp(min=1.0)
            truth, area = truth * weight, probability * weight
        overlap = 2.0 * (probability * truth).sum(2)
        dice = 1.0 - (overlap + 1.0) / (area.sum(2) + truth.sum(2) + 1.0)
        return torch.stack([cross_entropy, dice]).sum(2)

    def _choose(
        self,
        predicted: Tensor,
        drawn: Tensor,
        slots: tuple[Tensor, Tensor],
        most: int,
        weights: Tensor | None,
    ) -> Tensor:
        """Choose every matched mask's points: (S, N, P) indices into its image's.

        Images are padded to ``most`` masks; ``slots`` are each mask's image and place there, (N,).
        """
        sets, size = len(predicted), predicted.shape[-2:]
        maps = predicted.transpose(0, 1)  # (N, S, h, w)
        padded = maps[None]
        if len(drawn) > 1:
            padded = predicted.new_zeros(len(drawn), most, sets, *size)
            padded[slots] = maps
        chosen = uncertain_points(
            padded.flatten(1, 2), drawn, self.num_points, self._important, weights
        )
        by_mask: Tensor = chosen.unflatten(1, (-1, sets))[slots]
        return by_mask.transpose(0, 1)
