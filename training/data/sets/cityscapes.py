"""Cityscapes, fine labels: 2,975 / 500 / 1,525 street images, 2048x1024, 19 classes.

Cordts et al., "The Cityscapes dataset for semantic urban scene understanding". Layout:

    <root>/leftImg8bit/{train,val,test}/<city>/<name>_leftImg8bit.png
    <root>/gtFine/{train,val,test}/<city>/<name>_gtFine_labelIds.png        0 … 33
    <root>/gtFine/{train,val,test}/<city>/<name>_gtFine_instanceIds.png     16 bits, for iIoU
    <root>/gtFine/{train,val,test}/<city>/<name>_gtFine_labelTrainIds.png   0 … 18; 255 void

Label ids become the 19 training ids, or void. Files of training ids (from ``cityscapesscripts``)
are read where label ids are missing. The published labels of ``test`` are placeholders, so
``test`` is checked on request only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import CITYSCAPES

from ...metrics.cityscapes_labels import TRAIN_ID_OF_LABEL_ID
from ..base import Pair, Scan, SegmentationImages, class_labels
from ..faults import Fault, FaultError
from ..folders import any_exists
from ..reading import Array, LabelValues, decode_label, load_png, read_file

IMAGE, IDS, TRAIN_IDS = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"
INSTANCES = "_gtFine_instanceIds"
COMPANIONS = ("_gtFine_color.png", f"{INSTANCES}.png", "_gtFine_instanceTrainIds.png", ".json")
NUM_IDS = 34

LABEL_IDS = LabelValues(
    {value: int(TRAIN_ID_OF_LABEL_ID[value]) for value in range(NUM_IDS)}, "the label ids 0 to 33"
)


class Cityscapes(SegmentationImages):
    """One split of Cityscapes."""

    title = "Cityscapes"
    folders = ("cityscapes", "Cityscapes")
    class_names = tuple(CITYSCAPES)
    palette = tuple(CITYSCAPES.values())

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether its labels are there, or its images and not Lost and Found's labels."""
        return any_exists(root, "gtFine") or (
            any_exists(root, "leftImg8bit") and not any_exists(root, "gtCoarse")
        )

    @classmethod
    def scan(cls, root: Path, split: str) -> Scan:
        """Scan a folder for a split."""
        scan = Scan(f"{cls.title} {split} at {root}")
        images = scan.index(root / "leftImg8bit" / split, (IMAGE,), nested=True)
        labels = scan.index(
            root / "gtFine" / split, (IDS, TRAIN_IDS), nested=True, companions=COMPANIONS
        )
        scan.match(images, labels, LABEL_IDS, expected=f"gtFine/{split}/{{key}}{IDS}.png")
        train_ids = class_labels(len(CITYSCAPES))
        scan.pairs = [
            pair._replace(reader=train_ids) if pair.label.stem.endswith(TRAIN_IDS) else pair
            for pair in scan.pairs
        ]
        return scan.finish(root / "leftImg8bit" / split)

    @classmethod
    def checked_splits(cls, root: Path) -> tuple[str, ...]:
        """Leave out ``test``, which has no true labels."""
        return ("train", "val")

    def label_ids(self, index: int) -> Array:
        """Return the published label ids (H, W), 0 to 33.

        Raises:
            ConfigError: when only training ids are there.
            FaultError: for an unusable file.
        """
        pair = self._with_ids(index)
        return decode_label(pair.label, read_file(pair.label))

    def instance_ids(self, index: int) -> NDArray[np.int32]:
        """Return the ids (H, W): label id, or label id x 1000 + number for single objects.

        Raises:
            ConfigError: when only training ids are there.
            FaultError: for an unusable file.
        """
        label = self._with_ids(index).label
        path = label.with_name(label.name.replace(IDS, INSTANCES))
        ids = np.array(load_png(path, read_file(path), "a 16-bit grey PNG"), dtype=np.int32)
        if ids.ndim != 2:
            message = f"has {ids.shape[2]} channels; expected a 16-bit grey PNG"
            raise FaultError(Fault(path, "label-mode", message))
        return ids

    def _with_ids(self, index: int) -> Pair:
        pair = self.pairs[index]
        if not pair.label.stem.endswith(IDS):
            raise ConfigError(
                f"{pair.label} holds training ids only; the figures over categories and "
                f"instances need {pair.name}{IDS}.png and {pair.name}{INSTANCES}.png beside it."
            )
        return pair
