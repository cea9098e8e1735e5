"""A folder of your own: images, and a mask of the anomalies of each.

    <root>/images/<name>.{png,jpg,jpeg,webp,bmp,tif,tiff}
    <root>/masks/<name>.{png,bmp,tif,tiff}       or labels_masks/, labels/

A mask may be called ``<name>_mask``, ``<name>_label``, ``<name>_labels`` or
``<name>_labels_semantic``, too. It is black and white (1 bit), grey or a palette of numbers; grey
stored as RGB is taken, colours and lossy formats are not. 0 is known, 1 is an anomaly. What 255 is
depends on all masks together: void where one of them holds a 1, else the anomaly. Other values are
refused.

    python -m training.benchmark <checkpoint> --root <root>
    python -m training.calibrate <checkpoint> --data folder_anomaly=<root>

In tables, cards and calibrations the set has the folder's name. Without a name before its path, a
folder is recognised by ``images`` beside ``masks`` or ``labels_masks``. Where it may be one of
classes as well, it is one of anomalies if it has no ``classes.txt`` and most masks hold nothing but
0, 1 and 255; ``folder=<root>`` says otherwise. ``training.evaluate`` measures it as classes, too,
where the checkpoint's are those that ``folder=<root>`` would have.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mask2kan.errors import printable

from ...metrics.pixel import ANOMALY, KNOWN
from ..base import IMAGE_TYPES, Description, Pair, Scan
from ..faults import Fault, FaultError
from ..folders import exists
from ..reading import (
    VOID,
    Array,
    LabelValues,
    histogram,
    image_format,
    load_label,
    load_png,
    read_file,
)
from .mask_folders import SMIYC_MASK, AnomalySet

IMAGES = (*IMAGE_TYPES, ".bmp", ".tif", ".tiff")
MASK_FOLDERS = ("masks", "labels_masks", "labels")
ENDINGS = (SMIYC_MASK, "_labels", "_label", "_mask", "")
WHITE = 255
_EXPECTED = "a black-and-white, grey or palette image (PNG, BMP or TIFF) of 0, 1 and 255"
_ONE_BIT, _NUMBERS = "1", ("L", "P")  # Pillow's modes

# Values in a mask: none of 1 bit, which says nothing of 255; None where it cannot be read.
Values = frozenset[int] | None


@dataclasses.dataclass(frozen=True)
class MaskValues(LabelValues):
    """Reads masks in the formats that people keep them in."""

    def decode(self, path: Path, content: bytes) -> Array:
        """Decode the values (H, W) of a mask; 1 for the white of one of 1 bit."""
        return _decode(path, content)[0]


WHITE_IS_ANOMALY = MaskValues(
    {KNOWN: KNOWN, ANOMALY: ANOMALY, WHITE: ANOMALY},
    "0 (known) and 255 (anomaly), as in the set's other masks",
)
WHITE_IS_VOID = MaskValues(
    {KNOWN: KNOWN, ANOMALY: ANOMALY, WHITE: VOID}, "0 (known), 1 (anomaly) and 255 (void)"
)


class AnomalyFolder(AnomalySet):
    """Images and masks of one's own.

    Raises:
        ConfigError: when images or masks are missing, or a mask holds other values.
    """

    title = "Anomaly folder"
    folders = ()

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        scan, values = _scan(root)
        # A wrong mask is better named before hours of scoring than when its turn comes.
        for pair, own in zip(scan.pairs, values, strict=True):
            if own is None or not own <= {KNOWN, ANOMALY, WHITE}:
                scan.faults += _faults_of(pair)
        super(AnomalySet, self).__init__(scan)
        self._root, self._remarks = root, tuple(scan.remarks)

    def described(self) -> Description:
        """Describe it by its folder's name and what 255 is in its masks."""
        return Description(own_name(self._root), remarks=self._remarks)

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether it holds images beside masks; ``labels`` may be anything's."""
        return exists(root / "images") and any(exists(root / name) for name in MASK_FOLDERS[:2])

    @classmethod
    def scan(cls, root: Path) -> Scan:
        """Scan a folder, and read all masks to know what 255 is."""
        return _scan(root)[0]


