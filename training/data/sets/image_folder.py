"""A plain folder of images and masks: how to train on data of one's own.

    <root>/{train,val}/images/<name>.{jpg,png,webp,bmp,tif}
    <root>/{train,val}/masks/<name>.{png,bmp,tif}     0 … K - 1; 255 void
    <root>/test/…                                     the same, if there is one
    <root>/classes.txt                                one class per line, in the order of the values

``labels`` may stand for ``masks``. ``<root>/images`` and ``<root>/masks`` alone are split: every
tenth image, by name, is for validation. Images may be of any size.

A line of ``classes.txt`` is a name, or a name and its colour (``name red green blue``, 0 to 255);
either all lines have a colour or none. Numbers that count the lines from 0 may stand before all
names. Without the file, the largest value of all masks tells how
many classes there are: two are ``background`` and ``foreground``, others ``class_0`` and so on.
Masks that hold 0 and 255 alone are of two classes, and 255 is the second.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mask2kan.errors import ConfigError
from mask2kan.media.images import list_images
from mask2kan.modeling.classes import palette_for

from ..base import IMAGE_TYPES, Color, Scan, SegmentationImages, class_labels
from ..faults import Fault, FaultError
from ..folders import any_exists, exists
from ..reading import VOID, LabelReader, LabelValues, decode_label, read_file, read_list

CLASS_LIST = "classes.txt"
LABEL_FOLDERS = ("labels", "masks")
USUAL_LABELS = "masks"  # asked for where none of them is there
# 253 stands for ignored pixels in training, 254 for pasted outliers, 255 for void.
MAX_CLASSES = 253
EVERY = 10  # one in so many images of a folder without splits is for validation
BINARY = ("background", "foreground")
BINARY_VALUES = frozenset({0, VOID})
BINARY_LABELS = LabelValues({0: 0, VOID: 1}, "0 and 255, as in all other masks")
BATCH = 16  # masks read before it is asked whether more are needed
SHOWN = 10  # values listed in a message
_NUMBERED = re.compile(r"(\d+)(?:\s*[:.,;=]\s*|\s+)(\S.*)")  # a line of a number and a name
SPARSE = 32  # from this value on, numbers with large gaps are taken for grey levels


@dataclasses.dataclass(frozen=True)
class FolderClasses:
    """The classes of a folder.

    Attributes:
        names: none where no mask could be read.
        reader: of the masks.
        notes: what was concluded without having been told.
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...]
    reader: LabelReader
    notes: tuple[Fault, ...] = ()


class ImageFolder(SegmentationImages):
    """One split of a folder of images and masks."""

    title = "Folder of images and masks"
    marks = (CLASS_LIST, "masks", *(f"{split}/masks" for split in SegmentationImages.splits))

    def __init__(self, root: str | Path, split: str) -> None:
        root = Path(root)
        if not any_exists(root, "images", *self.splits):
            raise ConfigError(
                f"{root} holds no folder 'images', 'train' or 'val'; expected images and masks as "
                "`python -m training.data layout folder` shows."
            )
        classes = classes_of(root)
        self.class_names, self.palette = classes.names, classes.palette
        super().__init__(root, split)
        if not self.class_names:
            raise ConfigError(
                f"No mask of {root} says what the classes are; expected values 0 to K - 1. `python "
                f"-m training.data check {root}` lists what is wrong with every one."
            )

    @classmethod
    def plain(cls, root: Path) -> bool:
        """Whether a folder that is no known data set can be read as this one."""
        folders = [f"{base}{name}" for base in ("", "train/", "val/") for name in LABEL_FOLDERS]
        return any_exists(root, "images", "train/images", "val/images") and any_exists(
            root, *folders
        )

    @classmethod
    def names_at(cls, root: Path) -> tuple[str, ...]:
        """Return the folder's classes."""
        try:
            return classes_of(root).names
        except ConfigError:  # which the scan tells
            return ()

    @classmethod
    def scan(cls, root: Path, split: str) -> Scan:
        """Scan a folder for a split; ``test`` need not be there."""
        scan = Scan(f"{cls.title} {split} at {root}")
        reader: LabelReader = class_labels(MAX_CLASSES)  # the other faults are still worth knowing
        try:
            classes = classes_of(root)
            scan.notes += classes.notes
            reader = classes.reader
        except ConfigError as error:
            scan.faults.append(Fault(root / CLASS_LIST, "class-list", str(error)))
        image_folder, label_folder = _folders(root, split)
        images, labels = scan.index(image_folder), scan.index(label_folder)
        if image_folder.parent == root:
            validation = {key for place, key in enumerate(sorted(images)) if place % EVERY == 0}
            images, labels = (
                {
                    key: path
                    for key, path in files.items()
                    if (key in validation) == (split == "val")
                }
                for files in (images, labels)
            )
        scan.match(images, labels, reader, expected=f"{label_folder.name}/{{key}}.png")
        return scan.finish(image_folder.parent)

    @classmethod
    def checked_splits(cls, root: Path) -> tuple[str, ...]:
        """Include ``test`` where it exists."""
        return cls.splits if exists(root / "test") else ("train", "val")


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Return a split's folders of images and of masks; those of the root where it has no splits."""
    flat = split != "test" and exists(root / "images") and not any_exists(root, "train", "val")
    base = root if flat else root / split
    there = [base / name for name in LABEL_FOLDERS if exists(base / name)]
    # ``labels`` may hold another tool's text files beside ``masks``
    with_images = [folder for folder in there if _files(folder)]
    return base / "images", next(iter(with_images or there), base / USUAL_LABELS)


