"""Images with labels in files: finding them, naming what is missing, reading them.

A data set's ``scan`` returns pairs of files, to read, and every fault of the layout, for the check.
"""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mask2kan.errors import ConfigError

from .faults import Fault
from .folders import any_exists
from .reading import (
    VOID,
    Array,
    LabelReader,
    LabelValues,
    apply_overlay,
    decode_image,
    folder_fault,
    os_fault,
    read_file,
)

IMAGE_TYPES = (".webp", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
Color = tuple[int, int, int]


class Description(NamedTuple):
    """An anomaly data set in the words of tables and results.

    Attributes:
        title: as papers print it.
        track: of SegmentMeIfYouCan, which sets the smallest components; None for neither.
        counted: how the benchmark counts it, and we; empty without a benchmark.
        size: the benchmark's number of images; None without one.
        remarks: on this copy of it.
    """

    title: str
    track: str | None = None
    counted: str = ""
    size: int | None = None
    remarks: tuple[str, ...] = ()

    def notes(self, measured: int) -> list[str]:
        """Return what a reader of figures of so many images should know."""
        notes = [self.counted] if self.counted else []
        if self.size is not None and measured != self.size:
            notes.append(f"{measured} images, not the {self.size:,} of {self.title}")
        return [*notes, *self.remarks]


class AnomalyImages(Protocol):
    """The interface of every anomaly data set."""

    names: list[str]

    @abc.abstractmethod
    def described(self) -> Description:
        """Describe the set for tables and results."""

    def __len__(self) -> int:
        return len(self.names)

    @abc.abstractmethod
    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return the image (H, W, 3) RGB and its label (H, W): 0 known, 1 anomaly, 255 void."""


def as_tensors(image: Array, label: Array) -> tuple[Tensor, Tensor]:
    """Return (3, H, W) float32 in [0, 1] and (H, W) int64."""
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255.0)
    return pixels, torch.from_numpy(label.astype(np.int64))


class LabelledImages(Protocol):
    """The interface of every data set to train on.

    Attributes:
        groups: classes that label values from ``num_classes`` on may stand for.
    """

    names: list[str]
    num_classes: int
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    groups: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @abc.abstractmethod
    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return the image (H, W, 3) RGB and its label (H, W) as bytes; do not write.

        Label values are those of ``training.data.label_space``.
        """

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return as_tensors(*self.arrays(index))


class Pair(NamedTuple):
    """An image and its label.

    Attributes:
        name: the image's, without folder and ending.
        overlay: differences to add to the image (Fishyscapes Static only).
    """

    name: str
    image: Path
    label: Path
    reader: LabelReader
    overlay: Path | None = None


@dataclasses.dataclass
class Scan:
    """The files of a data set.

    Attributes:
        title: of the data set and split, for messages.
        pairs: sorted by name.
        faults: of the layout, before decoding.
        notes: files ignored.
        remarks: sentences on the set as a whole.
        unlabelled: number of images that lack a label and should have one.
    """

    title: str
    pairs: list[Pair] = dataclasses.field(default_factory=list)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    notes: list[Fault] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    unlabelled: int = 0

    @property
    def images(self) -> int:
        """Number of images, those that lack a label included."""
        return len(self.pairs) + self.unlabelled

    def index(
        self,
        folder: Path,
        endings: Sequence[str] = ("",),
        *,
        nested: bool = False,
        companions: Sequence[str] = (),
        suffixes: Sequence[str] = IMAGE_TYPES,
    ) -> dict[str, Path]:
        """Return a folder's images by key: the file's name without its ending and suffix.

        Args:
            folder: of the images.
            endings: of the stems; the first one present wins.
            nested: they lie one folder deeper; the keys are then ``<folder>/<name>``.
            companions: endings, with suffix, of files to ignore.
            suffixes: of images, in lower case.
        """
        ranked: dict[str, tuple[int, Path]] = {}
        for path in self._files(folder, nested=nested):
            if path.name.endswith(tuple(companions)):
                continue
            ranks = [rank for rank, ending in enumerate(endings) if path.stem.endswith(ending)]
            if not ranks or path.suffix.lower() not in suffixes:
                self.notes.append(Fault(path, "other-file", "ignored"))
                continue
            rank = ranks[0]
            key = path.stem.removesuffix(endings[rank])
            key = f"{path.parent.name}/{key}" if nested else key
            if key in ranked and ranked[key][0] == rank:
                message = f"{ranked[key][1].name} has the same name; expected one of the two"
                self.faults.append(Fault(path, "duplicate-name", message))
            elif key not in ranked or rank < ranked[key][0]:
                ranked[key] = (rank, path)
        lower: dict[str, Path] = {}
        for _, path in ranked.values():
            other = lower.setdefault(str(path.with_suffix("")).lower(), path)
            if other != path:
                message = f"{other.name} differs in case alone; expected names that differ in more"
                self.faults.append(Fault(path, "case-clash", message))
        return {key: path for key, (_, path) in ranked.items()}

    def match(
        self,
        images: Mapping[str, Path],
        labels: Mapping[str, Path],
        reader: LabelReader,
        *,
        expected: str,
        optional: str | None = None,
    ) -> None:
        """Make pairs of equal keys, and faults of the rest unless a whole folder is missing.

        Args:
            images: by key.
            labels: by key.
            reader: of the labels.
            expected: a label's name for messages, with ``{key}`` in it.
            optional: why labels may be missing, which makes notes of such faults.
        """
        if optional is None:
            self.unlabelled += len(images.keys() - labels.keys())
        absent = any(fault.rule == "missing-folder" for fault in self.faults)
        if absent and not (images and labels):
            return  # one fault says it for all files
        for key in sorted(images.keys() | labels.keys()):
            name = key.rpartition("/")[2]
            if key not in labels:
                if optional is None:
                    message = f"no label; expected {expected.format(key=key)}"
                    message += _in_other_case(key, labels) or self._unread(name)
                    self.faults.append(Fault(images[key], "missing-label", message))
                else:
                    self.notes.append(Fault(images[key], "unlabelled", optional))
            elif key not in images:
                message = f"no image of this label; expected one named {name}"
                message += _in_other_case(key, images) or self._unread(name)
                self.faults.append(Fault(labels[key], "missing-image", message))
            else:
                self.pairs.append(Pair(name, images[key], labels[key], reader))

    def _unread(self, name: str = "") -> str:
        """Name a file that may be the one missed, were its type read."""
        for path in (note.path for note in self.notes if note.rule == "other-file"):
            if name in ("", path.stem):
                return f" ({path.name} is ignored: read are {' '.join(IMAGE_TYPES)})"
        return ""

    def finish(self, root: Path) -> Scan:
        """Return itself, with a fault where emptiness has no other reason."""
        if not self.pairs and not self.faults:
            message = f"no image with a label of {self.title}; expected at least one"
            message += self._unread()
            self.faults.append(Fault(root, "empty-split", message))
        return self

    def require_usable(self) -> Scan:
        """Return itself; labels without images do no harm.

        Raises:
            ConfigError: when images or labels are missing.
        """
        blocking = [
            fault for fault in self.faults if not self.pairs or fault.rule != "missing-image"
        ]
        if blocking:
            more = f" ({len(blocking) - 1} more like it)" if len(blocking) > 1 else ""
            raise ConfigError(
                f"{self.title} cannot be used: {blocking[0]}{more}. `python -m training.data "
                "check` lists every fault, `layout` shows what is expected; --data synthetic needs "
                "no files."
            )
        return self

    def _files(self, folder: Path, *, nested: bool) -> list[Path]:
        """A folder's files by name, links that lead nowhere included."""
        try:
            entries = sorted(folder.iterdir())
        except FileNotFoundError:
            message = "no such folder; expected one with files of this data set"
            self.faults.append(Fault(folder, "missing-folder", message))
            return []
        except OSError as error:
            self.faults.append(os_fault(folder, error))
            return []
        files: list[Path] = []
        for path in entries:
            if path.name.startswith("."):
                continue
            if _leads_back(path):
                message = "leads back to itself or a folder above it; expected a file or folder"
                self.faults.append(Fault(path, "symlink-loop", message))
            elif not _is_folder(path):
                files.append(path)
            elif path.suffix.lower() in IMAGE_TYPES:
                self.faults.append(folder_fault(path))
            elif nested:
                files += self._files(path, nested=False)
        return files


def _in_other_case(key: str, paths: Mapping[str, Path]) -> str:
    """Name the file that is not taken for its upper and lower case, if there is one."""
    same = (path.name for other, path in paths.items() if other.lower() == key.lower())
    return next((f" ({name} differs in case)" for name in same), "")


def _leads_back(path: Path) -> bool:
    """Whether a link cannot be followed to an end, or ends at a folder it lies in."""
    if not path.is_symlink():
        return False
    real = os.path.realpath(path)
    return Path(real).is_symlink() or Path(os.path.realpath(path.parent)).is_relative_to(real)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # reading it will say why
        return False


def class_labels(count: int, *, void: Sequence[int] = (VOID,)) -> LabelValues:
    """Read labels that hold the class numbers, 0 to ``count`` - 1, and these values for void."""
    expected = f"0 to {count - 1} and {' or '.join(map(str, void))} (void)"
    return LabelValues({n: n for n in range(count)} | dict.fromkeys(void, VOID), expected)


class PairedImages:
    """Images and labels in files.

    Attributes:
        title: as papers print it.
        folders: names its folder goes by; none where it needs a path.
        marks: paths of which any marks a folder as this data set.

    Raises:
        ConfigError: when images or labels are missing.
    """

    title: ClassVar[str]
    folders: ClassVar[tuple[str, ...]] = ()
    marks: ClassVar[tuple[str, ...]] = ()  # none where ``recognised`` says it otherwise

    def __init__(self, scan: Scan) -> None:
        self.pairs = scan.require_usable().pairs
        self.names = [pair.name for pair in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def arrays(self, index: int) -> tuple[Array, Array]:
        """Return the image (H, W, 3) RGB and its label (H, W), as bytes; do not write.

        Raises:
            FaultError: naming the unusable file.
        """
        pair = self.pairs[index]
        image = apply_overlay(decode_image(pair.image, read_file(pair.image)), pair.overlay)
        size = (image.shape[0], image.shape[1])
        return image, pair.reader(pair.label, read_file(pair.label), size)

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether a folder is laid out like this data set, complete or not."""
        return any_exists(root, *cls.marks)


class SegmentationImages(PairedImages, LabelledImages):
    """One split of a data set; labels of 255 are void.

    Raises:
        ConfigError: for another split, or when images or labels are missing.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def __init__(self, root: str | Path, split: str) -> None:
        if split not in self.splits:
            raise ConfigError(
                f"{self.title} has no split {split!r}; expected one of {', '.join(self.splits)}."
            )
        super().__init__(self.scan(Path(root), split))
        self.num_classes = len(self.class_names)

    @classmethod
    @abc.abstractmethod
    def scan(cls, root: Path, split: str) -> Scan:
        """Scan a folder for a split."""

    @classmethod
    def claims(cls, root: Path) -> bool:
        """Whether a folder given without a name is taken for this data set."""
        return cls.recognised(root)

    @classmethod
    def names_at(cls, root: Path) -> tuple[str, ...]:
        """Return the classes of a folder, none where they cannot be told."""
        return tuple(cls.class_names)

    @classmethod
    def checked_splits(cls, root: Path) -> tuple[str, ...]:
        """Splits to check: those whose labels are published and expected there."""
        return cls.splits
