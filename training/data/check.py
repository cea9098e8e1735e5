"""Is everything in a data set usable? Every image and label is decoded, every fault listed.

A clean result can be remembered under the cache folder (``$MASK2KAN_CACHE``), so that training
decodes everything once per data set. It is believed while no file's name, size or time of change
differs; a file changed in place with both kept goes unnoticed until it is read.
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
from mask2kan.errors import ConfigError, WriteError
from mask2kan.media.files import atomic_writer
from mask2kan.ops.nvrtc import cache_folder

from ..metrics.pixel import ANOMALY
from .base import Pair, Scan, apply_overlay
from .faults import Fault, FaultError
from .folders import find_data
from .reading import VOID, Size, decode_image, read_file
from .registry import (
    ANOMALY_SETS,
    SYNTHETIC_SETS,
    find_anomaly_sets,
    find_set,
    find_split_data,
)
from .sets.mask_folders import AnomalySet

VERSION = 1  # of the rules; a change makes every data set be decoded again

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        title: of what was looked at.
        images: how many pairs of image and label there are.
        faults: sorted by file.
        notes: sorted by file; worth knowing, no faults.
        recalled: whether an earlier clean result was believed.
    """

    title: str
    images: int
    faults: list[Fault]
    notes: list[Fault]
    recalled: bool = False


@dataclasses.dataclass(frozen=True)
class _Found:
    """What one pair showed; the digest of its image is None where that has no bytes."""

    faults: tuple[Fault, ...]
    digest: bytes | None
    anomalous: bool


def inspect_data(
    data: str | Path,
    splits: Sequence[str] | None = None,
    *,
    anomaly: bool = False,
    workers: int | None = None,
    progress: bool = False,
    remembered: bool = False,
) -> Report:
    """Decode a data set and list what is wrong with it.

    Args:
        data: a name, a folder, or ``name=folder``; synthetic data has no faults.
        splits: to look at together; None for all whose labels are published.
        anomaly: whether a folder holds an anomaly data set; a name says so itself.
        workers: threads; None for one per processor.
        progress: whether to show a bar.
        remembered: whether to believe an earlier clean result for the same files.

    Raises:
        ConfigError: when there is no such data set or split, or its layout is not known.
    """
    name = str(data).partition("=")[0]
    anomaly = anomaly or name in ANOMALY_SETS
    if str(data) in SYNTHETIC_SETS or name == "synthetic_anomaly":
        return Report(f"{data}, which needs no files", 0, [], [])
    scans = [_scan_anomalies(str(data))] if anomaly else _scan_splits(data, splits)
    title = "; ".join(scan.title for scan in scans)
    faults = [fault for scan in scans for fault in scan.faults]
    notes = [fault for scan in scans for fault in scan.notes]
    count = sum(len(scan.pairs) for scan in scans)
    memory = None if faults else _memory(scans, anomaly=anomaly)
    if remembered and memory is not None and memory.is_file():
        return Report(title, count, [], sorted(notes), recalled=True)
    found = _examine_all(scans, workers, progress=progress)
    faults += [fault for one in found for results in one for fault in results.faults]
    faults += _overlaps(scans, found)
    if anomaly:
        faults += _without_anomaly(scans[0], found[0], notes)
    if not faults and memory is not None:
        _remember(memory, title)
    return Report(title, count, sorted(faults), sorted(notes))


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
        found = find_anomaly_sets(data)
        if len(found) != 1:
            what = ", ".join(one for one, _ in found) or "none that is recognised"
            raise ConfigError(
                f"{data} holds these anomaly data sets: {what}; expected one. Write <name>=<folder>"
                f" with one of {', '.join(ANOMALY_SETS)}."
            )
        name, root = found[0]
    images = ANOMALY_SETS[name]
    assert issubclass(images, AnomalySet)
    return images.scan(root)


def _examine_all(
    scans: Iterable[Scan], workers: int | None, *, progress: bool
) -> list[list[_Found]]:
    """Threads are enough: files, decoders and hashes let go of the interpreter."""
    pairs = [pair for scan in scans for pair in scan.pairs]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        results = iter(
            tqdm(
                pool.map(_examine, pairs),
                total=len(pairs),
                unit="image",
                disable=not progress,
                leave=False,
            )
        )
        return [[next(results) for _ in scan.pairs] for scan in scans]


def _examine(pair: Pair) -> _Found:
    faults: list[Fault] = []
    digest: bytes | None = None
    size: Size | None = None
    anomalous = False
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
        anomalous = bool((label == ANOMALY).any())
        if np.all(label == VOID):
            message = "void everywhere; expected at least one pixel that counts"
            faults.append(Fault(pair.label, "all-void", message))
    except FaultError as error:
        faults += error.faults
    return _Found(tuple(faults), digest, anomalous)


def _overlaps(scans: list[Scan], found: list[list[_Found]]) -> list[Fault]:
    """Images that an earlier split holds, byte for byte, under any name."""
    faults: list[Fault] = []
    seen: dict[bytes, Path] = {}
    for scan, results in zip(scans, found, strict=True):
        own: dict[bytes, Path] = {}
        for pair, one in zip(scan.pairs, results, strict=True):
            if one.digest is None:
                continue
            own.setdefault(one.digest, pair.image)
            if one.digest in seen:
                message = f"the same bytes as {seen[one.digest]}; expected an image of its own"
                faults.append(Fault(pair.image, "split-overlap", message))
        seen = own | seen
    return faults


def _without_anomaly(scan: Scan, results: list[_Found], notes: list[Fault]) -> list[Fault]:
    """A note for each image without an anomaly; a fault when that is all of them."""
    without = [
        pair.label
        for pair, one in zip(scan.pairs, results, strict=True)
        if not one.anomalous and not one.faults
    ]
    notes += [Fault(path, "no-anomaly-here", "no anomalous pixel") for path in without]
    if not without or any(one.anomalous for one in results):
        return []
    message = f"no anomalous pixel in {len(without)} labels; expected some in at least one"
    return [Fault(without[0].parent, "no-anomaly", message)]


def _memory(scans: Iterable[Scan], *, anomaly: bool) -> Path | None:
    """Where a clean result is kept, named for all that decides it; None if a file is gone."""
    digest = hashlib.sha256(f"{VERSION} {anomaly}".encode())
    for scan in scans:
        digest.update(scan.title.encode())
        for reader in {id(pair.reader): pair.reader for pair in scan.pairs}.values():
            digest.update(repr(reader).encode())
        for pair in scan.pairs:
            for path in (pair.image, pair.label, pair.overlay):
                if path is None:
                    continue
                try:
                    status = path.stat()
                except OSError:
                    return None
                line = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n"
                digest.update(os.fsencode(line))
    return cache_folder() / "data" / f"{digest.hexdigest()[:32]}.txt"


def _remember(memory: Path, title: str) -> None:
    try:
        with atomic_writer(memory) as file:
            file.write(f"clean: {title}\n".encode())
    except WriteError as error:
        logger.warning("This check will be repeated the next time: %s", error)