def _files(folder: Path) -> list[Path]:
    """A folder's images; none where it cannot be read, which the scan tells."""
    try:
        return list_images(folder, suffixes=IMAGE_TYPES)
    except OSError:
        return []


def classes_of(root: Path) -> FolderClasses:
    """Find out the classes of a folder from its ``classes.txt`` or from all its masks.

    Raises:
        ConfigError: for a list that cannot be used, or masks whose values are no class numbers.
    """
    listed = read_classes(root / CLASS_LIST) if exists(root / CLASS_LIST) else None
    folders = dict.fromkeys(_folders(root, split)[1] for split in ImageFolder.splits)
    files = [(path, path.stat()) for folder in folders for path in _files(folder)]
    stamps = tuple((path, status.st_size, status.st_mtime_ns) for path, status in files)
    # with a list, one mask of other values tells that these are not black and white
    values = _values_of(stamps, BINARY_VALUES if listed else None)
    count = len(BINARY) if listed is None else len(listed[0])
    if values == BINARY_VALUES:
        names, palette = listed or (BINARY, palette_for(BINARY))
        two = count == len(BINARY)
        message = f"hold 0 and 255 alone: 0 is {names[0]}, 255 is "
        if two:
            message += f"{names[1]} and not void"
        else:
            message += f"void; if it is a class, name two in {CLASS_LIST}"
        note = Fault(next(iter(folders)), "binary-masks", message)
        reader = BINARY_LABELS if two else class_labels(count)
        return FolderClasses(names, palette, reader, (note,))
    if listed is not None:
        return FolderClasses(*listed, class_labels(count))
    return _unlisted(root, values - {VOID})


def _unlisted(root: Path, values: frozenset[int]) -> FolderClasses:
    """Number the classes by the values of all masks."""
    count = max(values, default=-1) + 1
    if count > MAX_CLASSES or (count > SPARSE and len(values) < count // 4):
        shown = ", ".join(map(str, sorted(values)[:SHOWN]))
        more = ", …" if len(values) > SHOWN else ""
        raise ConfigError(
            f"The masks of {root} hold {shown}{more}, which look like grey levels; expected "
            f"numbers 0 to K - 1 and 255 (void), or a {CLASS_LIST} that names all {count}. Masks "
            f"of anomalies (folder_anomaly={root}) hold 0 and 1, or 0 and 255."
        )
    numbered = tuple(f"class_{index}" for index in range(count))
    names = BINARY if count == len(BINARY) else numbered
    shown = ", ".join(names[:3]) + (", …" if count > 3 else "")
    message = f"not there, so the masks' values make {count} classes, {shown}; it would name them"
    notes = (Fault(root / CLASS_LIST, "unnamed-classes", message),) if names else ()
    return FolderClasses(names, palette_for(names), class_labels(count or MAX_CLASSES), notes)


@functools.lru_cache(maxsize=16)
def _values_of(
    stamps: tuple[tuple[Path, int, int], ...], within: frozenset[int] | None
) -> frozenset[int]:
    """Collect the values of masks; stop at one with values not ``within`` these.

    ``stamps`` are path, size and time of change, so that a changed file is read again.
    """
    values: set[int] = set()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(stamps), BATCH):
            paths = [path for path, _, _ in stamps[start : start + BATCH]]
            values.update(*pool.map(_values, paths))
            if within is not None and not values <= within:
                break
    return frozenset(values)


def _values(path: Path) -> set[int]:
    try:
        return {int(value) for value in np.unique(decode_label(path, read_file(path)))}
    except FaultError:  # which the check tells
        return set()


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Read the names and colours of the classes.

    Raises:
        ConfigError: when the file cannot be read or used.
    """
    lines = _without_numbers(path, read_list(path, "one class name per line"))
    classes = [_name_and_color(line) for line in lines]
    names = tuple(name for name, _ in classes)
    colors = [color for _, color in classes if color is not None]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if not 1 <= len(names) <= MAX_CLASSES or repeated:
        reason = f"repeats {repeated[0]!r}" if repeated else f"has {len(names)} names"
        raise ConfigError(f"{path} {reason}; expected 1 to {MAX_CLASSES} names, each once.")
    if colors and (len(colors) < len(names) or max(map(max, colors)) > 255):
        raise ConfigError(
            f"{path} has colours for {len(colors)} of {len(names)} classes, up to "
            f"{max(map(max, colors))}; expected 'name red green blue', 0 to 255, on every line."
        )
    return names, tuple(colors) or palette_for(names)


def _without_numbers(path: Path, lines: list[list[str]]) -> list[list[str]]:
    """Drop the numbers that count the lines from 0, where all begin with one."""
    if len(lines) == 1 and "," in " ".join(lines[0]):
        raise ConfigError(f"{path} has one line with commas; expected one class name per line.")
    numbered = [_NUMBERED.fullmatch(" ".join(line)) for line in lines]
    matches = [match for match in numbered if match]
    if not lines or len(matches) < len(lines):
        return lines
    numbers = [int(match[1]) for match in matches]
    if numbers != [*range(len(lines))]:
        shown = ", ".join(map(str, numbers[:SHOWN])) + (", …" if len(numbers) > SHOWN else "")
        raise ConfigError(
            f"{path} begins its lines with {shown}; expected 0, 1, 2 … or names alone: the first "
            "line names value 0 of the masks, the next 1 and so on."
        )
    return [match[2].split() for match in matches]


def _name_and_color(words: list[str]) -> tuple[str, Color | None]:
    if len(words) > 3 and all(word.isdecimal() for word in words[-3:]):
        red, green, blue = map(int, words[-3:])
        return " ".join(words[:-3]), (red, green, blue)
    return " ".join(words), None