def shows_anomalies(root: Path) -> bool:
    """Whether a folder recognised by its layout holds anomalies rather than classes."""
    if exists(root / "classes.txt"):
        return False
    _, values = _scan(root)
    plain = [own for own in values if own is not None and own <= {KNOWN, ANOMALY, WHITE}]
    return 2 * len(plain) >= len(values)


def own_name(root: Path) -> str:
    """Return the folder's name, which stands for the set."""
    return printable(root.resolve().name) or "anomaly folder"


def _scan(root: Path) -> tuple[Scan, list[Values]]:
    """Scan a folder; return also the values in each pair's mask."""
    scan = Scan(f"{own_name(root)}, a folder of images and masks, at {root}")
    there = [name for name in MASK_FOLDERS if exists(root / name)] or [MASK_FOLDERS[0]]
    images = scan.index(root / "images", suffixes=IMAGES)
    labels = scan.index(root / there[0], ENDINGS, suffixes=IMAGES)
    scan.match(images, labels, WHITE_IS_VOID, expected=f"{there[0]}/{{key}}.png")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        values = list(pool.map(_values_of, scan.pairs))
    if scan.pairs:
        reader, remark = _meaning_of_white(values)
        scan.pairs = [pair._replace(reader=reader) for pair in scan.pairs]
        scan.remarks.append(remark)
    if there[1:]:
        scan.remarks.append(f"masks are read from {there[0]}, not from {' or '.join(there[1:])}")
    return scan.finish(root / "images"), values


def _meaning_of_white(per_mask: Sequence[Values]) -> tuple[MaskValues, str]:
    """Choose the reader by the values of all masks, and say why."""
    values = frozenset[int]().union(*(own for own in per_mask if own is not None))
    if WHITE not in values:
        return WHITE_IS_VOID, "1 is the anomaly in its masks: none holds 255"
    if ANOMALY in values:
        remark = "1 is the anomaly and 255 void in its masks, which hold both"
        if not any(own is not None and {ANOMALY, WHITE} <= own for own in per_mask):
            remark += ", though none of them alone: are some in 0 and 255, others in 0 and 1?"
        return WHITE_IS_VOID, remark
    return WHITE_IS_ANOMALY, "255 is the anomaly in its masks: none holds a 1"


def _values_of(pair: Pair) -> Values:
    try:
        status = pair.label.stat()
    except OSError:
        return None  # reading it for good will say why
    return _values_in(pair.label, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)  # a command opens a set several times
def _values_in(path: Path, size: int, changed: int) -> Values:
    try:
        values, mode = _decode(path, read_file(path))
    except FaultError:
        return None
    if mode == _ONE_BIT:
        return frozenset()
    return frozenset(int(value) for value in np.flatnonzero(histogram(values)))


def _faults_of(pair: Pair) -> list[Fault]:
    try:
        pair.reader(pair.label, read_file(pair.label), None)
    except FaultError as error:
        return list(error.faults)
    return []


def _decode(path: Path, content: bytes) -> tuple[Array, str]:
    """Decode the values (H, W) of a mask, and name its mode.

    Raises:
        FaultError: for a damaged file, another format, or colours.
    """
    name = image_format(content)
    if name in ("BMP", "TIFF"):
        image = load_label(path, content, (name,), _EXPECTED)
    else:
        image = load_png(path, content, _EXPECTED)
    if image.mode == _ONE_BIT or image.mode in _NUMBERS:
        return np.array(image, dtype=np.uint8), image.mode
    if image.mode in ("RGB", "RGBA", "LA"):
        colors = np.asarray(image.convert("RGB"))
        if (colors == colors[..., :1]).all():
            return np.ascontiguousarray(colors[..., 0]), "L"
        raise FaultError(Fault(path, "label-rgb", f"holds colours; expected {_EXPECTED}"))
    message = f"stored with Pillow's mode {image.mode}; expected {_EXPECTED}"
    raise FaultError(Fault(path, "label-mode", message))
