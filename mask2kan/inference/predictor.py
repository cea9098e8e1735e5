"""Picture in, numpy out: resizing, padding, device, dtype and timing around a model.

Source of the arithmetic: Mask2Former's evaluation with one departure: pictures are not resized to a
fixed short side. Up to ``max_side`` the model sees every pixel; a larger picture is computed at
``max_side``, its masks are mapped back to full size, and the ``Prediction`` says so. Where memory
does not suffice, a picture is computed smaller still, and that is said too.

Several predictors may share a model across threads: calls into one model take turns.

Legend: B batch, Q queries, K classes, H W picture size, h w mask size.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mask2kan.errors import (
    BackendError,
    ConfigError,
    NumericsError,
    OutOfMemoryError,
    unknown,
)
from mask2kan.inference import postprocess, scores
from mask2kan.inference.postprocess import Geometry, View
from mask2kan.inference.runners import CompiledRun, GraphRun, Run, run_plainly
from mask2kan.media.images import RGB, Source, read_picture
from mask2kan.modeling.settings import NATIVE, InferenceSettings
from mask2kan.runtime.devices import is_out_of_memory, release_memory, resolve_device, resolve_dtype

SETTINGS = ("checkpoint", "native")
STAGES = ("backbone", "pixel_decoder", "transformer_decoder")
SMALLEST_MAX_SIDE = 32
# Where memory does not suffice: half the pixels again and again, down to this longer side.
_SHORTAGE_FACTOR = 0.7
_SMALLEST_ATTEMPT = 256

_turns: weakref.WeakKeyDictionary[nn.Module, threading.Lock] = weakref.WeakKeyDictionary()
_turns_guard = threading.Lock()


class Predictor:
    """Runs a model on pictures.

    Attributes:
        model: as given, moved to ``device`` and in evaluation mode.
        device: where it runs.
        dtype: the autocast type; float32 means none.
        settings: the sizes pictures are computed at, and what is done with scores.
        run: how the model is run.
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
        compile: bool = False,
        graphs: bool = False,
        settings: InferenceSettings | str = "checkpoint",
    ) -> None:
        """Prepare.

        Args:
            model: from ``load_model`` or ``create_model``.
            device: ``auto`` (a CUDA card where there is one), or any name torch knows.
            dtype: ``auto`` (bfloat16 where card or processor compute it faster, else float32),
                ``float32``, ``bfloat16`` or ``float16``.
            max_side: pictures whose longer side has more pixels are computed at this size.
            flip: average with the left-right flipped picture; twice the time.
            refine: apply Mask2Anomaly's refinement to anomaly scores by default.
            compile: run the model through ``torch.compile``; pays for many pictures of one size.
            graphs: record the forward pass of each picture size as a CUDA graph and replay it; pays
                for many pictures of few sizes.
            settings: ``checkpoint``, how its makers want the model run, where it says so;
                ``native``, one look at the picture's own size; or any ``InferenceSettings``.

        Raises:
            BackendError: for a device this machine does not have, or graphs without a card.
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
        self.settings = chosen_settings(model, settings)
        self._placed = False
        if graphs and self.device.type != "cuda":
            raise BackendError(
                f"CUDA graphs were asked for on {self.device.type}; they need a CUDA card. Leave "
                "them out, or use compile."
            )
        self.run: Run = CompiledRun() if compile else run_plainly
        if graphs:
            self.run = GraphRun(self.run)

    def __call__(self, image: Source, *, run: Run | None = None) -> Prediction:
        """Segment one picture.

        Args:
            image: a path, the bytes of a file, a PIL image, or (H, W, 3) uint8 RGB.
            run: how the model is run; ``Comparison`` passes its own.

        Raises:
            PictureError: when it cannot be read, or has more than 40 megapixels.
            NumericsError: when the model's output is not finite.
            OutOfMemoryError: when memory does not suffice even for a small version of it.
        """
        clock = _Clock(self.device)
        with clock.stage("decode"):
            picture = read_picture(image)
        computed, views, notes = self._fit(picture, clock, run or self.run)
        if self.flip:
            notes.append("Averaged with the left-right flipped picture.")
        model: Any = self.model
        calibration = getattr(model, "calibration", {})
        if calibration and not self._as_calibrated():
            notes.append(
                "Thresholds and ranges were measured with the checkpoint's own settings; with "
                "these they are only a start."
            )
        return Prediction(
            image=picture,
            views=views,
            compute_size=computed,
            class_names=tuple(model.class_names),
            palette=np.asarray(model.palette, dtype=np.uint8),
            calibration=calibration,
            timings=clock.milliseconds(),
            notes=notes,
            refine=self.refine,
            settings=self.settings,
            source=getattr(model, "source", ""),
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

    def _as_calibrated(self) -> bool:
        """Whether the maps are those that the checkpoint's calibration was measured on."""
        own = chosen_settings(self.model, "checkpoint")
        return (self.settings.sides, self.settings.sigma) == (own.sides, own.sigma)

    def _fit(
        self, picture: RGB, clock: _Clock, run: Run
    ) -> tuple[tuple[int, int], list[View], list[str]]:
        """Compute the picture at the settings' sizes, as large as ``max_side`` and memory allow.

        Returns:
            The largest (H, W) it was computed at, its views, and what to say about the sizes.
        """
        limit = self.max_side
        short = False
        while True:
            sides = self.settings.sides_of(max(picture.shape[:2]), limit)
            try:
                views = [view for side in sides for view in self._looks(picture, side, clock, run)]
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the block above: until there, the error holds on to what was computed.
            short = True
            if isinstance(self.run, GraphRun):
                self.run.forget()
            release_memory(self.device)
            limit = int(sides[0] * _SHORTAGE_FACTOR)
            if limit < _SMALLEST_ATTEMPT:
                height, width = _size_at(picture, sides[0])
                raise OutOfMemoryError(
                    f"Not enough memory on {self.device} for a {picture.shape[1]}×"
                    f"{picture.shape[0]} picture with this model, not even computed at "
                    f"{width}×{height}. Close what else uses it, or try a smaller model."
                )
        size = views[0].computed or (picture.shape[0], picture.shape[1])
        notes = _notes_on_size(picture, size, short) if len(sides) == 1 else []
        if len(sides) > 1:
            notes = [
                f"Computed at {' + '.join(map(str, sides))} pixels on the longer side and averaged"
                f"{', smaller than set because memory did not suffice' if short else ''}."
            ]
        return size, views, notes

    def _looks(self, picture: RGB, side: int, clock: _Clock, run: Run) -> list[View]:
        """The views of one size: one, or two with flip averaging."""
        with clock.stage("resize"):
            resized = _resized(picture, side)
        return [
            self._look(resized, clock, run, mirrored=mirrored)
            for mirrored in ((False, True) if self.flip else (False,))
        ]

    def _look(self, picture: RGB, clock: _Clock, run: Run, *, mirrored: bool) -> View:
        with _turn(self.model), torch.inference_mode():
            self._place_model()
            # Hooks would break a recorded or compiled pass, and stages have no ends in it.
            stages = (
                clock.model_stages if run is not self.run or run is run_plainly else clock.model
            )
            autocast = torch.autocast(
                self.device.type, self.dtype, enabled=self.dtype != torch.float32
            )
            with stages(self.model), autocast:
                images = torch.from_numpy(picture).to(self.device).permute(2, 0, 1)[None]
                images = images.float() / 255
                if mirrored:
                    images = images.flip(-1)
                output = run(self.model, images, mirrored=mirrored)
            logits, masks = output["pred_logits"][0], output["pred_masks"][0]
            for name, values in (("pred_logits", logits), ("pred_masks", masks)):
                _require_finite(name, values, self.dtype)
        return View(logits, masks, mirrored, (picture.shape[0], picture.shape[1]))

    def _place_model(self) -> None:
        parameter = next(self.model.parameters(), None)
        moved = parameter is not None and parameter.device != self.device
        if moved or not self._placed:
            self.model.to(self.device)
            if self.device.type == "cuda":  # whose convolutions are fastest so
                self.model.to(memory_format=torch.channels_last)
            self._placed = True
        if self.model.training:
            self.model.eval()


