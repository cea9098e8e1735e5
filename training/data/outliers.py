"""Outlier exposure: unknown objects pasted into training images and marked as such.

Objects are all instances of a COCO image without any road class (Mask2Anomaly; Rai et al., ICCV
2023, after Chan et al., ICCV 2021), cut-outs with an alpha channel, or procedural.

Departs from Mask2Anomaly: the published exclusions are applied to COCO's own annotation file, not
to prepared images; objects may be scaled and their edges blended.

Legend: H W image, h w object.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mask2kan.checks import require, require_choice, require_range
from mask2kan.errors import ConfigError, ImageError, one_line, printable, shown
from mask2kan.media.images import list_images, open_image
from mask2kan.media.limits import MAX_MEGAPIXELS, MAX_SIDE

from . import find_data
from .augmentation import OUTLIER
from .faults import FaultError
from .reading import decode_image, read_file

OPAQUE = 128  # alpha from here on belongs to the object
SHORTEST_SIDE = 480  # of COCO images used
ROAD_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "bus", "truck"),
    *("traffic light", "stop sign"),
)
CUTOUT_TYPES = (".png", ".webp")
CUTOUT_FORMATS = ("PNG", "WEBP")
SMALLEST_SIDE = 4  # pixels; a smaller object is not worth pasting
SMALLEST_OBJECT = 12  # pixels of the longest side of one that stands
CAMERA_HEIGHT = 1.3  # metres above the ground
GROUND_WIDTH = 0.05  # share of a row that must be ground, where the ground is said to end
FOOT_TRIES = 10

Bytes = NDArray[np.uint8]


class CutOut(NamedTuple):
    """An object: (h, w, 3) RGB and its (h, w) alpha, 0 to 255."""

    image: Bytes
    alpha: Bytes


class ObjectSource(Protocol):
    """A source of objects."""

    def draw(self, rng: np.random.Generator) -> CutOut:
        """Draw one object, a function of the generator alone."""
        ...


@dataclasses.dataclass(frozen=True)
class OutlierExposure:
    """Which objects are pasted, and how.

    Attributes:
        source: ``procedural``, ``cutouts:<folder>`` or ``coco:<folder>``; empty for none.
        probability: that an image gets an object.
        scale: range of the longest side as a share of the image's height, drawn log-uniformly;
            (0, 0) keeps the object's own size. Shrunk to fit either way.
        feather: width in pixels over which the edge is blended; 0 for a hard edge.
        ground: classes an object stands on, sized to fit its row; empty to paste anywhere.
        metres: range of a standing object's longest side, drawn log-uniformly, in place of
            ``scale``.
        without: beginnings of the names of cut-outs to leave out.
    """

    source: str = ""
    probability: float = 0.2
    scale: tuple[float, float] = (0.0, 0.0)
    feather: float = 0.0
    ground: tuple[str, ...] = ()
    metres: tuple[float, float] = (0.4, 2.5)
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            ConfigError: naming the field, its value and what is allowed.
        """
        require("outliers.probability", self.probability, 0.0, 1.0)
        if tuple(self.scale) != (0.0, 0.0):  # the object's own size
            require_range("outliers.scale", self.scale, "(0, 0) for the object's own size")
        require("outliers.feather", self.feather, 0.0)
        require_range("outliers.metres", self.metres)

    @property
    def active(self) -> bool:
        """Whether anything is ever pasted."""
        return bool(self.source) and self.probability > 0


