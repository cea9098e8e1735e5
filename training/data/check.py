"""Check a data set: decode every image and label, list every fault.

Notes say what is no fault and yet would surprise: of single files, and of all labels together. A
clean result can be remembered with its notes under ``$MASK2KAN_CACHE``, valid while no file's name,
size or time of change differs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from mask2kan.checks import require_choice
from mask2kan.errors import WriteError
from mask2kan.media.files import atomic_writer, cache_folder

from . import whole_set
from .base import Pair, Scan
from .faults import Fault, FaultError
from .folders import find_data
from .reading import LabelValues, Size, apply_overlay, decode_image, histogram, read_file
from .registry import (
    ANOMALY_SETS,
    SYNTHETIC_SETS,
    classes_instead,
    find_set,
    find_split_data,
    is_anomaly_data,
    recognise_anomalies,
    require_folder,
)
from .sets.mask_folders import AnomalySet
from .unlabelled import PREFIX, UnlabelledImages
from .whole_set import Counts, Examined

VERSION = 2  # of the rules; a change makes every data set be decoded again

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of a check.

    Attributes:
        title: of the data set and splits.
        images: their number, those that lack a label included.
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


class _Recalled(NamedTuple):
    """What an earlier clean result noted."""

    notes: list[Fault]
    remarks: list[str]


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
        data: a name, a folder, ``name=folder`` or ``pictures:folder``; synthetic data has no
            faults.
        splits: checked together; None for all whose labels are published.
        anomaly: a folder holds an anomaly data set; a name implies it and, unless splits are named,
            so do a folder's layout and masks.
        workers: threads; None for one per core.
        progress: show a bar.
        remembered: reuse an earlier clean result for the same files.

    Raises:
        ConfigError: for an unknown data set, split or layout.
    """
    if str(data).startswith(PREFIX):
        root = str(data).removeprefix(PREFIX)
        return _inspect_unlabelled(root, workers, progress=progress, remembered=remembered)
    name = str(data).partition("=")[0]
    guessed = not anomaly and splits is None and is_anomaly_data(data)
    anomaly = anomaly or guessed
    if str(data) in SYNTHETIC_SETS or name == "synthetic_anomaly":
        return Report(f"{data}, which needs no files", 0, [], [])
    names: tuple[str, ...] = ()
    either = []
    if anomaly:
        scans = [_scan_anomalies(str(data))]
        title = scans[0].title
        if guessed and classes_instead(data):
            either = [f"taken for anomalies; folder={data} takes its masks for classes"]
    else:
        scans, names, title = _scan_splits(data, splits)
    faults = [*dict.fromkeys(fault for scan in scans for fault in scan.faults)]
    notes = [*dict.fromkeys(note for scan in scans for note in scan.notes)]
    count = sum(scan.images for scan in scans)
    memory = None if faults else _memory(scans, (str(anomaly), *names))
    if remembered and memory is not None and (recalled := _recall(memory)) is not None:
        notes = sorted([*notes, *recalled.notes])
        return Report(title, count, [], notes, recalled=True, remarks=[*recalled.remarks, *either])
    results = _examine_all(scans, workers, progress=progress)
    faults += [fault for of_scan in results for result in of_scan for fault in result.faults]
    faults += whole_set.overlaps(scans, results)
    decoded = whole_set.all_void(scans, results)
    remarks: list[str] = []
    if anomaly:
        faults += whole_set.without_anomaly(scans[0], results[0], decoded)
        remarks = [*scans[0].remarks, *whole_set.shares(results[0])]
    else:
        faults += whole_set.without_class(scans, results)
        decoded += whole_set.notes_of_all(scans, results, names)
    if not faults and memory is not None:
        _remember(memory, title, decoded, remarks)
    remarks += either
    return Report(title, count, sorted(faults), sorted([*notes, *decoded]), remarks=remarks)


