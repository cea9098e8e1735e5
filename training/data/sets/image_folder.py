"""A plain folder of images and masks: how to train on data of one's own.

    <root>/classes.txt                          one class per line, in the order of the values
    <root>/{train,val}/images/<name>.{png,jpg,webp}
    <root>/{train,val}/labels/<name>.png        0 … K - 1; 255 void
    <root>/test/…                               the same, if there is one

A line of ``classes.txt`` is a name, or a name and its colour (``name red green blue``, 0 to 255);
either all lines have a colour or none. Images may be of any size. Without ``classes.txt`` the same
folders are read as CamVid.
"""

from __future__ import annotations

from pathlib import Path

from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import palette_for

from ..base import Color, Scan, SegmentationImages, class_labels
from ..faults import Fault
from ..folders import exists

CLASS_LIST = "classes.txt"
# 253 stands for ignored pixels in training, 254 for pasted outliers, 255 for void.
MAX_CLASSES = 253


class ImageFolder(SegmentationImages):
    """One split of a folder of images and masks."""

    title = "Folder of images and labels"
    marks = (CLASS_LIST,)

    def __init__(self, root: str | Path, split: str) -> None:
        self.class_names, self.palette = read_classes(Path(root) / CLASS_LIST)
        super().__init__(root, split)

    @classmethod
    def scan(cls, root: Path, split: str) -> Scan:
        """Scan a folder for a split; ``test`` need not be there."""
        scan = Scan(f"{cls.title} {split} at {root}")
        try:
            count = len(read_classes(root / CLASS_LIST)[0])
        except ConfigError as error:
            scan.faults.append(Fault(root / CLASS_LIST, "class-list", str(error)))
            count = MAX_CLASSES  # the other faults are still worth knowing
        images, labels = scan.index(root / split / "images"), scan.index(root / split / "labels")
        scan.match(images, labels, class_labels(count), expected="labels/{key}.png")
        return scan.finish(root / split)

    @classmethod
    def checked_splits(cls, root: Path) -> tuple[str, ...]:
        """Include ``test`` where it exists."""
        return cls.splits if exists(root / "test") else ("train", "val")


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Read the names and colours of the classes.

    Raises:
        ConfigError: when the file cannot be read or used.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"Cannot read {path}: {reason}; expected one class name per line."
        ) from error
    classes = [_name_and_color(line) for line in lines if line]
    names = tuple(name for name, _ in classes)
    colors = [color for _, color in classes if color is not None]
    repeated = {name for name in names if names.count(name) > 1}
    if not 1 <= len(names) <= MAX_CLASSES or repeated:
        reason = f"repeats {sorted(repeated)[0]!r}" if repeated else f"has {len(names)} names"
        raise ConfigError(f"{path} {reason}; expected 1 to {MAX_CLASSES} names, each once.")
    if colors and (len(colors) < len(names) or max(map(max, colors)) > 255):
        raise ConfigError(
            f"{path} has colours for {len(colors)} of {len(names)} classes, up to "
            f"{max(map(max, colors))}; expected 'name red green blue', 0 to 255, on every line."
        )
    return names, tuple(colors) or palette_for(names)


def _name_and_color(words: list[str]) -> tuple[str, Color | None]:
    if len(words) > 3 and all(word.isdecimal() for word in words[-3:]):
        red, green, blue = map(int, words[-3:])
        return " ".join(words[:-3]), (red, green, blue)
    return " ".join(words), None
