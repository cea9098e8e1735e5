"""Run a model on images: resizing, device, dtype and timing around its forward pass.

The arithmetic is Mask2Former's evaluation, without its fixed short side: up to ``max_side`` the
model sees every pixel. Larger images, or ones too large for memory, are computed smaller and mapped
back (see ``Prediction.notes``). Threads may share a model: calls into it take turns.

Legend: H W image size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mask2kan.checks import require, require_choice
from mask2kan.errors import BackendError, ConfigError, NumericsError, OutOfMemoryError
from mask2kan.inference.postprocess import View
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.runners import CompiledRun, GraphRun, PlainRun, Run, Sharing
from mask2kan.media.images import RGB, Decoded, Source, decode_image
from mask2kan.media.web import fetch, is_url
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.modeling.settings import NATIVE, InferenceSettings
from mask2kan.runtime.compilers import require_compiler
from mask2kan.runtime.devices import resolve_device
from mask2kan.runtime.memory import is_out_of_memory, release_memory
from mask2kan.runtime.precision import resolve_dtype

SETTINGS = ("checkpoint", "native")
SMALLEST_MAX_SIDE = 32
# Where memory does not suffice: half the pixels again and again, down to this longer side.
_SHORTAGE_FACTOR = 0.7
_SMALLEST_ATTEMPT = 256

_turns: weakref.WeakKeyDictionary[nn.Module, threading.Lock] = weakref.WeakKeyDictionary()
_turns_guard = threading.Lock()


class Predictor:
    """Run a model on images.

    Attributes:
        model: moved to ``device`` and put in evaluation mode.
        dtype: of autocast; float32 means none.
        settings: the sizes images are computed at, and what is done with scores.
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
        """Prepare a model from ``load_model`` or ``create_model``.

        Args:
            model: to run.
            device: ``auto`` (a GPU where there is one), or any name torch knows.
            dtype: ``auto`` (see ``runtime.precision``), ``float32``, ``bfloat16`` or ``float16``.
            max_side: images with a longer side are computed at this size.
            flip: average with the left-right flipped image; twice the time.
            refine: apply Mask2Anomaly's refinement to anomaly scores by default.
            compile: use ``torch.compile``; pays for many images of one size.
            graphs: replay CUDA graphs; pays for many images of few sizes.
            settings: ``checkpoint``'s own, ``native`` (once, at the image's own size), or others.

        Raises:
            BackendError: for a device this machine does not have, graphs without a GPU, or
                compile without a compiler.
            ConfigError: for a dtype or size that cannot be used, what is no model, or weights that
                are not float32.
        """
        require("max_side", max_side, SMALLEST_MAX_SIDE)
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"Predictor got a {type(model).__name__}; it needs one model, as load_model gives."
            )
        if isinstance(model, Mask2KAN):
            model.require_full_precision()
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
                f"CUDA graphs were asked for on {self.device.type}; they need an NVIDIA GPU. Leave "
                "them out, or use compile."
            )
        if compile:
            require_compiler(self.device)
        plain = CompiledRun(model) if compile else PlainRun(model)
        self.run: Run = GraphRun(plain) if graphs else plain

    def __repr__(self) -> str:
        """Name the model, where and in which dtype it runs."""
        source = getattr(self.model, "source", "") or type(self.model).__name__
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Predictor({source}, {self.device}, {dtype}, {self.settings.in_words()})"

    @overload
    def __call__(
        self, image: Source | Decoded, *, sharing: Sharing | None = None
    ) -> Prediction: ...

    @overload
    def __call__(self, image: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    def __call__(
        self,
        image: Source | Decoded | list[Any] | tuple[Any, ...],
        *,
        sharing: Sharing | None = None,
    ) -> Prediction | list[Prediction]:
        """Segment an image, or each of a list.

        Args:
            image: a path, an http(s) address, the bytes of a file, a PIL image, or (H, W, 3) uint8
                RGB; a list or tuple of these.
            sharing: ``Comparison``'s source of features; None to compute them.

        Raises:
            ImageError: when it cannot be read, or has more than 40 megapixels.
            NumericsError: when the model's output is not finite.
            OutOfMemoryError: when memory does not suffice even for a small version of it.
        """
        if isinstance(image, (list, tuple)):
            return [self(each) for each in image]
        clock = _Clock(self.device)
        with clock.stage("decode"):
            opened = _opened(image)
        pixels = opened.pixels
        computed, views, notes = self._fit(pixels, clock, sharing)
        notes[:0] = opened.notes
        if self.flip:
            notes.append("Averaged with the left-right flipped image.")
        model: Any = self.model
        calibration = getattr(model, "calibration", {})
        if calibration and not self._as_calibrated():
            notes.append(
                "Thresholds and ranges were measured with the checkpoint's own settings; with "
                "these they are only a start."
            )
        return Prediction(
            image=pixels,
            path=opened.path,
            image_notes=opened.notes,
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
            shared=() if sharing is None else sharing.reused,
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

    def _as_calibrated(self) -> bool:
        """Whether the maps are those that the checkpoint's calibration was measured on."""
        own = chosen_settings(self.model, "checkpoint")
        return (self.settings.sides, self.settings.sigma) == (own.sides, own.sigma)

    def _fit(
        self, pixels: RGB, clock: _Clock, sharing: Sharing | None
    ) -> tuple[tuple[int, int], list[View], list[str]]:
        """Compute an image at the settings' sizes, as large as ``max_side`` and memory allow.

        Returns the largest (H, W) it was computed at, its views, and notes on the sizes.
        """
        limit = self.max_side
        short = False
        while True:
            sides = self.settings.sides_of(max(pixels.shape[:2]), limit)
            try:
                views = [
                    view for side in sides for view in self._views(pixels, side, clock, sharing)
                ]
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # After the block above: until its end, the error's traceback keeps tensors alive.
            short = True
            self.run.release()
            release_memory(self.device)
            limit = int(sides[0] * _SHORTAGE_FACTOR)
            if limit < _SMALLEST_ATTEMPT:
                height, width = _size_at(pixels, sides[0])
                raise OutOfMemoryError(
                    f"Not enough memory on {self.device} for a {pixels.shape[1]}×"
                    f"{pixels.shape[0]} image with this model, not even computed at "
                    f"{width}×{height}. Close what else uses it, or try a smaller model."
                )
        size = views[0].computed or (pixels.shape[0], pixels.shape[1])
        if len(sides) == 1:
            return size, views, _notes_on_size(pixels, size, short)
        note = (
            f"Computed at {' + '.join(map(str, sides))} pixels on the longer side and averaged"
            f"{', smaller than set because memory did not suffice' if short else ''}."
        )
        return size, views, [note]

    def _views(self, pixels: RGB, side: int, clock: _Clock, sharing: Sharing | None) -> list[View]:
        """Compute a size; twice with flip averaging."""
        with clock.stage("resize"):
            resized = _resized(pixels, side)
        return [
            self._view(resized, clock, sharing, mirrored=mirrored)
            for mirrored in ((False, True) if self.flip else (False,))
        ]

    def _view(self, pixels: RGB, clock: _Clock, sharing: Sharing | None, *, mirrored: bool) -> View:
        height, width = pixels.shape[:2]
        with _turn(self.model), torch.inference_mode():
            self._place_model()
            autocast = torch.autocast(
                self.device.type, self.dtype, enabled=self.dtype != torch.float32
            )
            with clock.part("model"), autocast:
                images = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None]
                images = images.float() / 255
                if mirrored:
                    images = images.flip(-1)
                if sharing is None:
                    features = self.run.trunk(images, clock.part)
                else:
                    view_key = (height, width, mirrored)
                    features = sharing(self.run, images, view_key, clock.part)
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


def _opened(image: Any) -> Decoded:
    if isinstance(image, Decoded):
        return image
    if is_url(image):
        return dataclasses.replace(decode_image(fetch(image)), path=image)
    return decode_image(image)


def chosen_settings(model: nn.Module, settings: InferenceSettings | str) -> InferenceSettings:
    """Resolve the ``settings`` argument of ``Predictor``; ConfigError for an unknown name."""
    if isinstance(settings, InferenceSettings):
        return settings
    require_choice("settings", settings, SETTINGS)
    own: InferenceSettings | None = getattr(model, "settings", None)
    return own if settings == "checkpoint" and own is not None else NATIVE


def _size_at(pixels: RGB, side: int) -> tuple[int, int]:
    """(H, W) of an image shrunk to a longer side of at most ``side``."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(pixels: RGB, side: int) -> RGB:
    """Shrink an image to a longer side of at most ``side``."""
    size = _size_at(pixels, side)
    if size == pixels.shape[:2]:
        return pixels
    resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.array(resized, dtype=np.uint8)


def _notes_on_size(pixels: RGB, size: tuple[int, int], short: bool) -> list[str]:
    """Say where an image was not computed as it is."""
    if pixels.shape[:2] == size:
        return []
    reason = " because memory did not suffice for more" if short else ""
    return [
        f"The image has {pixels.shape[1]} × {pixels.shape[0]} pixels; it was computed at "
        f"{size[1]} × {size[0]}{reason} and mapped back."
    ]


class _Clock:
    """Add up milliseconds per stage; on a GPU between events of its stream, read at the end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: dict[str, float] = {}
        self._marks: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time work of the CPU."""
        start = time.perf_counter()
        yield
        self._add(name, 1000 * (time.perf_counter() - start))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time work of the device."""
        start = self._mark()
        yield
        self._marks.append((name, start, self._mark()))

    def milliseconds(self) -> dict[str, float]:
        """Return milliseconds per stage so far; waits for the GPU."""
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
    """Let one call into a model at a time: it moves between devices."""
    with _turns_guard:
        lock = _turns.setdefault(model, threading.Lock())
    with lock:
        yield


def _require_finite(name: str, values: Tensor, dtype: torch.dtype) -> None:
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    full = dtype == torch.float32
    remedy = "Check the checkpoint." if full else "Try dtype float32, then the weights."
    raise NumericsError(
        f"The model's {name} has {int((~finite).sum())} non-finite numbers out of "
        f"{values.numel()}; nothing can be read off them. {remedy}"
    )
