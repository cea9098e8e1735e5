"""What a set of predicted masks costs: class, mask and dice losses after matching.

Mask2Former's losses (Cheng et al., CVPR 2022): cross-entropy over the classes with a
down-weighted no-object class, and binary cross-entropy plus dice at points that favour
uncertain places; every decoder layer and the learnable queries are supervised the same way.
The thesis adds λ1 times the KAN regularisation (eq. 2.6-2.9) and, for outlier training, λ2
times a contrastive term; ``total`` is where such terms join.

Departs from the original: an image draws one set of uniform points per step, from a stream of its
own, and each of its masks in each layer chooses the uncertain ones among them for itself, where
the original draws anew for every mask and layer: the expected loss is the same, and reading all
masks at the same points takes a third of the time. The class loss is averaged over the queries of
all processes where the original averages per process, so that the loss of a batch does not depend
on how it is spread. Void pixels are in no mask, as there: they count as background of every mask;
so do pasted outliers. Void that says nothing (``IGNORED``) counts nowhere. A label may be a group
of classes: its probability is then that of its classes together.

Shapes: S predicted sets (decoder layers), B batch, Q queries, K classes, G groups, T masks of a
image, n matched pairs of an image in a set, N of all images, P points, R drawn points.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2kan.modeling.kan.layers import KAN

from ..data.augmentation import IGNORED, VOID
from ..data.label_space import Groups, membership
from .distributed import mean_over_processes
from .matcher import (
    HungarianMatcher,
    Match,
    Target,
    padded_masks,
    point_weights,
    together,
)
from .point_sampling import point_sample, sample_masks, uncertain_points


def semantic_targets(labels: Tensor) -> list[dict[str, Tensor]]:
    """One mask per class or group present, from label maps.

    Args:
        labels: (B, H, W) int64, values as in ``training.data.label_space``.

    Returns:
        B targets as ``training.objectives.matcher.Target`` has them.
    """
    images = torch.arange(len(labels), device=labels.device)[:, None]
    values = (labels.flatten(1) + images * (VOID + 1)).flatten()
    counts = torch.bincount(values, minlength=len(labels) * (VOID + 1)).view(len(labels), -1)
    targets = []
    for label, present in zip(labels, counts.cpu(), strict=True):
        classes = present[:IGNORED].nonzero().flatten()
        classes = classes.to(labels.device)
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
        no_object_weight: of the no-object class in the cross-entropy.
        num_points: P, points per matched mask, and per image in the matching.
        oversample_ratio: candidates for uncertain points, as a multiple of P.
        importance_ratio: share of P that are uncertain points; the others are uniform.
        regularization_weight: λ1 of the KAN's regularisation.
        groups: what labels from K on stand for.
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
        """Unweighted losses of one model: ``of_heads`` with one."""
        return self.of_heads([outputs], targets, draws)[0]

    def of_heads(
        self,
        outputs: Sequence[Mapping[str, Any]],
        targets: Sequence[Target],
        draws: Callable[[int], Tensor] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Unweighted losses of one or more heads, compared at the same points.

        Args:
            outputs: each head's ``pred_logits`` (B, Q, K+1), ``pred_masks`` (B, Q, h, w) and
                ``aux_outputs``, as many everywhere.
            targets: B images' ground truth, see ``semantic_targets``.
            draws: gives (B, P, 2) uniform points for P, such as ``PointDraws``; torch's own stream
                when absent.

        Returns:
            Per head ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last layer, and the same
            with ``_<i>`` appended for the i-th of ``aux_outputs``.

        Raises:
            NumericsError: when a prediction is not finite.
        """
        layers = [[*one.get("aux_outputs", []), one] for one in outputs]
        every = list(itertools.chain(*layers))
        logits = torch.stack([output["pred_logits"] for output in every]).float()
        masks = [output["pred_masks"] for output in every]
        if draws is None:
            draws = functools.partial(_draw, len(targets), logits.device)
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
        nothing = len(self.class_weights) - 1
        expected = torch.full(logits.shape[:3], nothing, dtype=torch.int64, device=logits.device)
        images = torch.cat(
            [torch.full_like(match.query, b) for b, match in enumerate(matches)], dim=1
        )
        found = [
            target["labels"][match.mask] for target, match in zip(targets, matches, strict=True)
        ]
        sets = torch.arange(len(logits), device=logits.device)[:, None]
        queries = torch.cat([match.query for match in matches], dim=1)
        expected[sets, images, queries] = torch.cat(found, dim=1)
        weight = self.class_weights[expected]
        if self.members is None:
            loss = F.cross_entropy(
                logits.flatten(0, 2), expected.flatten(), self.class_weights, reduction="none"
            ).view_as(weight)
        else:
            chances = self._with_groups(logits.log_softmax(-1), self.members)
            loss = -weight * chances.gather(-1, expected[..., None])[..., 0]
        total = mean_over_processes(weight.sum((1, 2)))
        # without any match and with a no-object weight of 0 there is nothing to divide by
        return loss.sum((1, 2)) / total.clamp(min=torch.finfo(total.dtype).eps)

    def _with_groups(self, log_chances: Tensor, members: Tensor) -> Tensor:
        """Logarithms of probabilities (…, K+1), those of groups put in: (…, K+G+1)."""
        classes, nothing = log_chances[..., :-1], log_chances[..., -1:]
        groups = [
            classes[..., chosen].logsumexp(-1, keepdim=True)
            for chosen in members[self.num_classes :]
        ]
        return torch.cat([classes, *groups, nothing], dim=-1)

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
            targets: of B images.
            matches: of B images.
            drawn: (B, R, 2) uniform points, see ``uncertain_points``.
        """
        counts = [match.query.shape[1] for match in matches]
        count = torch.tensor(float(sum(len(target["labels"]) for target in targets)))
        num_masks = mean_over_processes(count.to(drawn.device)).clamp(min=1.0)
        images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        images = images.to(drawn.device)
        queries = torch.cat([match.query for match in matches], dim=1)
        chosen = torch.stack(
            [one[images, query].float() for one, query in zip(masks, queries, strict=True)]
        )
        # Without any match still a function of the masks: every parameter gets a (zero) gradient.
        losses = drawn.new_zeros(2, len(masks)) + (0.0 if any(counts) else chosen.sum())
        start = 0
        for some in together(len(counts), drawn.device):
            pairs = sum(counts[some])
            if pairs:
                predicted = chosen[:, start : start + pairs]
                losses = losses + self._matched_losses(
                    predicted, targets[some], matches[some], drawn[some]
                )
            start += pairs
        cross_entropy, dice = losses / num_masks
        return {"loss_mask": cross_entropy, "loss_dice": dice}

    def _matched_losses(
        self,
        predicted: Tensor,
        targets: Sequence[Target],
        matches: Sequence[Match],
        drawn: Tensor,
    ) -> Tensor:
        """Sums over the matched masks of some images: (2, S), cross-entropy and dice.

        Args:
            predicted: (S, N, h, w) float32 logits of the matched queries, image by image.
            targets: of B images.
            matches: of B images.
            drawn: (B, R, 2) uniform points.
        """
        weights = point_weights(targets, drawn)
        slots = _Slots.of([match.query.shape[1] for match in matches], drawn.device)
        chosen = self._choose(predicted.detach(), drawn, slots, weights)
        index = torch.cat([match.mask for match in matches], dim=1)
        truth = sample_masks(padded_masks(targets), drawn)[slots.image, index].gather(2, chosen)
        picked = slots.image[:, None].expand_as(chosen)
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
        slots: _Slots,
        weights: Tensor | None,
    ) -> Tensor:
        """Uncertain points of every matched mask: (S, N, P) indices into its image's.

        The masks of an image are read together, those of several padded to one number of masks.
        """
        sets, size = len(predicted), predicted.shape[-2:]
        maps = predicted.transpose(0, 1)  # (N, S, h, w)
        padded = maps[None]
        if len(drawn) > 1:
            padded = predicted.new_zeros(len(drawn), slots.most, sets, *size)
            padded[slots.image, slots.place] = maps
        chosen = uncertain_points(
            padded.flatten(1, 2), drawn, self.num_points, self._important, weights
        )
        by_mask: Tensor = chosen.unflatten(1, (-1, sets))[slots.image, slots.place]
        return by_mask.transpose(0, 1)


class _Slots(NamedTuple):
    """Where the N matched masks of some images belong.

    Attributes:
        image: (N,) its index.
        place: (N,) the mask's place among its image's.
        most: masks of any image.
    """

    image: Tensor
    place: Tensor
    most: int

    @classmethod
    def of(cls, counts: Sequence[int], device: torch.device) -> _Slots:
        """Of so many masks per image."""
        image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        place = torch.cat([torch.arange(count) for count in counts])
        return cls(image.to(device), place.to(device), max(counts))


def _draw(images: int, device: torch.device, num_points: int) -> Tensor:
    """(B, P, 2) uniform points in [0, 1] from torch's own stream."""
    return torch.rand(images, num_points, 2, device=device)