def chosen_settings(model: nn.Module, settings: InferenceSettings | str) -> InferenceSettings:
    """What ``Predictor``'s argument stands for.

    Raises:
        ConfigError: for another word.
    """
    if isinstance(settings, InferenceSettings):
        return settings
    if settings not in SETTINGS:
        raise ConfigError(unknown("settings", str(settings), SETTINGS))
    own: InferenceSettings | None = getattr(model, "settings", None)
    return own if settings == "checkpoint" and own is not None else NATIVE


def _size_at(picture: RGB, side: int) -> tuple[int, int]:
    """(H, W) of the picture with a longer side of at most ``side``."""
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(picture: RGB, side: int) -> RGB:
    """The picture with a longer side of at most ``side``."""
    size = _size_at(picture, side)
    if size == picture.shape[:2]:
        return picture
    resized = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.array(resized, dtype=np.uint8)


def _notes_on_size(picture: RGB, size: tuple[int, int], short: bool) -> list[str]:
    """What a reader should know where the picture was not computed as it is."""
    if picture.shape[:2] == size:
        return []
    reason = " because memory did not suffice for more" if short else ""
    return [
        f"The picture has {picture.shape[1]} × {picture.shape[0]} pixels; it was computed at "
        f"{size[1]} × {size[0]}{reason} and mapped back."
    ]


