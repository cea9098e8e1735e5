"""Cityscapes at a quarter of its size, with labels that were recovered or predicted.

``Cityscapes256``: the fine set squeezed to 256x256, its training ids recovered from colour maps:

    <root>/{train,val}/images/<number>.webp    256x256; shown at 512x256
    <root>/{train,val}/labels/<number>.png     training ids 0 … 18; 255 unknown

``CityscapesClips``: frames of the video clips, labelled by a strong network:

    <root>/images/<name>.webp                  1024x512
    <root>/labels/<name>.png                   training ids 0 … 18

Void here says nothing (``augmentation.IGNORED``) and is left out of the losses, where Cityscapes'
own void is background of every mask. Gaps of at most 3 pixels are filled from the nearest label.
*Rider* could not be recovered reliably: it is read as "person or rider" and not evaluated.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mask2kan.modeling.classes import CITYSCAPES

from ..augmentation import IGNORED
from ..base import Scan, SegmentationImages, class_labels
from ..reading import VOID, Array
from .camvid import SPLIT_MARKS

GAP = 3  # pixels; void bands up to this wide are filled
SHOWN_SIZE = (512, 256)  # (width, height): the images are 2:1
BONNET = 0.90  # of the height; the network saw a car's bonnet below
_NAMES = tuple(CITYSCAPES)
_PERSON, _RIDER = _NAMES.index("person"), _NAMES.index("rider")


class _RecoveredCityscapes(SegmentationImages):
    class_names = _NAMES
    palette = tuple(CITYSCAPES.values())
    groups = ((_PERSON, _RIDER),)

    @classmethod
    def _scan(cls, folder: Path, split: str) -> Scan:
        scan = Scan(f"{cls.title} {split} at {folder}")
        images, labels = scan.index(folder / "images"), scan.index(folder / "labels")
        scan.match(images, labels, class_labels(len(CITYSCAPES)), expected="labels/{key}.png")
        return scan.finish(folder)


class Cityscapes256(_RecoveredCityscapes):
    """One split of Cityscapes at 256x256."""

    title = "Cityscapes at 256x256"
    folders = ("cityscapes256",)
    marks = SPLIT_MARKS
    splits = ("train", "val")

    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return image and label, 256 x 512."""
        image, label = super().arrays(index)
        label = fill_gaps(label, GAP)
        label = np.where(label == VOID, np.uint8(IGNORED), label)
        label[label == _RIDER] = len(CITYSCAPES)
        wide = cv2.resize(image, SHOWN_SIZE, interpolation=cv2.INTER_LINEAR)
        wide_label = cv2.resize(label, SHOWN_SIZE, interpolation=cv2.INTER_NEAREST_EXACT)
        return wide.astype(np.uint8, copy=False), wide_label.astype(np.uint8, copy=False)

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether it is laid out like CamVid and named so."""
        return "cityscapes" in root.resolve().name and super().recognised(root)

    @classmethod
    def scan(cls, root: Path, split: str) -> Scan:
        """Scan a folder for a split."""
        return cls._scan(root / split, split)


class CityscapesClips(_RecoveredCityscapes):
    """Frames of Cityscapes' clips, for training only."""

    title = "Cityscapes clips"
    folders = ("cityscapes_clips",)
    marks = ("images", "labels")
    splits = ("train",)

    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return image and label, without the car's bonnet."""
        image, label = super().arrays(index)
        label = np.where(label == VOID, np.uint8(IGNORED), label)
        label[int(BONNET * label.shape[0]) :] = IGNORED
        return image, label

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether it holds images and labels and is named so."""
        return "clips" in root.resolve().name and super().recognised(root)

    @classmethod
    def scan(cls, root: Path, split: str) -> Scan:
        """Scan a folder."""
        return cls._scan(root, split)


def fill_gaps(label: Array, width: int) -> Array:
    """Fill bands of void (255) at most ``width`` pixels wide from the nearest label.

    Wider regions of void in the (H, W) label stay, to their full extent.
    """
    void = (label == VOID).astype(np.uint8)
    if not void.any() or void.all():
        return label
    kernel = np.ones((width + 1, width + 1), np.uint8)
    edge = width + 1
    framed = cv2.copyMakeBorder(void, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    # an opening, by hand: OpenCV's own shifts by a pixel where the kernel's side is even
    eroded = cv2.erode(framed, kernel, anchor=(0, 0))
    wide = cv2.dilate(eroded, kernel, anchor=(width, width))
    inside = slice(edge, -edge)
    gaps = (void == 1) & (wide[inside, inside] == 0)
    _, nearest = cv2.distanceTransformWithLabels(
        void, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(int(nearest.max()) + 1, np.uint8)
    of_label[nearest[void == 0]] = label[void == 0]
    return np.asarray(np.where(gaps, of_label[nearest], label), np.uint8)
