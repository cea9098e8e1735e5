"""The one owner of models and the device: loads, keeps and runs them, one job at a time.

Everything that needs a model asks here. Models stay in memory as long as there is room for the
next, and the least recently used leave first; a lock serialises loading and computing, because two
at once would only halve each other's speed and double the memory. What has to come from the Hub is
fetched before, outside the lock. The queue in front of it, with each visitor's place, is Gradio's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.checkpoints import load_model
from mask2kan.checkpoints.hub import cache_state, cached_only
from mask2kan.checkpoints.manifest import Address
from mask2kan.errors import Mask2KANError, OutOfMemoryError
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.kan_view import kan_head
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.kan.layers import KAN
from mask2kan.runtime.devices import resolve_device
from mask2kan.runtime.memory import available_memory, is_out_of_memory, release_memory

from ..strings import MODELS
from .catalog import Catalog, Model, size_of
from .hub_downloads import Fetches, Report

logger = logging.getLogger(__name__)

SIDES = ("left", "right")

_MODELS_KEPT = 8
# Measured while loading: 3.9 times the file where it holds float16, 2.0 times where float32.
_MEMORY_PER_FILE_BYTE = 4
# What a 2048×1024 picture takes besides the weights, with a little to spare; measured with Swin-T.
_WORKING_BYTES = 3 * 2**29
# Pixels of the pictures whose answers are kept: of each model, 4 of 2048×1024 or 16 of 1024×512.
_ANSWER_PIXELS_KEPT = 2 * 4 * 2048 * 1024
_LARGEST_ANSWER_KEPT = 2048 * 1024
# That of the examples: kernels and memory are chosen by size.
_WARM_SIZE = (512, 1024, 3)


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What one model makes of one picture; equal to itself alone.

    Attributes:
        source: the checkpoint as it was asked for.
        config: what the model is made of.
        prediction: with the asked score and the semantic map already computed.
        device: where it was computed: ``cpu``, or the card's name.
        dtype: in what: ``float32``, ``bfloat16`` or ``float16``.
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


class ModelService:
    """Loads checkpoints by name and runs them on pictures.

    Args:
        device: where models live; ``"auto"`` takes the accelerator if there is one.
        catalog: which models may be asked for; by default what the environment says.
    """

    def __init__(self, *, device: str = "auto", catalog: Catalog | None = None) -> None:
        self.catalog = catalog or Catalog.of_environment()
        self._device = device
        self._lock = threading.RLock()
        self._fetches = Fetches()
        self._models: OrderedDict[str, Predictor] = OrderedDict()
        self._answers: LRUCache[tuple[str, str], Answer] = LRUCache(_ANSWER_PIXELS_KEPT, _pixels)
        self._comparison: Comparison | None = None

    def fetch(self, source: str, progress: Report | None = None) -> None:
        """Bring a Hub checkpoint here, or its newer version; others go on computing meanwhile.

        Nothing happens for what needs no fetching. Visitors who ask for the same checkpoint wait
        for the same download.

        Args:
            source: as of ``answers``.
            progress: called with the share that is here and a sentence about it. What it raises
                passes through; the download ends when nobody waits for it any more.

        Raises:
            CheckpointError: for a repository that cannot be read, or a model that is not offered.
        """
        model = self.catalog.admit(source)
        if isinstance(model.place, Address):
            self._fetches.fetch(model.place, progress)

    @contextlib.contextmanager
    def turn(
        self, sources: Sequence[str | None] = (), progress: Report | None = None
    ) -> Iterator[None]:
        """A visitor's turn: nobody else decodes or computes anything meanwhile.

        Pictures take most of the memory and much of the time, so they are read within it, too.

        Args:
            sources: the models that will be asked for; they are fetched before the turn begins.
            progress: as of ``fetch``.

        Raises:
            CheckpointError: as ``fetch``.
        """
        self._fetch_missing([self.catalog.admit(source) for source in sources], progress)
        with self._lock:
            yield

    def answers(
        self,
        sources: Sequence[str | None],
        picture: NDArray[np.uint8],
        score: str,
        progress: Report | None = None,
    ) -> list[Answer]:
        """Run models on one picture, or take what they said about it a moment ago.

        What several models have in common is computed once. Checkpoints of the Hub that are not
        here yet are fetched first; those that are here are used as they are.

        Args:
            sources: each a name that the catalog admits.
            picture: (H, W, 3) RGB.
            score: the anomaly score that will be asked for.
            progress: as of ``fetch``.

        Returns:
            One answer per source, in their order.

        Raises:
            Mask2KANError: for a checkpoint or picture that cannot be used, or too little memory.
        """
        models = [self.catalog.admit(source) for source in sources]
        self._fetch_missing(models, progress)
        with self._computing(picture):
            return self._compute(models, picture, (score,))

    def inside(
        self, source: str | None, picture: NDArray[np.uint8], progress: Report | None = None
    ) -> tuple[KAN, Tensor]:
        """A model's KAN head, and what a picture puts into it.

        Args:
            source: as of ``answers``.
            picture: (H, W, 3) RGB.
            progress: as of ``fetch``.

        Returns:
            The head, only to be read, and (Q, C) its inputs for the final queries.

        Raises:
            Mask2KANError: as ``answers``; also for a model whose head is no KAN.
        """
        model = self.catalog.admit(source)
        self._fetch_missing([model], progress)
        with self._computing(picture):
            kan = kan_head(self._predictor(model).model)
            [answer] = self._compute([model], picture, ())
            return kan, torch.from_numpy(answer.prediction.queries)

    @contextlib.contextmanager
    def _computing(self, picture: NDArray[np.uint8]) -> Iterator[None]:
        """One at a time; whoever runs out of memory leaves it empty for the next."""
        with self._lock:
            try:
                yield
            except OutOfMemoryError:
                self._forget()
                raise
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._forget()
                raise _out_of_memory(picture) from error

    def warm(self, sources: Sequence[str]) -> threading.Thread:
        """Load models in the background, so that the first visitor does not wait for it.

        A model that does not load is logged here and reported to whoever asks for it.
        """

        def load() -> None:
            for source in sources:
                try:
                    with self.turn([source]):
                        predictor = self._predictor(self.catalog.admit(source))
                        predictor(np.zeros(_WARM_SIZE, np.uint8))
                except Mask2KANError as error:
                    logger.warning("Could not load %s: %s", source, error)

        thread = threading.Thread(target=load, name="warm-models", daemon=True)
        thread.start()
        return thread

    def _fetch_missing(self, models: Sequence[Model], progress: Report | None) -> None:
        missing = [
            model.place
            for model in dict.fromkeys(models)
            if isinstance(model.place, Address) and cache_state(model.place).state == "absent"
        ]
        for address in missing:
            self._fetches.fetch(address, progress)
        if missing and progress is not None:
            progress(1.0, MODELS["loading"])

    def _compute(
        self, models: Sequence[Model], picture: NDArray[np.uint8], scores: tuple[str, ...]
    ) -> list[Answer]:
        fingerprint = _fingerprint(picture)
        keys = [(_identity(model), fingerprint) for model in models]
        found = {key: self._answers[key] for key in keys if key in self._answers}
        missing = {key: model for key, model in zip(keys, models, strict=True) if key not in found}
        if missing:
            comparison = self._comparison_of(tuple(missing.values()))
            for (key, asked), predictor, prediction in zip(
                missing.items(), comparison.predictors, comparison(picture), strict=True
            ):
                model: Any = predictor.model
                found[key] = Answer(
                    asked.name,
                    model.config,
                    prediction,
                    device=_device_in_words(predictor.device),
                    dtype=str(predictor.dtype).removeprefix("torch."),
                )
                height, width = picture.shape[:2]
                logger.info("%s looked at a picture of %d × %d", asked.name, width, height)
        for key, answer in found.items():
            answer.prediction.prepare(scores)
            if _pixels(answer) <= _LARGEST_ANSWER_KEPT:
                self._answers[key] = answer
            else:  # what such a picture took is not kept for the next
                release_memory(resolve_device(self._device))
        return [found[key] for key in keys]

    def _comparison_of(self, models: tuple[Model, ...]) -> Comparison:
        """The last one where it still fits: finding out what models share reads their weights."""
        wanted = {_identity(model) for model in models}
        predictors = tuple(self._predictor(model, wanted) for model in models)
        if self._comparison is None or self._comparison.predictors != predictors:
            self._comparison = Comparison(*predictors)
        return self._comparison

    def _predictor(self, model: Model, wanted: Collection[str] = ()) -> Predictor:
        """A model from memory, or from its file once there is room; ``wanted`` ones stay."""
        key = _identity(model)
        if key not in self._models:
            self._make_room(size_of(model), wanted)
            # What is on this machine is what was fetched: nobody waits for the Hub in here.
            with cached_only():
                loaded = load_model(model.place, device=self._device)
            self._models[key] = Predictor(loaded, device=self._device)
        self._models.move_to_end(key)
        return self._models[key]

    def _make_room(self, size: int, wanted: Collection[str]) -> None:
        """Let go of the least recently used models until one with a file of ``size`` bytes fits."""
        device = resolve_device(self._device)
        needed = size * _MEMORY_PER_FILE_BYTE + _WORKING_BYTES
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

    def _forget(self) -> None:
        self._answers.clear()
        self._models.clear()
        self._comparison = None
        release_memory(resolve_device(self._device))


def _pixels(answer: Answer) -> int:
    height, width = answer.prediction.size
    return height * width


def _identity(model: Model) -> str:
    """The name, and the version: when a file was written, at which commit a repository is."""
    if isinstance(model.place, Address):
        folder = cache_state(model.place).folder
        return model.name if folder is None else f"{model.name}@{folder.name}"
    path = Path(model.place).expanduser()
    return f"{model.name}@{path.stat().st_mtime_ns}" if path.exists() else model.name


def _device_in_words(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _fingerprint(picture: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(repr(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def _out_of_memory(picture: NDArray[np.uint8]) -> OutOfMemoryError:
    height, width = picture.shape[:2]
    return OutOfMemoryError(
        f"Not enough memory for a {width}×{height} picture with this model. "
        "Try a smaller picture or a smaller model."
    )