class Prediction:
    """What a model makes of one picture; pixels are computed when first asked for, then kept.

    Attributes:
        image: (H, W, 3) uint8 RGB, as read.
        size: (H, W) of the picture and of every map.
        compute_size: (H, W) the model saw.
        class_names: K names.
        palette: (K, 3) uint8.
        calibration: per score, its range and thresholds; empty when uncalibrated.
        timings: stage to milliseconds: ``decode``, ``resize``, ``model`` (within it ``backbone``,
            ``pixel_decoder``, ``transformer_decoder``), ``postprocess``; the last grows as maps are
            asked for.
        notes: what a reader of the result should know.
        source: where the weights came from; may be empty.
        num_parameters: of the model.
        refine: whether anomaly scores are refined unless ``anomaly`` is told otherwise.
        settings: what the predictor ran with.
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
        refine: bool = False,
        settings: InferenceSettings = NATIVE,
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
        self.settings = settings
        self.source = source
        self.num_parameters = num_parameters
        self._views = views
        self._geometry = Geometry(compute_size, self.size)
        self._class_scores: NDArray[np.float32] | None = None
        self._semantic: NDArray[np.uint8] | None = None
        self._anomaly: dict[tuple[str, bool], NDArray[np.float32]] = {}
        self._smoothed: dict[str, NDArray[np.float32]] = {}

    @property
    def views(self) -> tuple[View, ...]:
        """The queries of every look at the picture, the largest first: sizes, and flips of each."""
        return tuple(self._views)

    @property
    def geometry(self) -> Geometry:
        """``compute_size`` and ``size``, between which ``postprocess`` maps."""
        return self._geometry

    @functools.cached_property
    def pred_logits(self) -> NDArray[np.float32]:
        """(Q, K+1), the raw queries of the largest size."""
        return _numpy(self._views[0].pred_logits)

    @functools.cached_property
    def pred_masks(self) -> NDArray[np.float32]:
        """(Q, h, w) logits at a quarter of the padded ``compute_size``."""
        return _numpy(self._views[0].pred_masks)

    @property
    def class_scores(self) -> NDArray[np.float32]:
        """(K, H, W): sum over queries of softmax(class) times sigmoid(mask)."""
        if self._class_scores is None:
            with self._timed():
                self._class_scores = postprocess.class_scores(self._views, self._geometry)
        return self._class_scores

    @property
    def semantic(self) -> NDArray[np.uint8]:
        """(H, W): the class with the largest score."""
        if self._semantic is None:
            self._reduce((), refine=False)
        assert self._semantic is not None
        return self._semantic

    def anomaly(
        self, score: str | None = None, *, refine: bool | None = None
    ) -> NDArray[np.float32]:
        """How little the known classes explain each pixel.

        Args:
            score: one of ``mask2kan.inference.scores.SCORES``; None for the settings'.
            refine: apply Mask2Anomaly's refinement; None for the predictor's setting.

        Returns:
            (H, W), higher = more anomalous; the published value, neither clipped nor rescaled.

        Raises:
            ConfigError: for an unknown score, or a label set that cannot be refined.
        """
        score = score or self.settings.score
        scores.check_score(score)
        refine = self.refine if refine is None else refine
        if (score, refine) not in self._anomaly:
            self._reduce((score,), refine=refine)
        return self._anomaly[score, refine]

    def anomaly_map(self, score: str | None = None) -> NDArray[np.float32]:
        """``anomaly``, smoothed as the settings say: what thresholds and regions are read off.

        Args:
            score: one of ``mask2kan.inference.scores.SCORES``; None for the settings'.

        Returns:
            (H, W); ``anomaly(score)`` itself where nothing is smoothed.

        Raises:
            ConfigError: as ``anomaly``.
        """
        score = score or self.settings.score
        plain = self.anomaly(score)
        if not self.settings.sigma:
            return plain
        if score not in self._smoothed:
            with self._timed():
                sigma = self.settings.sigma * max(self.size)
                self._smoothed[score] = scores.smoothed(plain, sigma)
        return self._smoothed[score]

    def smallest_region(self, least: int = 0) -> int:
        """Pixels of the smallest region to report: the settings', at least ``least``."""
        return self.settings.smallest_pixels(*self.size, least)

    def prepare(self, scores: tuple[str, ...], *, refine: bool | None = None) -> None:
        """Compute several anomaly scores and the semantic map in one pass over the masks."""
        refine = self.refine if refine is None else refine
        missing = tuple(score for score in scores if (score, refine) not in self._anomaly)
        if missing or self._semantic is None:
            self._reduce(missing, refine=refine)

    def score_range(self, score: str) -> tuple[float, float, bool]:
        """Low and high of the range pictures of the score use, and whether it was measured."""
        return scores.score_range(self.calibration, score, len(self.class_names))

    def default_threshold(self, score: str) -> tuple[float, str]:
        """The threshold from which a pixel counts as anomalous, and where it comes from."""
        return scores.default_threshold(self.calibration, score, len(self.class_names))

    def _reduce(self, scores: tuple[str, ...], *, refine: bool) -> None:
        names = self.class_names if refine else None
        with self._timed():
            pixels = postprocess.reduce_pixels(self._views, self._geometry, scores, names)
        self._semantic = pixels.semantic
        for score, values in pixels.anomaly.items():
            self._anomaly[score, refine] = values

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        with torch.inference_mode():
            yield
        spent = 1000 * (time.perf_counter() - start)
        self.timings["postprocess"] = self.timings.get("postprocess", 0.0) + spent


