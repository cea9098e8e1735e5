"""Faults of a data set's files: one rule per kind, with a stable name.

Reading an image raises them as ``FaultError``; ``training.data.check`` collects them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mask2kan.errors import ImageError

RULES = {
    "missing-folder": "a folder of the layout is not there",
    "no-permission": "a file or folder may not be read",
    "symlink-loop": "a link leads back to itself or to a folder above it",
    "broken-link": "a link leads nowhere, or a file went away",
    "unreadable": "the system cannot read a file or folder",
    "empty-split": "a split holds no image with a label",
    "class-list": "the list of classes cannot be used",
    "missing-label": "an image has no label",
    "missing-image": "a label has no image",
    "duplicate-name": "two images claim the same label",
    "empty-file": "a file has no bytes",
    "not-an-image": "a file is text, HTML or anything else than an image",
    "damaged-image": "an image is cut off or damaged",
    "damaged-label": "a label is cut off or damaged",
    "damaged-overlay": "an overlay (Fishyscapes Static) cannot be used",
    "label-format": "a label is not a PNG: JPEG and WebP change its values",
    "label-rgb": "a label holds colours, not class numbers",
    "label-mode": "a label is a PNG of neither 8-bit grey nor palette numbers",
    "label-range": "a label holds values that stand for nothing",
    "size-mismatch": "image and label differ in size",
    "all-void": "a label is void everywhere: nothing can be learned or measured",
    "no-anomaly": "no image of an anomaly data set shows an anomaly",
    "split-overlap": "the same image, byte for byte, is in two splits",
}
NOTES = {
    "other-file": "a file that is no part of the layout; it is ignored",
    "unlabelled": "an image whose label is not published; it is left out",
    "void-everywhere": "a label that is void everywhere; nothing in it counts",
    "not-counted": "an image that the benchmark leaves out; it is left out",
    "no-anomaly-here": "an image without an anomaly; Mask2Anomaly's evaluation skips these",
}


class Fault(NamedTuple):
    """One thing wrong with a file or folder.

    Attributes:
        rule: a key of ``RULES``, or of ``NOTES`` for what is no fault.
    """

    path: Path
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.rule}: {self.message}"


class FaultError(ImageError):
    """An unusable image or label, with one or more faults; the message names the file."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*faults)  # as its arguments, so that it survives pickling
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults))
