"""What all images and labels of a data set show together: faults, notes and remarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..metrics.pixel import ANOMALY, KNOWN
from .base import Scan
from .faults import Fault
from .reading import VOID, LabelValues

MUCH_VOID = 0.25  # share of all pixels from which on it is noted
NAMED = 8  # classes listed in a note

Counts = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Examined:
    """What decoding one pair gave.

    Attributes:
        faults: of image and label.
        digest: of the image's bytes; None where it has none.
        values: pixels of every value in the file (256,), None where that could not be told.
        classes: pixels of every label (256,), None where it could not be read.
    """

    faults: tuple[Fault, ...]
    digest: bytes | None
    values: Counts | None
    classes: Counts | None

    @property
    def anomalous(self) -> bool:
        """Whether the label shows an anomaly, in an anomaly set."""
        return self.classes is not None and bool(self.classes[ANOMALY])

    @property
    def void(self) -> bool:
        """Whether the label is void everywhere."""
        return self.classes is not None and not self.classes[:VOID].any()


def overlaps(scans: list[Scan], results: list[list[Examined]]) -> list[Fault]:
    """Images whose bytes an earlier split holds."""
    faults: list[Fault] = []
    seen: dict[bytes, Path] = {}
    for scan, of_scan in zip(scans, results, strict=True):
        own: dict[bytes, Path] = {}
        for pair, result in zip(scan.pairs, of_scan, strict=True):
            if result.digest is None:
                continue
            own.setdefault(result.digest, pair.image)
            if result.digest in seen:
                message = f"the same bytes as {seen[result.digest]}; expected an image of its own"
                faults.append(Fault(pair.image, "split-overlap", message))
        seen = own | seen
    return faults


def shares(results: list[Examined]) -> list[str]:
    """Say how much of an anomaly set is anomalous, void, and without an anomaly."""
    read = [result for result in results if result.classes is not None]
    known, anomalous, void = _total(result.classes for result in read)[[KNOWN, ANOMALY, VOID]]
    counted = known + anomalous
    if not counted + void:
        return []
    without = sum(not result.anomalous for result in read)
    return [
        f"{anomalous / max(counted, 1):.2%} of the pixels that count are anomalous, "
        f"{void / (counted + void):.2%} of all are void; {without} of {len(read)} images show no "
        "anomaly"
    ]


def all_void(scans: list[Scan], results: list[list[Examined]]) -> list[Fault]:
    """Note each label that is void everywhere."""
    return [
        Fault(pair.label, "all-void", "void everywhere")
        for scan, of_scan in zip(scans, results, strict=True)
        for pair, result in zip(scan.pairs, of_scan, strict=True)
        if result.void
    ]


def without_class(scans: list[Scan], results: list[list[Examined]]) -> list[Fault]:
    """Find the splits whose labels are all void."""
    faults = []
    for scan, of_scan in zip(scans, results, strict=True):
        readable = [result for result in of_scan if result.classes is not None]
        if readable and all(result.void for result in readable):
            message = f"all {len(readable)} labels are void everywhere; expected some with classes"
            faults.append(Fault(scan.pairs[0].label.parent, "no-class", message))
    return faults


def notes_of_all(
    scans: list[Scan], results: list[list[Examined]], names: tuple[str, ...]
) -> list[Fault]:
    """Note what only all labels together show; the first split is the one to learn from."""
    pairs = [pair for scan in scans for pair in scan.pairs]
    by_split = [_total(result.classes for result in of_scan) for of_scan in results]
    total = np.sum(by_split, 0)
    if not pairs:
        return []
    folder, reader, notes = pairs[0].label.parent, pairs[0].reader, []
    values = _total(result.values for of_scan in results for result in of_scan)
    if isinstance(reader, LabelValues) and reader.plain:
        named = all(note.rule != "unnamed-classes" for scan in scans for note in scan.notes)
        texts = _off_by_one(values, names, reader, named=named)
        notes += [Fault(folder, "off-by-one", text) for text in texts]
    if not total.any():
        return notes
    present = {index for index in range(len(names)) if total[index]}
    learned = {index for index in range(len(names)) if by_split[0][index]}
    absent = [name for index, name in enumerate(names) if index not in present]
    if absent:
        message = f"{len(absent)} of {len(names)} classes are in no label: {_listed(absent)}"
        notes.append(Fault(folder, "absent-class", message))
    unlearned = [names[index] for index in sorted(present - learned)]
    if unlearned and learned:
        message = f"in no label of the first split, so never learnt: {_listed(unlearned)}"
        notes.append(Fault(folder, "absent-class", message))
    if len(present) == 1:
        only = names[present.pop()]
        notes.append(Fault(folder, "one-class", f"all labels show {only} alone"))
    void = total[VOID] / total.sum()
    if void >= MUCH_VOID:
        notes.append(Fault(folder, "much-void", f"void covers {void:.0%} of all pixels"))
    return notes


def _off_by_one(
    values: Counts, names: tuple[str, ...], reader: LabelValues, *, named: bool
) -> list[str]:
    """Say so where the values of all labels fit classes counted from 1, or one class more."""
    present = np.flatnonzero(values[:VOID])
    if not present.size or not names:
        return []
    lowest, highest, count = int(present[0]), int(present[-1]), len(names)
    from_one = lowest == 1 and (highest == count or not named)
    too_many = lowest == 0 and highest == count and count not in reader.meaning
    if not from_one and not too_many:
        return []
    found = f"labels hold {lowest} to {highest}, and the {count} classes are 0 to {count - 1}: "
    if too_many:
        return [
            f"{found}classes.txt may name one too few; or 0 is meant for void, which is 255, and "
            f"the first class, {names[0]}, must be 0"
        ]
    return [
        f"{found}they look one off; the first class, {names[0]}, must be 0, and what is void 255"
    ]


def _total(counts: Iterable[Counts | None]) -> Counts:
    known = [count for count in counts if count is not None]
    return np.asarray(np.sum([np.zeros(VOID + 1, np.int64), *known], 0), np.int64)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def without_anomaly(scan: Scan, results: list[Examined], notes: list[Fault]) -> list[Fault]:
    """Note each image without an anomaly; a fault when that is all of them."""
    without = [
        pair.label
        for pair, result in zip(scan.pairs, results, strict=True)
        if not result.anomalous and not result.faults
    ]
    notes += [Fault(path, "no-anomaly-here", "no anomalous pixel") for path in without]
    if not without or any(result.anomalous for result in results):
        return []
    message = f"no anomalous pixel in {len(without)} labels; expected some in at least one"
    return [Fault(without[0].parent, "no-anomaly", message)]
