"""The prediction for one image: queries, and the maps read off them when first asked for.

Legend: Q queries, C channels, K classes, H W image size, h w mask size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.inference import postprocess, scores
from mask2kan.inference.postprocess import Geometry, Labels, View
from mask2kan.media.images import RGB
from mask2kan.modeling.settings import NATIVE, InferenceSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass
class _Maps:
    """Maps computed so far; several threads may ask one prediction for them."""

    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)
    class_scores: NDArray[np.float32] | None = None
    semantic: Labels | None = None
    anomaly: dict[tuple[str, bool], NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    smoothed: dict[tuple[str, float], NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    milliseconds: float | None = None

    def __reduce__(self) -> tuple[type[_Maps], tuple[()]]:
        """Travel empty: a copy or another process computes maps again; a lock cannot travel."""
        return _Maps, ()

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Inference mode, its time added up."""
        start = time.perf_counter()
        with torch.inference_mode():
            yield
        self.milliseconds = (self.milliseconds or 0.0) + 1000 * (time.perf_counter() - start)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The prediction for one image; maps are computed when first asked for, then kept.

    Attributes:
        image: (H, W, 3) uint8 RGB, as read.
        views: the queries per size and flip, the largest first.
        compute_size: (H, W) the model saw.
        palette: (K, 3) uint8.
        calibration: per score, its range and thresholds; empty when uncalibrated.
        spent: ``timings`` before any map was asked for.
        notes: for readers of the result.
        refine: the default of ``anomaly``.
        source: of the weights; may be empty.
        shared: parts taken from another model of the same ``Comparison``.
        path: the image's, or its address; empty when it came without.
        image_notes: those of ``notes`` about how the image was read.
    """

    image: RGB
    views: tuple[View, ...]
    compute_size: tuple[int, int]
    class_names: tuple[str, ...]
    palette: NDArray[np.uint8]
    calibration: Mapping[str, Mapping[str, Any]]
    spent: Mapping[str, float]
    notes: tuple[str, ...]
    refine: bool = False
    settings: InferenceSettings = NATIVE
    source: str = ""
    num_parameters: int = 0
    shared: tuple[str, ...] = ()
    path: str = ""
    image_notes: tuple[str, ...] = ()
    _maps: _Maps = dataclasses.field(default_factory=_Maps, init=False, repr=False)

    def __repr__(self) -> str:
        """Describe the prediction in a line, without computing any map."""
        height, width = self.size
        score = self.settings.score
        calibrated = "calibrated" if self.score_range(score)[2] else "uncalibrated"
        return (
            f"Prediction({self.path or 'image'}: {width} x {height} pixels, "
            f"{len(self.class_names)} classes, {self.source or 'model'}, {score} {calibrated})"
        )

    def save(
        self,
        folder: str | Path,
        name: str | None = None,
        *,
        score: str | None = None,
        threshold: float | None = None,
    ) -> list[Path]:
        """Write the files that ``predict`` writes: maps, masks, scores (``outputs.writer``).

        Args:
            folder: made if it is not there.
            name: begins the files' names and replaces what has it; None for the image's, numbered
                where another image's results have that.
            score: None for the settings'.
            threshold: None for the calibrated one.

        Returns:
            The paths, last that of a summary in JSON.

        Raises:
            ConfigError: for an unknown score, or a threshold that is not finite.
            WriteError: when the folder cannot be written.
        """
        from mask2kan.outputs.summary import Analysis
        from mask2kan.outputs.writer import save_prediction

        return save_prediction(Analysis(self, score, threshold), Path(folder), name)

    def plot(self, score: str | None = None, threshold: float | None = None) -> Figure:
        """Draw image, classes and score with what is anomalous outlined, as a matplotlib figure.

        Notebooks show it; elsewhere, ``.savefig("road.png")``. The arguments are those of ``save``.
        """
        from mask2kan.outputs.comparison_figure import comparison_page
        from mask2kan.outputs.summary import Analysis

        title = Path(self.source).name if Path(self.source).exists() else self.source
        name = Path(self.path).name
        return comparison_page([(title or "model", Analysis(self, score, threshold))], name=name)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image and of every map."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays it holds now; they become more as maps are asked for."""
        maps = self._maps
        with maps.lock:
            held = [self.image, maps.class_scores, maps.semantic]
            held += [*maps.anomaly.values(), *maps.smoothed.values()]
        tensors = [
            tensor
            for view in self.views
            for tensor in (view.pred_logits, view.pred_masks, view.queries)
        ]
        return sum(array.nbytes for array in (*held, *tensors) if array is not None)

    @property
    def geometry(self) -> Geometry:
        """``compute_size`` and ``size``, between which ``postprocess`` maps."""
        return Geometry(self.compute_size, self.size)

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds per stage.

        ``decode``, ``resize``, ``model`` (within it ``backbone``, ``pixel_decoder``,
        ``transformer_decoder``) and ``postprocess``, which grows as maps are asked for.
        """
        milliseconds = self._maps.milliseconds
        return {**self.spent} | ({} if milliseconds is None else {"postprocess": milliseconds})

    @functools.cached_property
    def pred_logits(self) -> NDArray[np.float32]:
        """(Q, K+1), the raw queries of the largest size."""
        return _numpy(self.views[0].pred_logits)

    @functools.cached_property
    def pred_masks(self) -> NDArray[np.float32]:
        """(Q, h, w) logits at a quarter of the padded ``compute_size``."""
        return _numpy(self.views[0].pred_masks)

    @functools.cached_property
    def queries(self) -> NDArray[np.float32]:
        """(Q, C): what the heads read, of the largest size."""
        queries = self.views[0].queries
        assert queries is not None
        return _numpy(queries)

    @property
    def class_scores(self) -> NDArray[np.float32]:
        """(K, H, W): sum over queries of softmax(class) times sigmoid(mask)."""
        maps = self._maps
        with maps.lock:
            if maps.class_scores is None:
                with maps.computing():
                    maps.class_scores = postprocess.class_scores(self.views, self.geometry)
            return maps.class_scores

    @property
    def semantic(self) -> Labels:
        """(H, W): the class with the largest score; uint8, above 255 classes uint16."""
        self.prepare(())
        assert self._maps.semantic is not None
        return self._maps.semantic

    def anomaly(
        self, score: str | None = None, *, refine: bool | None = None
    ) -> NDArray[np.float32]:
        """Score each pixel: (H, W), higher = more anomalous; as published, never clipped.

        Args:
            score: one of ``mask2kan.inference.scores.SCORES``; None for the settings'.
            refine: apply Mask2Anomaly's refinement; None for the predictor's setting.

        Raises:
            ConfigError: for an unknown score, or a label set that cannot be refined.
        """
        score = score or self.settings.score
        refine = self.refine if refine is None else refine
        self.prepare((score,), refine=refine)
        return self._maps.anomaly[score, refine]

    def anomaly_map(
        self, score: str | None = None, sigma: float | None = None
    ) -> NDArray[np.float32]:
        """Smooth ``anomaly(score)``, for thresholds and regions: (H, W).

        Args:
            score: None for the settings'.
            sigma: of the Gaussian, as a share of the longer side; None for the settings'.

        Raises:
            ConfigError: as ``anomaly``.
        """
        score = score or self.settings.score
        sigma = self.settings.sigma if sigma is None else sigma
        plain = self.anomaly(score)
        if not sigma:
            return plain
        maps, key = self._maps, (score, sigma)
        with maps.lock:
            if key not in maps.smoothed:
                # Beside the settings' own, only the latest stays: people try many.
                for other in [old for old in maps.smoothed if old[1] != self.settings.sigma]:
                    del maps.smoothed[other]
                with maps.computing():
                    maps.smoothed[key] = scores.smoothed(plain, sigma * max(self.size))
            return maps.smoothed[key]

    def smallest_region(self, least: int = 0) -> int:
        """Return the pixels of the smallest region to report, at least ``least``."""
        return self.settings.smallest_pixels(*self.size, least)

    def prepare(self, names: Collection[str], *, refine: bool | None = None) -> None:
        """Compute several anomaly scores and the semantic map in one pass over the masks."""
        for name in names:
            scores.check_score(name)
        refine = self.refine if refine is None else refine
        maps = self._maps
        with maps.lock:
            missing = tuple(name for name in names if (name, refine) not in maps.anomaly)
            if not missing and maps.semantic is not None:
                return
            with maps.computing():
                # Refining needs class names, which matter to scores alone.
                with_names = self.class_names if refine and missing else None
                pixels = postprocess.reduce_pixels(self.views, self.geometry, missing, with_names)
            maps.semantic = pixels.semantic
            for name, values in pixels.anomaly.items():
                maps.anomaly[name, refine] = values

    def score_range(self, score: str) -> tuple[float, float, bool]:
        """See ``scores.score_range``."""
        return scores.score_range(self.calibration, score, len(self.class_names))

    def default_threshold(self, score: str) -> tuple[float, str]:
        """See ``scores.default_threshold``."""
        return scores.default_threshold(self.calibration, score, len(self.class_names))


def _numpy(values: Tensor) -> NDArray[np.float32]:
    return cast(NDArray[np.float32], values.float().cpu().numpy())
