"""Check a data set: decode every image and label, list every fault.

A clean result can be remembered under ``$MASK2KAN_CACHE``, valid while no file's name, size or time
of change differs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mask2kan.checks import require_choice
from mask2kan.errors import WriteError
from mask2kan.media.files import atomic_writer, cache_folder

from ..metrics.pixel import ANOMALY, KNOWN
from .base import Pair, Scan, apply_overlay
from .faults import Fault, FaultError
from .folders import find_data
from .reading import VOID, Size, decode_image, read_file
from .registry import (
    ANOMALY_SETS,
    SYNTHETIC_SETS,
    find_set,
    find_split_data,
    is_anomaly_data,
    recognise_anomalies,
)
from .sets.mask_folders import AnomalySet

VERSION = 2  # of the rules; a change makes every data set be decoded again

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of a check.

    Attributes:
        title: of the data set and splits.
        images: number of pairs of image and label.
        faults: sorted by file.
        notes: sorted by file; no faults.
        recalled: whether an earlier clean result was reused.
        remarks: sentences on an anomaly set as a whole.
    """

    title: str
    images: int
    faults: list[Fault]
    notes: list[Fault]
    recalled: bool = False
    remarks: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class _Result:
    """Result of one pair; no digest where the image has no bytes.

    ``known``, ``anomalous`` and ``void`` count the pixels of an anomaly set's label.
    """

    faults: tuple[Fault, ...]
    digest: bytes | None
    known: int = 0
    anomalous: int = 0
    void: int = 0


def inspect_data(
    data: str | Path,
    splits: Sequence[str] | None = None,
    *,
    anomaly: bool = False,
    workers: int | None = None,
    progress: bool = False,
    remembered: bool = False,
) -> Report:
    """Decode a data set and list its faults.

    Args:
        data: a name, a folder, or ``name=folder``; synthetic data has no faults.
        splits: checked together; None for all whose labels are published.
        anomaly: a folder holds an anomaly data set; a name implies it, and so does a layout that is
            no other set's.
        workers: threads; None for one per core.
        progress: show a bar.
        remembered: reuse an earlier clean result for the same files.

    Raises:
        ConfigError: for an unknown data set, split or layout.
    """
    name = str(data).partition("=")[0]
    anomaly = anomaly or is_anomaly_data(data)
    if str(data) in SYNTHETIC_SETS or name == "synthetic_anomaly":
        return Report(f"{data}, which needs no files", 0, [], [])
    scans = [_scan_anomalies(str(data))] if anomaly else _scan_splits(data, splits)
    title = "; ".join(scan.title for scan in scans)
    faults = [fault for scan in scans for fault in scan.faults]
    notes = [fault for scan in scans for fault in scan.notes]
    count = sum(len(scan.pairs) for scan in scans)
    memory = None if faults else _memory(scans, anomaly=anomaly)
    if remembered and memory is not None and memory.is_file():
        recalled = memory.read_text(encoding="utf-8").splitlines()[1:]
        return Report(title, count, [], sorted(notes), recalled=True, remarks=recalled)
    results = _examine_all(scans, workers, progress=progress)
    remarks: list[str] = []
    if anomaly:
        results = [_allow_void(scans[0], results[0], notes)]
        remarks = [*scans[0].remarks, *_shares(results[0])]
    faults += [fault for of_scan in results for result in of_scan for fault in result.faults]
    faults += _overlaps(scans, results)
    if anomaly:
        faults += _without_anomaly(scans[0], results[0], notes)
    if not faults and memory is not None:
        _remember(memory, title, remarks)
    return Report(title, count, sorted(faults), sorted(notes), remarks=remarks)


def _scan_splits(data: str | Path, splits: Sequence[str] | None) -> list[Scan]:
    images, root = find_split_data(data)
    for split in splits or ():
        require_choice("split", split, images.splits)
    return [images.scan(root, split) for split in splits or images.checked_splits(root)]


def _scan_anomalies(data: str) -> Scan:
    name, given, path = data.partition("=")
    if name in ANOMALY_SETS:
        root = find_data(path) if given else find_set(name)
    else:
        name, root = recognise_anomalies(data)
    images = ANOMALY_SETS[name]
    assert issubclass(images, AnomalySet)
    return images.scan(root)


