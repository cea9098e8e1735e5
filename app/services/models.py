"""The one owner of models and the device: loads, keeps and runs them.

One job at a time, which its caller sees to: two at once would halve each other's speed and double
the memory. What it asks for is on this machine: downloads come before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import logging
import traceback
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.checkpoints import build_model, open_checkpoint
from mask2kan.checkpoints.hub import cache_state, cached_only
from mask2kan.checkpoints.manifest import Address
from mask2kan.errors import Mask2KANError, OutOfMemoryError
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.kan_view import kan_head
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.query_masks import QueryMask, query_masks
from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.kan.layers import KAN
from mask2kan.runtime.devices import resolve_device
from mask2kan.runtime.memory import available_memory, is_out_of_memory, release_memory

from .catalog import Catalog, Model

logger = logging.getLogger(__name__)

_R = TypeVar("_R")

SIDES = ("left", "right")

_MODELS_KEPT = 8
# What a 2048×1024 picture takes besides the weights, with a little to spare; measured with Swin-T.
_WORKING_BYTES = 3 * 2**29
# Of the answers kept, counted as they are when they are given: of 1024×512 pictures about 40.
_ANSWER_BYTES_KEPT = 2**29
_LARGEST_ANSWER_KEPT = _ANSWER_BYTES_KEPT // 4
# Nothing counts as less, so that never more are kept than the bytes by this.
_SMALLEST_ANSWER = _ANSWER_BYTES_KEPT // 64
# Pictures whose queries are kept, 200 kB each, for the many edges of a KAN that people look at.
_QUERIES_KEPT = 32
_MASKS_LISTED = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """One model's prediction of one picture; equal to itself alone.

    Attributes:
        source: the checkpoint as it was asked for.
        prediction: with the semantic map and the scores that were asked for already computed.
        device: ``cpu``, or the GPU's name.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
    """

    source: str
    config: ModelConfig
    prediction: Prediction
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def milliseconds(self) -> float:
        """Decoded picture to maps; the model's own stages are parts of ``model``."""
        timings = self.prediction.timings
        return sum(timings.get(stage, 0.0) for stage in ("resize", "model", "postprocess"))


class Inside(NamedTuple):
    """A KAN head and what it reads of one picture.

    Attributes:
        kan: only to be read.
        queries: (Q, C), its inputs.
        masks: of the queries that matter most in the picture, the largest weights first.
    """

    kan: KAN
    queries: Tensor
    masks: tuple[QueryMask, ...]