class OutlierPaster:
    """Pastes objects as an ``OutlierExposure`` says; the class names tell the ground.

    Raises:
        ConfigError: for a missing or empty source, or an unknown ground.
    """

    def __init__(self, exposure: OutlierExposure, class_names: Sequence[str] = ()) -> None:
        self.exposure = exposure
        self._source = open_source(exposure.source, exposure.without)
        for name in exposure.ground:
            require_choice("class of outliers.ground", name, class_names)
        self._ground = [list(class_names).index(name) for name in exposure.ground]

    def __call__(self, image: Bytes, label: Bytes, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
        """Perhaps paste an object into an image (H, W, 3) RGB with label (H, W).

        Returns:
            Copies, the label 254 on the object, or the very arrays given if nothing was pasted.
        """
        if rng.random() >= self.exposure.probability:
            return image, label
        place_object = self._stand if self._ground else self._anywhere
        placed = place_object(self._source.draw(rng), label, rng)
        if placed is None:
            return image, label
        cut_out, top, left = placed
        height, width = cut_out.alpha.shape
        # what sticks out of the image is cut off
        inside = (
            slice(max(0, -top), min(height, label.shape[0] - top)),
            slice(max(0, -left), min(width, label.shape[1] - left)),
        )
        place = (
            slice(max(0, top), min(label.shape[0], top + height)),
            slice(max(0, left), min(label.shape[1], left + width)),
        )
        opacity = _opacity(cut_out.alpha, self.exposure.feather)[inside]
        out, out_label = image.copy(), label.copy()
        mixed = opacity * cut_out.image[inside] + (1 - opacity) * out[place]
        out[place] = np.rint(mixed).astype(np.uint8)
        out_label[place][cut_out.alpha[inside] >= OPAQUE] = OUTLIER
        return out, out_label

    def _anywhere(
        self, drawn: CutOut, label: Bytes, rng: np.random.Generator
    ) -> tuple[CutOut, int, int] | None:
        tall, wide = drawn.alpha.shape
        low, high = self.exposure.scale
        factor = 1.0
        if high:
            share = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            factor = share * label.shape[0] / max(tall, wide)
        sized = _resized(drawn, min(factor, label.shape[0] / tall, label.shape[1] / wide))
        if sized is None:
            return None
        height, width = sized.alpha.shape
        top = int(rng.integers(label.shape[0] - height + 1))
        left = int(rng.integers(label.shape[1] - width + 1))
        return sized, top, left

    def _stand(
        self, drawn: CutOut, label: Bytes, rng: np.random.Generator
    ) -> tuple[CutOut, int, int] | None:
        """The object and its corner, sized for its place on flat ground.

        A metre takes (row - horizon) / ``CAMERA_HEIGHT`` pixels at a row; the horizon is the
        ground's top.
        """
        ground = np.isin(label, self._ground)
        rows = np.flatnonzero(ground.sum(1) >= GROUND_WIDTH * label.shape[1])
        if not rows.size:
            return None
        feet = np.flatnonzero(ground)
        low, high = np.log(self.exposure.metres)
        for _ in range(FOOT_TRIES):
            row, column = divmod(int(rng.choice(feet)), label.shape[1])
            metres = float(np.exp(rng.uniform(low, high)))
            longest = metres * (row - rows[0]) / CAMERA_HEIGHT
            if longest < SMALLEST_OBJECT:
                continue
            sized = _resized(drawn, longest / max(drawn.alpha.shape))
            if sized is None:
                return None
            height, width = sized.alpha.shape
            return sized, row - height + 1, column - width // 2
        return None


def _resized(cut_out: CutOut, factor: float) -> CutOut | None:
    """The scaled object, or None when too little is left."""
    tall, wide = cut_out.alpha.shape
    size = (max(1, int(wide * factor)), max(1, int(tall * factor)))
    if min(size) < SMALLEST_SIDE:
        return None
    if size == (wide, tall):
        return cut_out
    shrink = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = cv2.resize(cut_out.image, size, interpolation=shrink).astype(np.uint8, copy=False)
    alpha = cv2.resize(cut_out.alpha, size, interpolation=shrink).astype(np.uint8, copy=False)
    return CutOut(image, alpha) if (alpha >= OPAQUE).any() else None


def _opacity(alpha: Bytes, feather: float) -> NDArray[np.float32]:
    """(h, w, 1) in [0, 1], fading outwards over ``feather`` pixels."""
    solid = (alpha >= OPAQUE).astype(np.float32)
    if feather:
        outside = (1 - solid).astype(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, 3)
        solid = np.clip(1 - distance / (feather + 1), 0, 1).astype(np.float32)
    return solid[..., None]


def open_source(source: str, without: Sequence[str] = ()) -> ObjectSource:
    """Open ``OutlierExposure.source``, without cut-outs whose names begin so.

    Raises:
        ConfigError: for an unknown, missing or empty source.
    """
    kind, _, folder = source.partition(":")
    if kind == "procedural" and not folder:
        return ProceduralObjects()
    if kind == "cutouts" and folder:
        return CutOutFolder(find_data(folder), without)
    if kind == "coco" and folder:
        return CocoObjects(find_data(folder))
    raise ConfigError(
        f"Unknown source of outliers {source!r}; expected procedural, cutouts:<folder of images "
        "with alpha> or coco:<folder with annotations and train2017>."
    )


class ProceduralObjects:
    """Blobs with a texture of two colours and a shading: like nothing on a road."""

    def draw(self, rng: np.random.Generator) -> CutOut:
        """One object of 256 pixels."""
        side = 256
        angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        radius = np.ones_like(angle)
        for harmonic in range(1, 6):
            phase = rng.uniform(0, 2 * np.pi)
            radius += rng.uniform(-0.35, 0.35) / harmonic * np.cos(harmonic * angle + phase)
        squash = rng.uniform(0.4, 1.0)
        points = np.stack([np.cos(angle), squash * np.sin(angle)], -1) * radius[:, None]
        points *= (side / 2 - 2) / np.abs(points).max()
        alpha = np.zeros((side, side), np.uint8)
        cv2.fillPoly(alpha, [np.rint(points + side / 2).astype(np.int32)], 255)
        y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
        direction = rng.uniform(0, np.pi)
        along = x * np.cos(direction) + y * np.sin(direction)
        wave = np.sin(2 * np.pi * along * rng.uniform(1, 12) + rng.uniform(0, 6))
        noise = rng.standard_normal((9, 9)).astype(np.float32)
        mix = 0.5 + 0.4 * wave * rng.uniform(0, 1) + 0.3 * cv2.resize(noise, (side, side))
        first, second = rng.uniform(0, 255, (2, 3))
        colour = first + np.clip(mix, 0, 1)[..., None] * (second - first)
        image = np.clip(colour * (1.1 - 0.5 * y[..., None]), 0, 255).astype(np.uint8)
        return _cropped(image, alpha)


class CutOutFolder:
    """A folder of images with an alpha channel, one object each."""

    def __init__(self, folder: Path, without: Sequence[str] = ()) -> None:
        if not folder.is_dir():
            raise ConfigError(f"No cut-outs at {folder}: it is no folder.")
        self._paths = [
            path
            for path in list_images(folder, suffixes=CUTOUT_TYPES, nested=True)
            if not path.name.startswith(tuple(without))
        ]
        if not self._paths:
            raise ConfigError(f"{folder} holds no cut-out ({', '.join(CUTOUT_TYPES)} with alpha).")

    def draw(self, rng: np.random.Generator) -> CutOut:
        """Draw one of the folder's objects.

        Raises:
            ImageError: for a file without an object.
        """
        path = self._paths[int(rng.integers(len(self._paths)))]
        try:
            with open_image(read_file(path), CUTOUT_FORMATS) as (opened, _):
                rgba = np.asarray(opened.convert("RGBA"))
        except FaultError:
            raise
        except Exception as error:  # a damaged file fails in many ways: SyntaxError, struct.error
            raise ImageError(
                f"Can't read the cut-out {path}: {one_line(error)}. Expected a PNG or WebP of "
                f"{MAX_MEGAPIXELS} MP at most."
            ) from error
        alpha = rgba[..., 3]
        if not (alpha >= OPAQUE).any() or (alpha >= OPAQUE).all():
            raise ImageError(
                f"The cut-out {path} has no outline: its alpha is all one. Expected an object on "
                "a transparent ground."
            )
        return _cropped(rgba[..., :3], alpha)


class CocoObjects:
    """COCO images without any road class; all instances of an image are one cut-out.

    Args:
        folder: holds ``annotations/instances_train2017.json`` and ``train2017``.
    """

    def __init__(self, folder: Path) -> None:
        self._images = folder / "train2017"
        annotations = folder / "annotations" / "instances_train2017.json"
        if not annotations.is_file() or not self._images.is_dir():
            raise ConfigError(
                f"No COCO at {folder}: {annotations} and {self._images} were expected."
            )
        try:
            self._names, self._outlines = _usable(json.loads(annotations.read_bytes()))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ConfigError(f"{annotations} is not COCO's instance file ({reason}).") from error
        except RecursionError as error:
            raise ConfigError(
                f"{annotations} is not COCO's instance file: it is nested too deeply."
            ) from error
        if not self._names:
            raise ConfigError(
                f"{annotations} lists no image of {SHORTEST_SIDE} pixels or more without "
                f"{', '.join(ROAD_CLASSES)}."
            )

    def draw(self, rng: np.random.Generator) -> CutOut:
        """Draw all instances of one image.

        Raises:
            ImageError: for a missing or unreadable image.
        """
        index = int(rng.integers(len(self._names)))
        path = self._images / self._names[index]
        image = decode_image(path, read_file(path))
        alpha = np.zeros(image.shape[:2], np.uint8)
        for outline in self._outlines[index]:
            cv2.fillPoly(alpha, [np.rint(outline).astype(np.int32)], 255)
        if not alpha.any():
            raise ImageError(f"{path} has no instance inside the image.")
        return _cropped(image, alpha)


def _usable(content: dict[str, Any]) -> tuple[list[str], list[list[NDArray[np.float32]]]]:
    """File names and outlines of images without road classes, sorted by name."""
    road = {kind["id"] for kind in content["categories"] if kind["name"] in ROAD_CLASSES}
    excluded: set[int] = set()
    outlines: dict[int, list[NDArray[np.float32]]] = {}
    for instance in content["annotations"]:
        number = instance["image_id"]
        if instance["category_id"] in road:
            excluded.add(number)
        elif not instance["iscrowd"]:
            polygons = instance["segmentation"]
            rings = [_ring(polygon) for polygon in polygons]
            outlines.setdefault(number, []).extend(rings)
    usable = sorted(
        (image["file_name"], image["id"])
        for image in content["images"]
        if image["id"] in outlines
        and image["id"] not in excluded
        and min(image["height"], image["width"]) >= SHORTEST_SIDE
    )
    for name, _ in usable:
        if not name or Path(name).name != name or printable(name) != name:
            raise ValueError(f"{shown(name)} is no file name")
    return [name for name, _ in usable], [outlines[number] for _, number in usable]


def _ring(polygon: list[float]) -> NDArray[np.float32]:
    """Return an outline's points (N, 2), x and y."""
    ring = np.asarray(polygon, np.float32).reshape(-1, 2)
    if not (np.abs(ring) <= MAX_SIDE).all():  # filling goes from point to point
        raise ValueError("an outline lies outside of any image")
    return ring


def _cropped(image: Bytes, alpha: Bytes) -> CutOut:
    solid = alpha >= OPAQUE
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return CutOut(image[box], alpha[box])
