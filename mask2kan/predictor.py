"""Picture in, numpy out: resizing, padding, device, dtype and timing around a model.

Source of the arithmetic: Mask2Former's evaluation with one departure: pictures are not resized to a
fixed short side. Up to ``max_side`` the model sees every pixel; a larger picture is computed at
``max_side``, its masks are mapped back to full size, and the ``Prediction`` says so.

Several predictors may share a model across threads: calls into one model take turns.

Legend: B batch, Q queries, K classes, H W picture size, h w mask size.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mask2kan import anomaly, postprocess
from mask2kan.devices import resolve_device, resolve_dtype
from mask2kan.errors import ConfigError, NumericsError
from mask2kan.pictures import RGB, Source, read_picture
from mask2kan.postprocess import Geometry, View

STAGES = ("backbone", "pixel_decoder", "transformer_decoder")
SMALLEST_MAX_SIDE = 32

_turns: weakref.WeakKeyDictionary[nn.Module, threading.Lock] = weakref.WeakKeyDictionary()
_turns_guard = threading.Lock()


class Run(Protocol):
    """How a predictor has its model run."""

    def __call__(self, model: nn.Module, images: Tensor, *, mirrored: bool) -> Any:
        """(B, 3, H, W) images to the model's output; ``mirrored`` says which look it is."""


def run_alone(model: nn.Module, images: Tensor, *, mirrored: bool) -> Any:
    """One call of the model."""
    return model(images, with_aux=False)


