"""Augmentation of an image and its label map: scale, crop, flip, colour.

The crop is cut out before it is resized, so it costs a few milliseconds whatever the scale.

Departs from Mask2Former: besides its rule that no class fills more than 75 % of a crop, some crops
contain a pixel of a random class, so that small classes (under 2 % of CamVid) are seen more often.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mask2kan.checks import require, require_choice, require_numbers, require_range

VOID = 255
OUTLIER = 254  # in label maps: a pixel of a pasted object, of no class
IGNORED = 253  # in label maps: void that says nothing, left out of every loss
CROP_TRIES = 10
SHORTEST_SIDE = 32  # of a crop
LONGEST_SIDE = 4  # of an image, in crop heights; see ``relative_to``

Image = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training crops are drawn.

    Attributes:
        crop: (height, width).
        scale: lowest and highest factor from image to crop.
        distribution: of the factor: ``log`` or ``linear`` (uniform, as in detectron2).
        relative_to: a factor of 1 means the image's own size (``picture``), the largest image
            that fits into the ``crop`` (detectron2's large-scale jitter), or one as high as the
            crop on its ``short_side``, the longer one at most four times that
            (ResizeShortestEdge).
        max_class_share: of a crop's pixels without void; 1 switches the rule off.
        class_focus: share of the crops around a pixel of a class (or pasted outlier) drawn
            uniformly among those present.
        flip: probability of a left-right flip.
        colour: strength of brightness, contrast and saturation changes, 0 for none.
    """

    crop: tuple[int, int] = (256, 320)
    scale: tuple[float, float] = (0.5, 2.0)
    distribution: Literal["log", "linear"] = "log"
    relative_to: Literal["picture", "crop", "short_side"] = "picture"
    max_class_share: float = 0.75
    class_focus: float = 0.5
    flip: float = 0.5
    colour: float = 0.3

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            ConfigError: naming the field, its value and what is allowed.
        """
        require_numbers("augmentation.crop", self.crop, 2)
        for side in self.crop:
            require("augmentation.crop", side, SHORTEST_SIDE, whole=True)
        require_range("augmentation.scale", self.scale)
        for field in ("max_class_share", "class_focus", "flip", "colour"):
            require(f"augmentation.{field}", getattr(self, field), 0.0, 1.0)
        require_choice("distribution", self.distribution, ("log", "linear"))
        require_choice("relative_to", self.relative_to, ("picture", "crop", "short_side"))

    def __call__(self, image: Image, label: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        """Draw one crop (h, w, 3) and label (h, w) of an RGB image (H, W, 3) and its label (H, W).

        Where the scaled image is smaller than the crop, it is padded with zeros and void (255).
        """
        scale = self._draw_scale(label, rng)
        window = (
            min(label.shape[0], max(1, round(self.crop[0] / scale))),
            min(label.shape[1], max(1, round(self.crop[1] / scale))),
        )
        top, left = self._place(label, window, rng)
        rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
        size = (
            min(self.crop[0], max(1, round(window[0] * scale))),
            min(self.crop[1], max(1, round(window[1] * scale))),
        )
        out, out_label = _resize(image[rows, columns], label[rows, columns], size)
        if rng.random() < self.flip:
            out, out_label = out[:, ::-1], out_label[:, ::-1]
        if self.colour:
            out = _jitter(out, self.colour, rng)
        return _pad(out, out_label, self.crop, rng)

    def _draw_scale(self, label: Image, rng: np.random.Generator) -> float:
        """Factor from image to crop."""
        low, high = self.scale
        if self.distribution == "log":
            factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        else:
            factor = float(rng.uniform(low, high))
        if self.relative_to == "crop":
            factor *= min(self.crop[0] / label.shape[0], self.crop[1] / label.shape[1])
        elif self.relative_to == "short_side":
            longest = LONGEST_SIDE * self.crop[0] / max(label.shape)
            factor = min(factor * self.crop[0] / min(label.shape), longest)
        return factor

    def _place(
        self, label: Image, window: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int]:
        """Top left corner of the window."""
        room = (label.shape[0] - window[0], label.shape[1] - window[1])
        if rng.random() < self.class_focus:
            present = np.bincount(label.ravel(), minlength=VOID + 1)[:VOID]
            present[IGNORED] = 0
            classes = np.flatnonzero(present)
            if len(classes):
                pixels = np.flatnonzero(label == rng.choice(classes))
                row, column = divmod(int(rng.choice(pixels)), label.shape[1])
                top = row - int(rng.integers(window[0]))
                left = column - int(rng.integers(window[1]))
                return min(max(top, 0), room[0]), min(max(left, 0), room[1])
        for _ in range(CROP_TRIES):
            top, left = int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
            counts = np.bincount(
                label[top : top + window[0] : 4, left : left + window[1] : 4].ravel(),
                minlength=VOID + 1,
            )[:IGNORED]
            if counts.max() <= self.max_class_share * max(1, counts.sum()):
                break
        return top, left


def _resize(image: Image, label: Image, size: tuple[int, int]) -> tuple[Image, Image]:
    if image.shape[:2] == size:
        return image, label
    smaller = size[0] < image.shape[0]
    target = (size[1], size[0])
    out = cv2.resize(image, target, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    nearest = cv2.resize(label, target, interpolation=cv2.INTER_NEAREST_EXACT)
    return out.astype(np.uint8, copy=False), nearest.astype(np.uint8, copy=False)


def _pad(
    image: Image, label: Image, crop: tuple[int, int], rng: np.random.Generator
) -> tuple[Image, Image]:
    height, width = label.shape
    if (height, width) == crop:
        return image, label
    top = int(rng.integers(crop[0] - height + 1))
    left = int(rng.integers(crop[1] - width + 1))
    out = np.zeros((*crop, 3), np.uint8)
    out_label = np.full(crop, VOID, np.uint8)
    out[top : top + height, left : left + width] = image
    out_label[top : top + height, left : left + width] = label
    return out, out_label


def _jitter(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Contrast, brightness and a tint per channel in one table, then saturation."""
    contrast, saturation = 1.0 + rng.uniform(-strength, strength, 2)
    gain = contrast * (1.0 + rng.uniform(-strength, strength, 3) / 4.0)
    brightness = 255.0 * rng.uniform(-strength, strength) / 2.0
    levels = np.arange(256.0)[:, None]
    table = (levels - 128.0) * gain + 128.0 + brightness
    bounded = np.clip(table, 0, 255).astype(np.uint8)
    out = cv2.LUT(np.ascontiguousarray(image), bounded[None])
    grey = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed = cv2.addWeighted(out, saturation, grey, 1.0 - saturation, 0.0)
    return mixed.astype(np.uint8, copy=False)
