"""Several models on the same picture; what they have in common is computed once.

A KAN head is often trained on the trunk of a published MLP model, or both on one frozen backbone.
Then backbone and pixel decoder, nine tenths of the work, are the same for both. Whether they are is
decided by their content, a hash of weights and arithmetic, not by names or files. Predictions are
bit for bit those of running each predictor by itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mask2kan.inference.predictor import Prediction, Predictor
from mask2kan.media.images import Source
from mask2kan.modeling.mask2kan import Mask2KAN

# What decides the arithmetic of each part besides its weights.
_BACKBONE_FIELDS = (
    *("backbone", "backbone_depths", "backbone_width", "backbone_num_heads"),
    *("backbone_window_size", "pixel_mean", "pixel_std"),
)
_PIXEL_DECODER_FIELDS = (*_BACKBONE_FIELDS, "hidden_dim", "num_heads", "num_points")

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class TrunkHashes:
    """Content hashes; equal ones give equal results on equal input.

    Attributes:
        backbone: of the backbone.
        pixel_decoder: of the backbone and the pixel decoder after it.
    """

    backbone: str
    pixel_decoder: str

    @classmethod
    def of(cls, model: Mask2KAN) -> TrunkHashes:
        """Read every weight once: about a quarter of a second for Swin-T."""
        backbone = _content_hash(model, model.backbone, _BACKBONE_FIELDS)
        pixel_decoder = _content_hash(model, model.pixel_decoder, _PIXEL_DECODER_FIELDS)
        return cls(backbone, f"{backbone} {pixel_decoder}")


def _content_hash(model: Mask2KAN, part: nn.Module, fields: tuple[str, ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    values = {field: getattr(model.config, field) for field in fields}
    digest.update(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(part.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # as bytes, because numpy has no bfloat16
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


class Comparison:
    """Runs several predictors on each picture.

    The models' weights are looked at once, when the comparison is made; change none while it lives.
    Predictors that share a stage run it plainly, whatever their ``compile`` and ``graphs`` say.

    Attributes:
        predictors: as given.
    """

    def __init__(self, *predictors: Predictor) -> None:
        """Find out what the predictors have in common."""
        self.predictors = predictors
        # one alone shares nothing, so its weights need no reading
        self._hashes = [
            TrunkHashes.of(predictor.model)
            if len(predictors) > 1 and isinstance(predictor.model, Mask2KAN)
            else None
            for predictor in predictors
        ]
        self._backbone_keys = self._shared_keys("backbone")
        self._pixel_decoder_keys = self._shared_keys("pixel_decoder")

    def _shared_keys(self, stage: str) -> list[Hashable | None]:
        """Per predictor, what its result of the stage is kept under; None where nobody else asks.

        Besides the weights, everything that decides what the stage sees and how it computes.
        """
        keys: list[Hashable | None] = [
            None
            if hashes is None
            else (
                stage,
                getattr(hashes, stage),
                predictor.device,
                predictor.dtype,
                predictor.max_side,
                predictor.settings.sides,
            )
            for predictor, hashes in zip(self.predictors, self._hashes, strict=True)
        ]
        count = Counter(keys)
        return [key if count[key] > 1 else None for key in keys]

    def __call__(self, image: Source) -> list[Prediction]:
        """Segment one picture with every predictor.

        Args:
            image: as for ``Predictor``.

        Returns:
            One ``Prediction`` per predictor, in their order. A stage that an earlier one had
            already computed is missing from ``timings`` and named in ``shared``.

        Raises:
            Mask2KANError: as ``Predictor``.
        """
        seen: dict[Hashable, Any] = {}
        predictions: list[Prediction] = []
        for index, predictor in enumerate(self.predictors):
            keys = (self._backbone_keys[index], self._pixel_decoder_keys[index])
            trunk = None if keys[0] is None else _SharedTrunk(seen, *keys)
            prediction = predictor(image, run=trunk)
            prediction.shared = () if trunk is None else trunk.shared
            predictions.append(prediction)
            image = prediction.image  # decoded once
        return predictions


class _SharedTrunk:
    """Runs one model, taking from and adding to what the models before it made of the picture."""

    def __init__(
        self,
        seen: dict[Hashable, Any],
        backbone_key: Hashable | None,
        pixel_decoder_key: Hashable | None,
    ) -> None:
        self._seen = seen
        self._backbone_key = backbone_key
        self._pixel_decoder_key = pixel_decoder_key
        self.shared: tuple[str, ...] = ()

    def __call__(self, model: nn.Module, images: Tensor, *, mirrored: bool) -> Any:
        assert isinstance(model, Mask2KAN)
        self.shared = ()
        # a predictor short of memory asks again, with a smaller picture
        look = (mirrored, tuple(images.shape))

        def features() -> list[Tensor]:
            return self._once(("backbone",), self._backbone_key, look, lambda: model.see(images))

        mask_features, levels = self._once(
            ("backbone", "pixel_decoder"),
            self._pixel_decoder_key,
            look,
            lambda: model.pixel_decoder(features()),
        )
        return model.transformer_decoder(levels, mask_features, with_aux=False)

    def _once(
        self,
        stages: tuple[str, ...],
        key: Hashable | None,
        look: Hashable,
        compute: Callable[[], _T],
    ) -> _T:
        """What the stages lead to, computed unless a model before this one did."""
        if key is None:
            return compute()
        if (key, look) not in self._seen:
            self._seen[key, look] = compute()
        else:
            self.shared = stages
        result: _T = self._seen[key, look]
        return result
