"""Run several models on the same image; a trunk they have in common runs once.

A KAN head is often trained on the trunk of a published MLP model. Then backbone and pixel decoder,
nine tenths of the work, are the same for both. Whether they are is decided by a hash of weights and
arithmetic, not by names or files. Predictions are bit for bit those of each predictor by itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.runners import PlainRun, Run, Stage
from mask2kan.media.images import Source
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.modeling.pixel_decoder import Features

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
    """Run several predictors on each image.

    The models' weights are hashed once, when the comparison is made; change none while it lives.
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
        self._trunk_keys = self._shared_keys("pixel_decoder")
        # Within a compiled or recorded trunk, the backbone's maps are not to be had.
        self._backbone_keys = [
            key if predictor.run.kind == "plain" else None
            for key, predictor in zip(self._shared_keys("backbone"), predictors, strict=True)
        ]

    def _shared_keys(self, stage: str) -> list[Hashable | None]:
        """Per predictor, the key of its result of a stage; None where no other has the same.

        Besides the weights, it holds everything that decides what the stage sees and computes.
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
                predictor.run.kind,
            )
            for predictor, hashes in zip(self.predictors, self._hashes, strict=True)
        ]
        count = Counter(keys)
        return [key if count[key] > 1 else None for key in keys]

    def __call__(self, image: Source) -> list[Prediction]:
        """Segment one image with every predictor.

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
            trunk = _SharedTrunk(seen, self._backbone_keys[index], self._trunk_keys[index])
            prediction = predictor(image, sharing=trunk)
            predictions.append(prediction)
            image = prediction.image  # decoded once
        return predictions


class _SharedTrunk:
    """The trunk of one predictor, taken from those that ran on the same image before it."""

    def __init__(
        self, seen: dict[Hashable, Any], backbone_key: Hashable | None, trunk_key: Hashable | None
    ) -> None:
        self._seen = seen
        self._backbone_key = backbone_key
        self._trunk_key = trunk_key
        self.taken: tuple[str, ...] = ()

    def __call__(self, run: Run, images: Tensor, look: Hashable, stage: Stage) -> Features:
        self.taken = ()
        model = cast(PlainRun, run).model

        def maps() -> list[Tensor]:
            with stage("backbone"):
                return cast(list[Tensor], model.backbone_maps(images))

        def features() -> Features:
            if self._backbone_key is None:
                return run.trunk(images, stage)
            known = self._once(("backbone",), self._backbone_key, look, maps)
            with stage("pixel_decoder"):
                return cast(Features, model.pixel_decoder(known))

        return self._once(("backbone", "pixel_decoder"), self._trunk_key, look, features)

    def _once(
        self,
        parts: tuple[str, ...],
        key: Hashable | None,
        look: Hashable,
        compute: Callable[[], _T],
    ) -> _T:
        """The parts' result, computed unless a predictor before this one did."""
        if key is None:
            return compute()
        if (key, look) not in self._seen:
            self._seen[key, look] = compute()
        else:
            self.taken = parts
        return cast(_T, self._seen[key, look])
