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
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mask2kan.errors import (
    BackendError,
    ConfigError,
    NumericsError,
    OutOfMemoryError,
    unknown,
)
from mask2kan.inference.postprocess import View
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.runners import CompiledRun, GraphRun, PlainRun, Run, Sharing
from mask2kan.media.images import RGB, Source, read_picture
from mask2kan.modeling.settings import NATIVE, InferenceSettings
from mask2kan.runtime.devices import is_out_of_memory, release_memory, resolve_device, resolve_dtype

SETTINGS = ("checkpoint", "native")
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
        plain = CompiledRun(model) if compile else PlainRun(model)
        self.run: Run = GraphRun(plain) if graphs else plain

    def __call__(self, image: Source, *, sharing: Sharing | None = None) -> Prediction:
        """Segment one image.

        Args:
            image: a path, the bytes of a file, a PIL image, or (H, W, 3) uint8 RGB.
            sharing: where ``Comparison`` has features from; None to compute them.

        Raises:
            PictureError: when it cannot be read, or has more than 40 megapixels.
            NumericsError: when the model's output is not finite.
            OutOfMemoryError: when memory does not suffice even for a small version of it.
        """
        clock = _Clock(self.device)
        with clock.stage("decode"):
            picture = read_picture(image)
        computed, views, notes = self._fit(picture, clock, sharing)
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
            views=tuple(views),
            compute_size=computed,
            class_names=tuple(model.class_names),
            palette=np.asarray(model.palette, dtype=np.uint8),
            calibration=calibration,
            spent=clock.milliseconds(),
            notes=tuple(notes),
            refine=self.refine,
            settings=self.settings,
            source=getattr(model, "source", ""),
            shared=() if sharing is None else sharing.taken,
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

    def _as_calibrated(self) -> bool:
        """Whether the maps are those that the checkpoint's calibration was measured on."""
        own = chosen_settings(self.model, "checkpoint")
        return (self.settings.sides, self.settings.sigma) == (own.sides, own.sigma)

    def _fit(
        self, picture: RGB, clock: _Clock, sharing: Sharing | None
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
                views = [
                    view for side in sides for view in self._looks(picture, side, clock, sharing)
                ]
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the block above: until there, the error holds on to what was computed.
            short = True
            self.run.release()
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

    def _looks(self, picture: RGB, side: int, clock: _Clock, sharing: Sharing | None) -> list[View]:
        """The views of one size: one, or two with flip averaging."""
        with clock.stage("resize"):
            resized = _resized(picture, side)
        return [
            self._look(resized, clock, sharing, mirrored=mirrored)
            for mirrored in ((False, True) if self.flip else (False,))
        ]

    def _look(
        self, picture: RGB, clock: _Clock, sharing: Sharing | None, *, mirrored: bool
    ) -> View:
        height, width = picture.shape[:2]
        with _turn(self.model), torch.inference_mode():
            self._place_model()
            autocast = torch.autocast(
                self.device.type, self.dtype, enabled=self.dtype != torch.float32
            )
            with clock.part("model"), autocast:
                images = torch.from_numpy(picture).to(self.device).permute(2, 0, 1)[None]
                images = images.float() / 255
                if mirrored:
                    images = images.flip(-1)
                if sharing is None:
                    features = self.run.trunk(images, clock.part)
                else:
                    look = (height, width, mirrored)
                    features = sharing(self.run, images, look, clock.part)
                with clock.part("transformer_decoder"):
                    output = self.run.decode(features)
            for name in ("pred_logits", "pred_masks"):
                _require_finite(name, output[name][0], self.dtype)
        return View(
            output["pred_logits"][0],
            output["pred_masks"][0],
            mirrored,
            (height, width),
            output["queries"][0],
        )

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
        """Work of the CPU."""
        start = time.perf_counter()
        yield
        self._add(name, 1000 * (time.perf_counter() - start))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Work of the device."""
        start = self._mark()
        yield
        self._marks.append((name, start, self._mark()))

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
    """One call into a model at a time: it moves between devices."""
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
