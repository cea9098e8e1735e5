"""The one owner of models and the device: loads, keeps and runs them, one job at a time.

Everything that needs a model asks here. Models stay in memory in least-recently-used order; a lock
serialises loading and computing, because two at once would only halve each other's speed and double
the memory. The queue in front of it, with each visitor's place, is Gradio's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mask2kan.checkpoints import load_model
from mask2kan.comparison import Comparison
from mask2kan.config import ModelConfig
from mask2kan.devices import is_out_of_memory
from mask2kan.errors import CheckpointError, Mask2KANError, OutOfMemoryError
from mask2kan.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)

_MODELS_KEPT = 3
_ANSWERS_KEPT = 4
_ANSWER_PIXELS_KEPT = 2048 * 1024


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one model makes of one picture.

    Attributes:
        source: the checkpoint as it was asked for.
        config: what the model is made of.
        prediction: with the asked score and the semantic map already computed.
    """

    source: str
    config: ModelConfig
    prediction: Prediction

    @property
    def milliseconds(self) -> float:
        """Decoded picture to maps; the model's own stages are parts of ``model``."""
        timings = self.prediction.timings
        return sum(timings.get(stage, 0.0) for stage in ("resize", "model", "postprocess"))


class ModelService:
    """Loads checkpoints by name and runs them on pictures.

    Args:
        device: where models live; ``"auto"`` takes the accelerator if there is one.
    """

    def __init__(self, *, device: str = "auto") -> None:
        self._device = device
        self._lock = threading.Lock()
        self._models: OrderedDict[str, Predictor] = OrderedDict()
        self._answers: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        self._comparison: Comparison | None = None

    def answers(
        self, sources: Sequence[str | None], picture: NDArray[np.uint8], score: str
    ) -> list[Answer]:
        """Run models on one picture, or take what they said about it a moment ago.

        What several models have in common is computed once.

        Args:
            sources: each a bundled name, a local file or folder, or a Hub repository id.
            picture: (H, W, 3) RGB.
            score: the anomaly score that will be asked for.

        Returns:
            One answer per source, in their order.

        Raises:
            Mask2KANError: for a checkpoint or picture that cannot be used, or too little memory.
        """
        names = [(source or "").strip() for source in sources]
        if not all(names):
            raise CheckpointError(
                "No model was chosen: pick one, or type a checkpoint's path or Hub repository id."
            )
        with self._lock:
            try:
                return self._compute(names, picture, score)
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
                    with self._lock:
                        predictor = self._predictor(source)
                        predictor(np.zeros((64, 64, 3), np.uint8))
                except Mask2KANError as error:
                    logger.warning("Could not load %s: %s", source, error)

        thread = threading.Thread(target=load, name="warm-models", daemon=True)
        thread.start()
        return thread

    def _compute(
        self, sources: Sequence[str], picture: NDArray[np.uint8], score: str
    ) -> list[Answer]:
        fingerprint = _fingerprint(picture)
        keys = [(_identity(source), fingerprint) for source in sources]
        found = {key: self._answers[key] for key in keys if key in self._answers}
        missing = {
            key: source for key, source in zip(keys, sources, strict=True) if key not in found
        }
        if missing:
            comparison = self._comparison_of(tuple(missing.values()))
            for (key, source), predictor, prediction in zip(
                missing.items(), comparison.predictors, comparison(picture), strict=True
            ):
                model: Any = predictor.model
                found[key] = Answer(source, model.config, prediction)
                height, width = picture.shape[:2]
                logger.info("%s looked at a picture of %d × %d", source, width, height)
        for key, answer in found.items():
            answer.prediction.prepare((score,))
            if picture.shape[0] * picture.shape[1] <= _ANSWER_PIXELS_KEPT:
                self._answers[key] = answer
                self._answers.move_to_end(key)
        while len(self._answers) > _ANSWERS_KEPT:
            self._answers.popitem(last=False)
        return [found[key] for key in keys]

    def _comparison_of(self, sources: tuple[str, ...]) -> Comparison:
        """The last one where it still fits: finding out what models share reads their weights."""
        predictors = tuple(self._predictor(source) for source in sources)
        if self._comparison is None or self._comparison.predictors != predictors:
            self._comparison = Comparison(*predictors)
        return self._comparison

    def _predictor(self, source: str) -> Predictor:
        key = _identity(source)
        if key not in self._models:
            model = load_model(source, device=self._device)
            self._models[key] = Predictor(model, device=self._device)
            while len(self._models) > _MODELS_KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]

    def _forget(self) -> None:
        self._answers.clear()
        self._models.clear()
        self._comparison = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _identity(source: str) -> str:
    """The name, and for a file the moment it was written: a retrained one is another model."""
    path = Path(source)
    return f"{source}@{path.stat().st_mtime_ns}" if path.exists() else source


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
