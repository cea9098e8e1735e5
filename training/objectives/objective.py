"""From a batch to losses, in one module that any wrapper may wrap."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2kan.checkpoints import load_model
from mask2kan.modeling.heads import shared_weights
from mask2kan.modeling.mask2kan import STRIDE, Mask2KAN

from ..config.train_config import TrainConfig
from ..data.augmentation import VOID
from ..data.crops import Batch
from ..data.label_space import Groups
from ..models.build import HEAD
from ..models.pair import HeadPair, Trained, decoders, lead
from .contrastive import at_pixels, contrastive_loss, negative_likelihood
from .criterion import SetCriterion, semantic_targets
from .distributed import PointDraws
from .trunk_cache import TrunkCache


class StepOutput(NamedTuple):
    """Losses and the queries that the mask head read.

    Attributes:
        losses: unweighted terms, and ``loss``, their weighted sum.
        queries: (..., C) each, detached; the KAN's of a pair.
    """

    losses: dict[str, Tensor]
    queries: tuple[Tensor, ...]


class Objective(Protocol):
    """A module whose ``loss`` is to be minimised."""

    model: Trained

    def __call__(self, batch: Batch) -> StepOutput:
        """Return the losses of a batch."""
        ...


class SegmentationObjective(nn.Module):
    """L_total = L_seg + λ1 L_reg + λ2 L_contrastive (thesis, eq. 2.6) of labelled crops.

    ``trunk`` gives the features of a trunk that does not learn; ``groups`` are the data's.
    """

    def __init__(
        self, model: Trained, config: TrainConfig, trunk: TrunkCache | None, groups: Groups = ()
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.trunk = trunk
        self.criterion = SetCriterion(
            lead(model).config.num_classes,
            num_points=config.num_points,
            no_object_weight=config.no_object_weight,
            regularization_weight=config.regularization_weight,
            groups=groups,
        )

    def forward(self, batch: Batch) -> StepOutput:
        """See ``Objective``."""
        outputs = self._outputs(batch)
        targets = semantic_targets(_framed(batch["labels"]))
        device = batch["images"].device
        draws = PointDraws(self.config.seed, batch["numbers"], device)
        per_head = self.criterion.of_heads(list(outputs.values()), targets, draws)
        total = torch.zeros((), device=device)
        losses: dict[str, Tensor] = {}
        heads = decoders(self.model)
        for name, terms in zip(outputs, per_head, strict=True):
            head_loss = self.criterion.total(terms, heads[name].mask_embed)
            if self.config.outliers.active and self.config.contrastive_weight:
                terms["loss_contrastive"] = self._contrastive(outputs[name], batch["labels"])
                head_loss = head_loss + self.config.contrastive_weight * terms["loss_contrastive"]
            total = total + head_loss / len(outputs)
            prefix = f"{name}/" if name else ""
            losses |= {prefix + key: value for key, value in terms.items()}
        leading = next(iter(outputs.values()))
        queries = tuple(out["queries"].detach() for out in (*leading["aux_outputs"], leading))
        return StepOutput({"loss": total, **losses}, queries)

    def _outputs(self, batch: Batch) -> dict[str, Any]:
        images = batch["images"]
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if isinstance(self.model, HeadPair):
            return cast(dict[str, Any], self.model(images))
        if self.trunk is None:
            return {"": self.model(images)}
        return {"": self.model.decode(self.trunk(images, batch["views"]))}

    def _contrastive(self, outputs: Any, labels: Tensor) -> Tensor:
        """Sum over all predicted sets, as Mask2Anomaly's code does."""
        height, width = labels.shape[-2:]
        form, margin = self.config.contrastive_form, self.config.contrastive_margin
        terms = []
        with torch.autocast(labels.device.type, enabled=False):
            for layer in (*outputs["aux_outputs"], outputs):
                l_n = negative_likelihood(layer["pred_logits"], layer["pred_masks"], form)
                l_n = at_pixels(l_n, (height, width))
                terms.append(contrastive_loss(l_n, labels, margin=margin, form=form))
        return torch.stack(terms).sum()


def _framed(labels: Tensor) -> Tensor:
    """Pad (B, H, W) labels with void, right and below, as the model pads images.

    Points are shares of the padded image, in both kinds of masks.
    """
    height, width = labels.shape[-2:]
    return F.pad(labels, (0, -width % STRIDE, 0, -height % STRIDE), value=VOID)


class DistillationObjective(nn.Module):
    """How far a new ``mask_embed`` is from the old one, in the masks they make.

    The old head guides the decoder's attention, and both read the same queries of every layer. The
    loss is the mean squared difference of the mask logits, divided by the old ones' mean square,
    without any pixel: with F (C, P) the mask features and d (C) the difference of two embeddings,
    Σ_p (d·F_p)² = dᵀ (F Fᵀ) d.

    Args:
        model: with the new head.
        config: its ``init`` is the checkpoint with the old head.
        trunk: as for ``SegmentationObjective``.
    """

    def __init__(self, model: Mask2KAN, config: TrainConfig, trunk: TrunkCache | None) -> None:
        super().__init__()
        self.model = model
        self.trunk = trunk
        self.teacher = load_model(config.init, device=model.device).requires_grad_(False)

    def forward(self, batch: Batch) -> StepOutput:
        """See ``Objective``."""
        images = batch["images"].contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            if self.trunk is None:
                features = self.model.trunk(images)
            else:
                features = self.trunk(images, batch["views"])
            # The old head guides the attention, so both heads read the same queries: (S, B, Q, C).
            states = self.teacher.transformer_decoder.refine(features)
            queries, expected = (torch.stack(part).float() for part in zip(*states, strict=True))
        student = self.model.get_submodule(HEAD)
        with torch.autocast(images.device.type, enabled=False):
            embeddings = student(queries, **shared_weights(student))
            pixels = features.mask_features.float().flatten(2)
            gram = pixels @ pixels.mT / pixels.shape[-1]  # (B, C, C)
            loss = _power(embeddings - expected, gram) / _power(expected, gram)
        return StepOutput({"loss": loss, "relative_error": loss.detach()}, (queries,))


def _power(vectors: Tensor, gram: Tensor) -> Tensor:
    """Mean square of the mask logits that embeddings (S, B, Q, C) make: a scalar."""
    return torch.einsum("sbqc,bcd,sbqd->sbq", vectors, gram, vectors).mean()