def _inspect_unlabelled(
    root: str, workers: int | None, *, progress: bool, remembered: bool
) -> Report:
    """Decode a folder of images without labels."""
    paths = [path for split in ("train", "val") for path in UnlabelledImages(root, split).paths]
    title = f"Images without labels at {root}"
    reader = LabelValues({}, "")  # of no label: the image stands for both
    scan = Scan(title, [Pair(path.stem, path, path, reader) for path in sorted(paths)])
    memory = _memory([scan], ("unlabelled",))
    if remembered and memory is not None and _recall(memory) is not None:
        return Report(title, len(paths), [], [], recalled=True)
    examined = _each(_examine_image, scan.pairs, workers, progress=progress)
    faults = [fault for found, _, _ in examined for fault in found]
    if not faults and memory is not None:
        _remember(memory, title)
    return Report(title, len(paths), sorted(faults), [])


def _scan_splits(
    data: str | Path, splits: Sequence[str] | None
) -> tuple[list[Scan], tuple[str, ...], str]:
    """Return the splits, the classes' names and a title that counts the splits' images."""
    images, root = find_split_data(data)
    for split in splits or ():
        require_choice("split", split, images.splits)
    splits = splits or images.checked_splits(root)
    scans = [images.scan(root, split) for split in splits]
    counts = ", ".join(f"{scan.images} {split}" for split, scan in zip(splits, scans, strict=True))
    return scans, images.names_at(root), f"{images.title} at {root}: {counts}"


def _scan_anomalies(data: str) -> Scan:
    require_folder(data)
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
) -> list[list[Examined]]:
    pairs = [pair for scan in scans for pair in scan.pairs]
    results = iter(_each(_examine, pairs, workers, progress=progress))
    return [[next(results) for _ in scan.pairs] for scan in scans]


def _each(
    examine: Callable[[Pair], T], pairs: list[Pair], workers: int | None, *, progress: bool
) -> list[T]:
    """Threads are enough: files, decoders and hashes release the GIL."""
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        examined = pool.map(examine, pairs)
        return [*tqdm(examined, total=len(pairs), unit="image", disable=not progress, leave=False)]


def _examine_image(pair: Pair) -> tuple[list[Fault], bytes | None, Size | None]:
    """Return an image's faults, the digest of its bytes and its size."""
    digest: bytes | None = None
    try:
        content = read_file(pair.image)
        digest = hashlib.sha256(content).digest()
        image = decode_image(pair.image, content)
        apply_overlay(image, pair.overlay)
    except FaultError as error:
        return [*error.faults], digest, None
    return [], digest, (image.shape[0], image.shape[1])


def _examine(pair: Pair) -> Examined:
    faults, digest, size = _examine_image(pair)
    values: Counts | None = None
    classes: Counts | None = None
    try:
        content = read_file(pair.label)
        if isinstance(pair.reader, LabelValues):
            numbers = pair.reader.decode(pair.label, content)
            values = histogram(numbers)
            classes = histogram(pair.reader.translated(pair.label, numbers, size))
        else:
            classes = histogram(pair.reader(pair.label, content, size))
    except FaultError as error:
        faults += error.faults
    return Examined(tuple(faults), digest, values, classes)


def _memory(scans: Iterable[Scan], kind: Sequence[str]) -> Path | None:
    """Path of a clean result, named for all that decides it; None if a file is gone."""
    digest = hashlib.sha256(f"{VERSION} {json.dumps(kind)}".encode())
    for scan in scans:
        digest.update(os.fsencode(scan.title))  # with the folder's name, of any bytes
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
    return cache_folder() / "data" / f"{digest.hexdigest()[:32]}.json"


def _remember(
    memory: Path, title: str, notes: Iterable[Fault] = (), remarks: Sequence[str] = ()
) -> None:
    listed = [[str(note.path), note.rule, note.message] for note in notes]
    content = {"clean": title, "notes": listed, "remarks": [*remarks]}
    try:
        with atomic_writer(memory) as file:
            file.write(json.dumps(content).encode())
    except WriteError as error:
        logger.warning("This check will be repeated the next time: %s", error)


def _recall(memory: Path) -> _Recalled | None:
    """Read what was noted in a clean result; None where there is no result."""
    try:
        content = json.loads(memory.read_bytes())
        notes = [Fault(Path(path), rule, message) for path, rule, message in content["notes"]]
        return _Recalled(notes, [str(remark) for remark in content["remarks"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None
