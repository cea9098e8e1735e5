"""Classes of CamVid's original 32 that its 11 leave out, as anomalies.

OtherMoving, Child and CartLuggagePram are anomalies on the validation images (0.8 % of the area).
They are not unseen: in training they are void, background of every mask, so a model learns that no
class explains them (maximum softmax inside void of the training images: AUROC .99). Void, Archway
and classes absent from both the validation images and the 11 are void; all others are known.

    <root>/val/images/<name>.{png,webp,jpg}
    <root>/val/labels_32class/<name>.png       RGB, unlike all other labels here
    <root>/val/label_colors_32class.txt        "red green blue name" per line

Images without a 32-class label are left out. The labels (960x720) are resized to the images
(480x360) by nearest neighbour, so that no mixed colours appear.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2kan.errors import ConfigError, shown

from ...metrics.pixel import ANOMALY, KNOWN, VOID
from ..base import Scan
from ..faults import Fault, FaultError
from ..reading import Array, Size, load_png, read_list
from .mask_folders import AnomalySet

HELD_OUT = ("OtherMoving", "Child", "CartLuggagePram")
LEFT_OUT = ("Void", "Archway", "Animal", "Train", "Tunnel", "Bridge")
LABELS, COLORS = "labels_32class", "label_colors_32class.txt"


class CamVidAnomaly(AnomalySet):
    """CamVid's validation images and where the classes it leaves out are."""

    title = "CamVid val"
    folders = ("camvid", "CamVid", "camvid_anomaly")
    marks = (f"val/{LABELS}",)

    @classmethod
    def scan(cls, root: Path) -> Scan:
        """Scan a folder."""
        folder = root / "val"
        scan = Scan(f"{cls.title} with 32 classes at {root}")
        meaning: dict[int, int] = {}
        try:
            meaning = _meaning_of_colors(folder / COLORS)
        except ConfigError as error:
            scan.faults.append(Fault(folder / COLORS, "class-list", str(error)))
        images, labels = scan.index(folder / "images"), scan.index(folder / LABELS)
        reader = LabelColors(meaning)
        scan.match(images, labels, reader, expected="", optional="no 32-class label")
        return scan.finish(folder)


@dataclasses.dataclass(frozen=True)
class LabelColors:
    """A ``LabelReader`` for RGB labels.

    Attributes:
        meaning: colour (``red << 16 | green << 8 | blue``) to 0 known, 1 anomaly or 255 void.
    """

    meaning: Mapping[int, int]

    def __call__(self, path: Path, content: bytes, size: Size | None) -> Array:
        """Return the label, resized to the image."""
        rgb = _decode_rgb(path, content, size)
        channels = rgb.astype(np.int32)
        codes = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
        label = np.full(codes.shape, VOID, np.uint8)
        seen = np.isin(codes, list(self.meaning))
        for code, meaning in self.meaning.items():
            label[codes == code] = meaning
        if not seen.all():
            first = rgb[~seen][0].tolist()
            count = int((~seen).sum())
            message = f"holds the colour {first} in {count} pixels; expected only those of {COLORS}"
            raise FaultError(Fault(path, "label-range", message))
        return label


def _decode_rgb(path: Path, content: bytes, size: Size | None) -> NDArray[np.uint8]:
    """(H, W, 3), at the image's size where that is known."""
    rgb = load_png(path, content, "a PNG of colours").convert("RGB")
    if size is not None:
        if rgb.width * size[0] != rgb.height * size[1]:
            message = (
                f"is {rgb.width}x{rgb.height}; expected the proportions of its image's "
                f"{size[1]}x{size[0]}"
            )
            raise FaultError(Fault(path, "size-mismatch", message))
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(rgb)


def _meaning_of_colors(path: Path) -> dict[int, int]:
    """Colour code to 0 known, 1 anomaly or 255 void."""
    meaning: dict[int, int] = {}
    names = set()
    for words in read_list(path, "'red green blue name' per line"):
        numbers = [int(word) for word in words[:3] if word.isdecimal()]
        if len(words) != 4 or len(numbers) != 3 or max(numbers) > 255:
            line = shown(" ".join(words))
            raise ConfigError(f"{path}: cannot read {line}; expected 'red green blue name'.")
        (red, green, blue), name = numbers, words[3]
        names.add(name)
        value = ANOMALY if name in HELD_OUT else VOID if name in LEFT_OUT else KNOWN
        meaning[red << 16 | green << 8 | blue] = value
    absent = [name for name in HELD_OUT if name not in names]
    if absent:
        raise ConfigError(f"{path} lacks the held-out classes {', '.join(absent)}.")
    return meaning