def _examine_all(
    scans: Iterable[Scan], workers: int | None, *, progress: bool
) -> list[list[_Result]]:
    """Threads are enough: files, decoders and hashes release the GIL."""
    pairs = [pair for scan in scans for pair in scan.pairs]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        examined = pool.map(_examine, pairs)
        bar = tqdm(examined, total=len(pairs), unit="image", disable=not progress, leave=False)
        results = iter(bar)
        return [[next(results) for _ in scan.pairs] for scan in scans]


def _examine(pair: Pair) -> _Result:
    faults: list[Fault] = []
    digest: bytes | None = None
    size: Size | None = None
    counts = (0, 0, 0)
    try:
        content = read_file(pair.image)
        digest = hashlib.sha256(content).digest()
        image = decode_image(pair.image, content)
        size = (image.shape[0], image.shape[1])
        apply_overlay(image, pair.overlay)
    except FaultError as error:
        faults += error.faults
    try:
        label = pair.reader(pair.label, read_file(pair.label), size)
        known, anomalous, void = (int((label == value).sum()) for value in (KNOWN, ANOMALY, VOID))
        counts = (known, anomalous, void)
        if np.all(label == VOID):
            message = "void everywhere; expected at least one pixel that counts"
            faults.append(Fault(pair.label, "all-void", message))
    except FaultError as error:
        faults += error.faults
    return _Result(tuple(faults), digest, *counts)


def _allow_void(scan: Scan, results: list[_Result], notes: list[Fault]) -> list[_Result]:
    """Make notes of labels that are void everywhere, where the set may have such."""
    if not scan.void_is_note:
        return results
    allowed = []
    for result in results:
        void = [fault for fault in result.faults if fault.rule == "all-void"]
        notes += [Fault(fault.path, "void-everywhere", fault.message) for fault in void]
        others = tuple(fault for fault in result.faults if fault not in void)
        allowed.append(dataclasses.replace(result, faults=others))
    return allowed


def _shares(results: list[_Result]) -> list[str]:
    """Say how much of an anomaly set is anomalous, void, and without an anomaly."""
    known, anomalous, void = (
        sum(getattr(result, kind) for result in results) for kind in ("known", "anomalous", "void")
    )
    counted = known + anomalous
    if not counted + void:
        return []
    read = [result for result in results if result.known + result.anomalous + result.void]
    without = sum(not result.anomalous for result in read)
    return [
        f"{anomalous / max(counted, 1):.2%} of the pixels that count are anomalous, "
        f"{void / (counted + void):.2%} of all are void; {without} of {len(read)} images show no "
        "anomaly"
    ]


def _overlaps(scans: list[Scan], results: list[list[_Result]]) -> list[Fault]:
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


def _without_anomaly(scan: Scan, results: list[_Result], notes: list[Fault]) -> list[Fault]:
    """Note each image without an anomaly; a fault when that is all of them."""
    without = [
        pair.label
        for pair, result in zip(scan.pairs, results, strict=True)
        if not result.anomalous and result.known and not result.faults
    ]
    notes += [Fault(path, "no-anomaly-here", "no anomalous pixel") for path in without]
    if not without or any(result.anomalous for result in results):
        return []
    message = f"no anomalous pixel in {len(without)} labels; expected some in at least one"
    return [Fault(without[0].parent, "no-anomaly", message)]


def _memory(scans: Iterable[Scan], *, anomaly: bool) -> Path | None:
    """Path of a clean result, named for all that decides it; None if a file is gone."""
    digest = hashlib.sha256(f"{VERSION} {anomaly}".encode())
    for scan in scans:
        digest.update(scan.title.encode())
        for reader in {id(pair.reader): pair.reader for pair in scan.pairs}.values():
            digest.update(repr(reader).encode())
        for pair in scan.pairs:
            for path in filter(None, (pair.image, pair.label, pair.overlay)):
                try:
                    status = path.stat()
                except OSError:
                    return None
                line = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n"
                digest.update(os.fsencode(line))
    return cache_folder() / "data" / f"{digest.hexdigest()[:32]}.txt"


def _remember(memory: Path, title: str, remarks: Sequence[str]) -> None:
    try:
        with atomic_writer(memory) as file:
            file.write("\n".join([f"clean: {title}", *remarks, ""]).encode())
    except WriteError as error:
        logger.warning("This check will be repeated the next time: %s", error)
