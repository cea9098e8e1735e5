"""Run several models on the same image; a trunk they have in common runs once.

A KAN head is often trained on a published MLP model's trunk, nine tenths of the work. Trunks are
compared by hashes of weights and arithmetic. Predictions are bit for bit those of each predictor by
itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast, overload

import torch
from torch import Tensor, nn

from mask2kan.errors import ConfigError
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.runners import PlainRun, Run, StageTimer
from mask2kan.media.images import Decoded, Source
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
    """Content hashes; equal ones give equal results on equal input."""

    backbone: str
    pixel_decoder: str  # of both

    @classmethod
    def of(cls, model: Mask2KAN) -> TrunkHashes:
        """Hash every weight: about a quarter of a second for Swin-T."""
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
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


class Comparison:
    """Run several predictors on each image; do not change their weights while it lives."""

    def __init__(self, *predictors: Predictor) -> None:
        """Find out what the predictors have in common.

        Raises:
            ConfigError: for anything but predictors.
        """
        for predictor in predictors:
            if not isinstance(predictor, Predictor):
                raise ConfigError(
                    f"Comparison got a {type(predictor).__name__}; it needs predictors, one after "
                    "another: Comparison(Predictor(left), Predictor(right))."
                )
        self.predictors = predictors
        # a single predictor shares nothing, so its weights need no hash
        self._hashes = [
            TrunkHashes.of(predictor.model)
            if len(predictors) > 1 and isinstance(predictor.model, Mask2KAN)
            else None
            for predictor in predictors
        ]
        self._trunk_keys = self._shared_keys("pixel_decoder")
        # A compiled or recorded trunk does not give away the backbone's maps.
        self._backbone_keys = [
            key if predictor.run.kind == "plain" else None
            for key, predictor in zip(self._shared_keys("backbone"), predictors, strict=True)
        ]

    def _shared_keys(self, stage: str) -> list[Hashable | None]:
        """Key each predictor's result of a stage by all that decides it; None where unique."""
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

    @overload
    def __call__(self, image: Source) -> list[Prediction]: ...

    @overload
    def __call__(self, image: list[Any] | tuple[Any, ...]) -> list[list[Prediction]]: ...

    def __call__(
        self, image: Source | list[Any] | tuple[Any, ...]
    ) -> list[Prediction] | list[list[Prediction]]:
        """Segment an image, or each of a list, with every predictor, in their order.

        A stage that an earlier predictor computed is missing from ``timings`` and named in
        ``shared``.

        Raises:
            Mask2KANError: as ``Predictor``.
        """
        if isinstance(image, (list, tuple)):
            return [self(each) for each in image]
        results: dict[Hashable, Any] = {}
        decoded: Any = image
        predictions: list[Prediction] = []
        for predictor, *keys in zip(
            self.predictors, self._backbone_keys, self._trunk_keys, strict=True
        ):
            predictions.append(predictor(decoded, sharing=_SharedTrunk(results, *keys)))
            first = predictions[0]
            decoded = Decoded(first.image, first.image_notes, first.path)  # once
        return predictions


class _SharedTrunk:
    """Take a predictor's trunk from those that ran on the same image before it."""

    def __init__(
        self,
        results: dict[Hashable, Any],
        backbone_key: Hashable | None,
        trunk_key: Hashable | None,
    ) -> None:
        self._results = results
        self._backbone_key = backbone_key
        self._trunk_key = trunk_key
        self.reused: tuple[str, ...] = ()

    def __call__(self, run: Run, images: Tensor, view_key: Hashable, stage: StageTimer) -> Features:
        self.reused = ()

        def features() -> Features:
            if self._backbone_key is None:
                return run.trunk(images, stage)
            model = cast(PlainRun, run).model

            def maps() -> list[Tensor]:
                with stage("backbone"):
                    return cast(list[Tensor], model.backbone_maps(images))

            shared = self._once(("backbone",), (self._backbone_key, view_key), maps)
            with stage("pixel_decoder"):
                return cast(Features, model.pixel_decoder(shared))

        if self._trunk_key is None:
            return features()
        return self._once(("backbone", "pixel_decoder"), (self._trunk_key, view_key), features)

    def _once(self, parts: tuple[str, ...], key: Hashable, compute: Callable[[], _T]) -> _T:
        """Compute the parts' result unless an earlier predictor did."""
        if key in self._results:
            self.reused = parts
        else:
            self._results[key] = compute()
        return cast(_T, self._results[key])