class Predictor:
    """Runs a model on pictures.

    Attributes:
        model: as given, moved to ``device`` and in evaluation mode.
        device: where it runs.
        dtype: the autocast type; float32 means none.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        max_side: int = 2048,
        *,
        flip: bool = False,
        refine: bool = False,
    ) -> None:
        """Prepare.

        Args:
            model: from ``load_model`` or ``create_model``.
            device: ``auto`` (a CUDA card where there is one), or any name torch knows.
            dtype: ``auto`` (bfloat16 where the processor computes it faster, else float32),
                ``float32``, ``bfloat16`` or ``float16``.
            max_side: pictures whose longer side has more pixels are computed at this size.
            flip: average with the left-right flipped picture; twice the time.
            refine: apply Mask2Anomaly's refinement to anomaly scores by default.

        Raises:
            BackendError: for a device this machine does not have.
            ConfigError: for a dtype or size that cannot be used.
        """
        if max_side < SMALLEST_MAX_SIDE:
            raise ConfigError(f"max_side is {max_side}; it must be at least {SMALLEST_MAX_SIDE}.")
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.max_side = int(max_side)
        self.flip = flip
        self.refine = refine
        self.model = model

    def __call__(self, image: Source, *, run: Run = run_alone) -> Prediction:
        """Segment one picture.

        Args:
            image: a path, the bytes of a file, a PIL image, or (H, W, 3) uint8 RGB.
            run: how the model is run; ``Comparison`` passes its own.

        Raises:
            PictureError: when it cannot be read, or has more than 40 megapixels.
            NumericsError: when the model's output is not finite.
        """
        clock = _Clock(self.device)
        with clock.stage("decode"):
            picture = read_picture(image)
        notes: list[str] = []
        with clock.stage("resize"):
            computed = self._computed_picture(picture, notes)
            tensor = torch.from_numpy(computed).permute(2, 0, 1)[None].float() / 255
        views = [self._look(tensor, clock, run)]
        if self.flip:
            notes.append("Averaged with the left-right flipped picture.")
            views.append(self._look(tensor.flip(-1), clock, run, mirrored=True))
        model: Any = self.model
        return Prediction(
            image=picture,
            views=views,
            compute_size=(computed.shape[0], computed.shape[1]),
            class_names=tuple(model.class_names),
            palette=np.asarray(model.palette, dtype=np.uint8),
            calibration=getattr(model, "calibration", {}),
            timings=clock.milliseconds,
            notes=notes,
            device=self.device,
            refine=self.refine,
            source=getattr(model, "source", ""),
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

    def _computed_picture(self, picture: RGB, notes: list[str]) -> RGB:
        height, width = picture.shape[:2]
        longest = max(height, width)
        if longest <= self.max_side:
            return picture
        scale = self.max_side / longest
        size = max(1, round(width * scale)), max(1, round(height * scale))
        notes.append(
            f"The picture has {width} × {height} pixels; it was computed at {size[0]} × {size[1]} "
            "and mapped back."
        )
        resized = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
        return np.array(resized, dtype=np.uint8)

    def _look(self, images: Tensor, clock: _Clock, run: Run, *, mirrored: bool = False) -> View:
        with _turn(self.model), clock.model_stages(self.model), torch.inference_mode():
            self.model.to(self.device).eval()
            autocast = torch.autocast(
                self.device.type, self.dtype, enabled=self.dtype != torch.float32
            )
            with autocast:
                output = run(self.model, images.to(self.device), mirrored=mirrored)
            logits = output["pred_logits"][0].float().cpu()
            masks = output["pred_masks"][0].float().cpu()
        for name, values in (("pred_logits", logits), ("pred_masks", masks)):
            _require_finite(name, values, self.dtype)
        return View(logits, masks, mirrored)


class Prediction:
    """What a model makes of one picture; pixels are computed when first asked for, then kept.

    Attributes:
        image: (H, W, 3) uint8 RGB, as read.
        size: (H, W) of the picture and of every map.
        compute_size: (H, W) the model saw.
        class_names: K names.
        palette: (K, 3) uint8.
        calibration: per score, its range and thresholds; empty when uncalibrated.
        pred_logits: (Q, K+1) float32, the raw queries.
        pred_masks: (Q, h, w) float32 logits at a quarter of the padded ``compute_size``.
        timings: stage to milliseconds: ``decode``, ``resize``, ``model`` (within it ``backbone``,
            ``pixel_decoder``, ``transformer_decoder``), ``postprocess``; the last grows as maps are
            asked for.
        notes: what a reader of the result should know.
        source: where the weights came from; may be empty.
        num_parameters: of the model.
        refine: whether anomaly scores are refined unless ``anomaly`` is told otherwise.
        shared: stages taken from another model of the same ``Comparison`` instead of computed.
    """

    shared: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        image: RGB,
        views: list[View],
        compute_size: tuple[int, int],
        class_names: tuple[str, ...],
        palette: NDArray[np.uint8],
        calibration: Mapping[str, Mapping[str, Any]],
        timings: dict[str, float],
        notes: list[str],
        device: torch.device,
        refine: bool = False,
        source: str = "",
        num_parameters: int = 0,
    ) -> None:
        self.image = image
        self.size: tuple[int, int] = (image.shape[0], image.shape[1])
        self.compute_size = compute_size
        self.class_names = class_names
        self.palette = palette
        self.calibration = calibration
        self.timings = timings
        self.notes = notes
        self.refine = refine
        self.source = source
        self.num_parameters = num_parameters
        self.pred_logits: NDArray[np.float32] = views[0].pred_logits.numpy()
        self.pred_masks: NDArray[np.float32] = views[0].pred_masks.numpy()
        self._views = views
        self._device = device
        self._geometry = Geometry(compute_size, self.size)
        self._class_scores: NDArray[np.float32] | None = None
        self._semantic: NDArray[np.uint8] | None = None
        self._anomaly: dict[tuple[str, bool], NDArray[np.float32]] = {}

    @property
    def class_scores(self) -> NDArray[np.float32]:
        """(K, H, W): sum over queries of softmax(class) times sigmoid(mask)."""
        if self._class_scores is None:
            with self._timed():
                self._class_scores = postprocess.class_scores(self._placed(), self._geometry)
        return self._class_scores

    @property
    def semantic(self) -> NDArray[np.uint8]:
        """(H, W): the class with the largest score."""
        if self._semantic is None:
            self._reduce((), refine=False)
        assert self._semantic is not None
        return self._semantic

    def anomaly(self, score: str = "msp", *, refine: bool | None = None) -> NDArray[np.float32]:
        """How little the known classes explain each pixel.

        Args:
            score: one of ``mask2kan.anomaly.SCORES``.
            refine: apply Mask2Anomaly's refinement; None for the predictor's setting.

        Returns:
            (H, W), higher = more anomalous; the published value, neither clipped nor rescaled.

        Raises:
            ConfigError: for an unknown score, or a label set that cannot be refined.
        """
        anomaly.check_score(score)
        refine = self.refine if refine is None else refine
        if (score, refine) not in self._anomaly:
            self._reduce((score,), refine=refine)
        return self._anomaly[score, refine]

    def prepare(self, scores: tuple[str, ...], *, refine: bool | None = None) -> None:
        """Compute several anomaly scores and the semantic map in one pass over the masks."""
        refine = self.refine if refine is None else refine
        missing = tuple(score for score in scores if (score, refine) not in self._anomaly)
        if missing or self._semantic is None:
            self._reduce(missing, refine=refine)

    def score_range(self, score: str) -> tuple[float, float, bool]:
        """Low and high of the range pictures of the score use, and whether it was measured."""
        return anomaly.score_range(self.calibration, score, len(self.class_names))

    def default_threshold(self, score: str) -> tuple[float, str]:
        """The threshold from which a pixel counts as anomalous, and where it comes from."""
        return anomaly.default_threshold(self.calibration, score, len(self.class_names))

    def _reduce(self, scores: tuple[str, ...], *, refine: bool) -> None:
        names = self.class_names if refine else None
        with self._timed():
            pixels = postprocess.reduce_pixels(self._placed(), self._geometry, scores, names)
        self._semantic = pixels.semantic
        for score, values in pixels.anomaly.items():
            self._anomaly[score, refine] = values

    def _placed(self) -> list[View]:
        return [
            View(view.pred_logits.to(self._device), view.pred_masks.to(self._device), view.mirrored)
            for view in self._views
        ]

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        with torch.inference_mode():
            yield
        spent = 1000 * (time.perf_counter() - start)
        self.timings["postprocess"] = self.timings.get("postprocess", 0.0) + spent


class _Clock:
    """Milliseconds per stage; a stage entered twice adds up."""

    def __init__(self, device: torch.device) -> None:
        self.milliseconds: dict[str, float] = {}
        self._device = device

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self._add(name, start)

    @contextlib.contextmanager
    def model_stages(self, model: nn.Module) -> Iterator[None]:
        """Time the model and, where it has them, its three parts; by hooks, removed afterwards."""
        owner, starts = threading.get_ident(), {}
        handles = []

        def start(name: str) -> None:
            if threading.get_ident() == owner:
                starts[name] = self._now()

        def stop(name: str) -> None:
            if threading.get_ident() == owner and name in starts:
                self._add(name, starts.pop(name))

        for name in STAGES:
            part = getattr(model, name, None)
            if isinstance(part, nn.Module):
                handles.append(part.register_forward_pre_hook(lambda *_, n=name: start(n)))
                handles.append(part.register_forward_hook(lambda *_, n=name: stop(n)))
        try:
            with self.stage("model"):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _add(self, name: str, start: float) -> None:
        spent = 1000 * (self._now() - start)
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + spent


@contextlib.contextmanager
def _turn(model: nn.Module) -> Iterator[None]:
    """One call into a model at a time: it moves between devices and carries timing hooks."""
    with _turns_guard:
        lock = _turns.setdefault(model, threading.Lock())
    with lock:
        yield


def _require_finite(name: str, values: Tensor, dtype: torch.dtype) -> None:
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    remedy = (
        "Check the checkpoint."
        if dtype == torch.float32
        else "Try dtype float32, then the weights."
    )
    raise NumericsError(
        f"The model's {name} has {int((~finite).sum())} non-finite numbers out of "
        f"{values.numel()}; nothing can be read off them. {remedy}"
    )
