"""Rendered streets: exact labels, and an object of no class in most of them.

    <root>/images/street_<seed>_<object>.webp     512x256; <object> may be "none"
    <root>/labels/street_<seed>_<object>.png      Cityscapes' training ids; 255 void, the object too
    <root>/anomaly/street_<seed>_<object>.png     0 known, 1 the object, 255 void

Scenes with odd seeds and without an object are for training: unlabelled objects would be taken for
the road they stand on. Scenes with even seeds are only measured on, as class labels (``val``) and
as anomalies (``RenderedAnomalies``, named ``rendered_anomaly``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mask2kan.modeling.classes import CITYSCAPES

from ..augmentation import IGNORED
from ..base import Scan, SegmentationImages, class_labels
from ..folders import any_exists
from ..reading import VOID, Array, LabelReader
from .mask_folders import ZERO_ONE, AnomalySet

FOLDERS = ("rendered/street", "rendered_street")


class RenderedStreets(SegmentationImages):
    """One split of the rendered streets."""

    title = "Rendered streets"
    folders = FOLDERS
    splits = ("train", "val")
    class_names = tuple(CITYSCAPES)
    palette = tuple(CITYSCAPES.values())

    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return image and label; void says nothing."""
        image, label = super().arrays(index)
        return image, np.where(label == VOID, np.uint8(IGNORED), label)

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether it holds the objects' masks, or holds images and is named so."""
        named = "street" in root.resolve().name and any_exists(root, "images")
        return named or _recognised(root)

    @classmethod
    def scan(cls, root: Path, split: str) -> Scan:
        """Scan a folder for a split."""
        reader = class_labels(len(CITYSCAPES))
        chosen = _is_plain if split == "train" else _is_even
        return _scan(cls.title, root, "labels", reader, chosen)


class RenderedAnomalies(AnomalySet):
    """The rendered streets of even seeds, and where their object is."""

    title = "Rendered streets"
    folders = FOLDERS

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether it holds images and the objects' masks."""
        return _recognised(root)

    @classmethod
    def scan(cls, root: Path) -> Scan:
        """Scan a folder."""
        return _scan(cls.title, root, "anomaly", ZERO_ONE, _is_even)


def _recognised(root: Path) -> bool:
    return any_exists(root, "anomaly") and any_exists(root, "images")


def _scan(
    title: str, root: Path, labels: str, reader: LabelReader, chosen: Callable[[str], bool]
) -> Scan:
    scan = Scan(f"{title} at {root}")
    images, masks = (
        {key: path for key, path in scan.index(root / folder).items() if chosen(key)}
        for folder in ("images", labels)
    )
    scan.match(images, masks, reader, expected=f"{labels}/{{key}}.png")
    return scan.finish(root)


def _is_plain(name: str) -> bool:
    """Of an odd seed, and without an object."""
    return not _is_even(name) and name.endswith("_none")


def _is_even(name: str) -> bool:
    """Of ``street_<seed>_<object>``; a name without a seed is measured on."""
    seed = name.split("_")[1] if name.count("_") else ""
    return not (seed.isdigit() and int(seed) % 2 == 1)