def _numpy(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array


class _Clock:
    """Milliseconds per stage; a stage entered twice adds up.

    On a card the model's stages lie between marks that the card itself sets, so that measuring them
    waits for nothing; they are read at the end.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: dict[str, float] = {}
        self._marks: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Work of the processor."""
        start = time.perf_counter()
        yield
        self._add(name, 1000 * (time.perf_counter() - start))

    @contextlib.contextmanager
    def model(self, model: nn.Module) -> Iterator[None]:
        """Time the model as a whole."""
        start = self._mark()
        yield
        self._marks.append(("model", start, self._mark()))

    @contextlib.contextmanager
    def model_stages(self, model: nn.Module) -> Iterator[None]:
        """Time the model and, where it has them, its three parts; by hooks, removed afterwards."""
        owner, starts = threading.get_ident(), {}
        handles = []

        def start(name: str) -> None:
            if threading.get_ident() == owner:
                starts[name] = self._mark()

        def stop(name: str) -> None:
            if threading.get_ident() == owner and name in starts:
                self._marks.append((name, starts.pop(name), self._mark()))

        for name in STAGES:
            part = getattr(model, name, None)
            if isinstance(part, nn.Module):
                handles.append(part.register_forward_pre_hook(lambda *_, n=name: start(n)))
                handles.append(part.register_forward_hook(lambda *_, n=name: stop(n)))
        try:
            with self.model(model):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def milliseconds(self) -> dict[str, float]:
        """Stage to milliseconds so far; waits for the card."""
        for name, start, end in self._marks:
            if self._device.type == "cuda":
                end.synchronize()
                self._add(name, start.elapsed_time(end))
            else:
                self._add(name, 1000 * (end - start))
        self._marks.clear()
        return dict(self._spent)

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _add(self, name: str, milliseconds: float) -> None:
        self._spent[name] = self._spent.get(name, 0.0) + milliseconds


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