class Models:
    """Loads checkpoints by name and runs them on pictures.

    Args:
        device: where models live; ``"auto"`` takes the accelerator if there is one.
        catalog: which models may be asked for; by default the environment's.
    """

    def __init__(self, *, device: str = "auto", catalog: Catalog | None = None) -> None:
        self.catalog = catalog or Catalog.of_environment()
        self._device = device
        self._models: OrderedDict[str, Predictor] = OrderedDict()
        self._answers: LRUCache[tuple[str, str], Answer] = LRUCache(_ANSWER_BYTES_KEPT, _bytes)
        self._read: LRUCache[tuple[str, str], tuple[Tensor, tuple[QueryMask, ...]]] = LRUCache(
            _QUERIES_KEPT
        )
        self._comparison: Comparison | None = None

    def do(self, job: Callable[..., _R], *args: Any) -> _R:
        """Do a job with these models; one that runs out of memory leaves it to the next, empty.

        Args:
            job: its first argument are these models.
            args: its others.

        Raises:
            OutOfMemoryError: naming the size of the picture among the arguments.
        """
        try:
            return job(self, *args)
        except OutOfMemoryError as error:
            self._forget(error)
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._forget(error)
            raise _out_of_memory(args) from error

    def load(self, sources: Sequence[str]) -> None:
        """Load models before they are asked for; one that cannot be is reported to who asks."""
        with contextlib.suppress(Mask2KANError):
            for source in sources:
                self._predictor(self.catalog.admit(source), set(self._models))

    def answers(
        self,
        sources: Sequence[str | None],
        picture: NDArray[np.uint8],
        score: str,
    ) -> list[Answer]:
        """Run models on one picture, or return their latest answers; one per source, in order.

        What several models have in common is computed once.

        Args:
            sources: names that the catalog admits.
            picture: (H, W, 3) RGB.
            score: prepared in the prediction.

        Raises:
            Mask2KANError: for a checkpoint or picture that cannot be used, or too little memory.
        """
        models = [self.catalog.admit(source) for source in sources]
        return self._compute(models, picture, (score,))

    def inside(self, source: str | None, picture: NDArray[np.uint8]) -> Inside:
        """Look inside a model's KAN head on a picture.

        Raises:
            Mask2KANError: as ``answers``; also for a model whose head is no KAN.
        """
        model = self.catalog.admit(source)
        kan = kan_head(self._predictor(model).model)
        key = (_identity(model), _fingerprint(picture))
        if key not in self._read:
            [answer] = self._compute([model], picture, ())
            prediction = answer.prediction
            self._read[key] = (
                torch.from_numpy(prediction.queries),
                query_masks(prediction, count=_MASKS_LISTED),
            )
        return Inside(kan, *self._read[key])

    def _compute(
        self, models: Sequence[Model], picture: NDArray[np.uint8], scores: tuple[str, ...]
    ) -> list[Answer]:
        """Return answers in order, from the cache or computed."""
        fingerprint = _fingerprint(picture)
        keys = [(_identity(model), fingerprint) for model in models]
        answers = {key: self._answers[key] for key in keys if key in self._answers}
        missing = {k: model for k, model in zip(keys, models, strict=True) if k not in answers}
        if missing:
            comparison = self._comparison_of(tuple(missing.values()))
            for (key, asked), predictor, prediction in zip(
                missing.items(), comparison.predictors, comparison(picture), strict=True
            ):
                model: Any = predictor.model
                answers[key] = Answer(
                    asked.name,
                    model.config,
                    prediction,
                    device=_device_in_words(predictor.device),
                    dtype=str(predictor.dtype).removeprefix("torch."),
                )
                height, width = picture.shape[:2]
                logger.info("%s looked at a picture of %d × %d", asked.name, width, height)
        for key, answer in answers.items():
            if scores:
                answer.prediction.prepare(scores)
            if _bytes(answer) <= _LARGEST_ANSWER_KEPT:
                self._answers[key] = answer
            else:  # what such a picture took is not kept for the next
                release_memory(resolve_device(self._device))
        return [answers[key] for key in keys]

    def _comparison_of(self, models: tuple[Model, ...]) -> Comparison:
        """Reuse the last comparison if it fits: finding what models share reads their weights."""
        wanted = {_identity(model) for model in models}
        predictors = tuple(self._predictor(model, wanted) for model in models)
        if self._comparison is None or self._comparison.predictors != predictors:
            self._comparison = Comparison(*predictors)
        return self._comparison

    def _predictor(self, model: Model, wanted: Collection[str] = ()) -> Predictor:
        """Take a model from memory, or load it once there is room; ``wanted`` ones stay."""
        key = _identity(model)
        if key not in self._models:
            # What is on this machine is what was fetched: nobody waits for the Hub in here.
            with cached_only():
                checkpoint = open_checkpoint(model.place)
            self._make_room(checkpoint.model_bytes, wanted)  # for one whose weights fit it
            loaded = build_model(checkpoint, device=self._device)
            self._models[key] = Predictor(loaded, device=self._device)
        self._models.move_to_end(key)
        return self._models[key]

    def _make_room(self, size: int, wanted: Collection[str]) -> None:
        """Drop the least recently used models until one of ``size`` bytes fits."""
        device = resolve_device(self._device)
        needed = size + _WORKING_BYTES
        while unwanted := [key for key in self._models if key not in wanted]:
            room = available_memory(device)
            if len(self._models) < _MODELS_KEPT and (room is None or room >= needed):
                return
            logger.info("%s leaves the memory", unwanted[0])
            dropped = self._models.pop(unwanted[0])
            if self._comparison is not None and dropped in self._comparison.predictors:
                self._comparison = None
            del dropped
            gc.collect()
            release_memory(device)

    def _forget(self, error: BaseException) -> None:
        traceback.clear_frames(error.__traceback__)  # their locals hold models and activations
        self._answers.clear()
        self._read.clear()
        self._models.clear()
        self._comparison = None
        gc.collect()
        release_memory(resolve_device(self._device))


def _bytes(answer: Answer) -> int:
    return max(_SMALLEST_ANSWER, answer.prediction.num_bytes)


def _identity(model: Model) -> str:
    """Name and version: a file's time of writing, a repository's commit."""
    if isinstance(model.place, Address):
        folder = cache_state(model.place).folder
        return model.name if folder is None else f"{model.name}@{folder.name}"
    with contextlib.suppress(OSError):  # not there, or not any more
        return f"{model.name}@{Path(model.place).expanduser().stat().st_mtime_ns}"
    return model.name


def _device_in_words(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _fingerprint(picture: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(repr(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def _out_of_memory(args: Sequence[Any]) -> OutOfMemoryError:
    size = ""
    for arg in args:
        if isinstance(arg, np.ndarray) and arg.ndim == 3:
            size = f" for a {arg.shape[1]}×{arg.shape[0]} picture"
    return OutOfMemoryError(
        f"Not enough memory{size} with this model. Try a smaller picture or a smaller model."
    )
