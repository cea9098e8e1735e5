"""Faults of a data set's files: one rule per kind, with a stable name.

Reading an image raises them as ``FaultError``; ``training.data.check`` collects them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mask2kan.errors import ImageError, printable

RULES = {
    "missing-folder": "a folder of the layout is not there",
    "no-permission": "a file or folder may not be read",
    "symlink-loop": "a link leads back to itself or to a folder above it",
    "broken-link": "a link leads nowhere, or a file went away",
    "unreadable": "the system cannot read a file or folder",
    "not-a-file": "a pipe, socket, device or folder stands where a file should",
    "too-large": "a file is larger than any image",
    "empty-split": "a split holds no image with a label",
    "class-list": "the list of classes cannot be used",
    "missing-label": "an image has no label",
    "missing-image": "a label has no image",
    "duplicate-name": "two images claim the same label",
    "case-clash": "two names differ in case alone, which other systems take for one",
    "empty-file": "a file has no bytes",
    "not-an-image": "a file is text, HTML or anything else than an image",
    "damaged-image": "an image is cut off or damaged",
    "damaged-label": "a label is cut off or damaged",
    "damaged-overlay": "an overlay (Fishyscapes Static) cannot be used",
    "label-format": "a label is no PNG, BMP or TIFF: JPEG and WebP change its values",
    "label-rgb": "a label holds colours, not class numbers",
    "label-mode": "a label holds neither 8-bit grey nor palette numbers",
    "label-range": "a label holds values that stand for nothing",
    "size-mismatch": "image and label differ in size",
    "no-class": "every label of a split is void everywhere: nothing can be learned or measured",
    "no-anomaly": "no image of an anomaly data set shows an anomaly",
    "split-overlap": "the same image, byte for byte, is in two splits",
}
NOTES = {
    "other-file": "a file that is no part of the layout; it is ignored",
    "unlabelled": "an image whose label is not published; it is left out",
    "all-void": "a label that is void everywhere; nothing in it counts",
    "not-counted": "an image that the benchmark leaves out; it is left out",
    "unnamed-classes": "a folder does not name its classes",
    "binary-masks": "masks hold 0 and 255 alone, which are two classes",
    "absent-class": "a class is in no label",
    "one-class": "all labels show one and the same class",
    "much-void": "much is void",
    "off-by-one": "labels look as if counted from 1",
    "no-anomaly-here": "an image without an anomaly; Mask2Anomaly's evaluation skips these",
}

# Notes of a whole set, which speak for themselves
OF_ALL = ("unnamed-classes", "binary-masks", "absent-class", "one-class", "much-void", "off-by-one")


class Fault(NamedTuple):
    """One thing wrong with a file or folder.

    Attributes:
        rule: a key of ``RULES``, or of ``NOTES`` for what is no fault.
    """

    path: Path
    rule: str
    message: str

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.rule}: {self.message}")


class FaultError(ImageError):
    """An unusable image or label, with one or more faults; the message names the file."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*faults)  # as its arguments, so that it survives pickling
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults))


def note_lines(notes: Iterable[Fault]) -> list[str]:
    """Format notes, those of single files by rule."""
    notes = list(notes)
    lines = [f"note: {note.path}: {note.message}" for note in notes if note.rule in OF_ALL]
    single = [note for note in notes if note.rule not in OF_ALL]
    for rule, count in Counter(note.rule for note in single).items():
        first = next(note.path for note in single if note.rule == rule)
        lines.append(f"note: {rule} ({NOTES[rule]}): {count}, first {first}")
    return [printable(line) for line in lines]
