"""Read handwritten digits: scikit-learn's (1,797 of 8x8 pixels, values 0 to 16), and MNIST.

An idx file: two zero bytes, the type (8 = unsigned byte), the number of dimensions, each dimension
as a big-endian 32-bit number, then the values.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mask2kan.checks import require_choice
from mask2kan.errors import ConfigError

DATA_SETS = ("digits", "mnist")
CLASSES = 10
LEAST_PER_CLASS = 5  # below this a stratified split leaves a part without some class
MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_MNIST_VALIDATION = 1 / 6  # of the 60,000: as many images as the test set has
_UNSIGNED_BYTE = 8


@dataclasses.dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, which are disjoint."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Digits:
    """Labelled images of digits as rows.

    Attributes:
        name: ``digits`` or ``mnist``.
        pixels: (N, P) uint8.
        white: the largest pixel value, 16 or 255.
        labels: (N,) int64 in [0, 10).
        first_test: first row of the official test set; None without one.
    """

    name: str
    pixels: NDArray[np.uint8]
    white: int
    labels: NDArray[np.int64]
    first_test: int | None = None

    def split(self, seed: int) -> Split:
        """Split into training, validation and test rows, each with the classes in equal shares.

        60, 20 and 20 percent; or an official test set, and of the rest a sixth to validate.
        """
        rows = np.arange(self.first_test or len(self.labels))
        if self.first_test is not None:
            train, val = self._part(rows, _MNIST_VALIDATION, seed)
            return Split(train, val, np.arange(self.first_test, len(self.labels)))
        train, rest = self._part(rows, 0.4, seed)
        val, test = self._part(rest, 0.5, seed)
        return Split(train, val, test)

    def _part(
        self, rows: NDArray[np.int64], share: float, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        first, second = train_test_split(
            rows, test_size=share, stratify=self.labels[rows], random_state=seed
        )
        return first, second

    def digest(self) -> str:
        """Hash pixels and labels (SHA-256)."""
        return hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()


def scikit_digits() -> Digits:
    """Load the digits of scikit-learn."""
    pixels, labels = load_digits(return_X_y=True)
    return Digits("digits", pixels.astype(np.uint8), 16, labels.astype(np.int64))


def mnist(root: Path | None) -> Digits:
    """Read MNIST; the 10,000 test images follow the 60,000 training images.

    Args:
        root: folder of the four files of ``MNIST_FILES``, each as it is or with ``.gz``.

    Raises:
        ConfigError: without a folder, or for a file that is missing, damaged or does not fit.
    """
    if root is None:
        raise ConfigError(
            "MNIST is not downloaded; pass --root with the folder that holds "
            f"{', '.join(name for pair in MNIST_FILES.values() for name in pair)} (or .gz)."
        )
    parts = [_mnist_part(root, *names) for names in MNIST_FILES.values()]
    if parts[0][0].shape[1] != parts[1][0].shape[1]:
        raise ConfigError(
            f"The training images in {root} have {parts[0][0].shape[1]} pixels, the test "
            f"images {parts[1][0].shape[1]}; take the four files from one source."
        )
    pixels = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts]).astype(np.int64)
    return Digits("mnist", pixels, 255, labels, first_test=len(parts[0][1]))


def _mnist_part(
    root: Path, images: str, labels: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one part's pixels (N, P) and labels (N,)."""
    pixels = read_idx(_present(root, images), dimensions=3)
    classes = read_idx(_present(root, labels), dimensions=1)
    if len(pixels) != len(classes):
        raise ConfigError(
            f"{root / images} holds {len(pixels)} images, {labels} {len(classes)} labels; "
            "take both from one source."
        )
    if classes.size and classes.max() >= CLASSES:
        raise ConfigError(f"{root / labels} holds the label {classes.max()}; expected 0 to 9.")
    counts = np.bincount(classes, minlength=CLASSES)
    if counts.min() < LEAST_PER_CLASS:
        raise ConfigError(
            f"{root / labels} holds only {counts.min()} images of the digit {counts.argmin()}; "
            f"expected {LEAST_PER_CLASS} or more of each. Take the complete file."
        )
    return pixels.reshape(len(pixels), -1), classes


def _present(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise ConfigError(f"No MNIST in {root}: neither {name} nor {name}.gz is there.")


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, gzipped where its name ends in ``.gz``.

    Raises:
        ConfigError: for a file that cannot be read, or whose kind, length or dimensions are wrong.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"Cannot read {path}: {error} Copy the file again.") from error
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if content[:4] != expected:
        raise ConfigError(
            f"{path} begins with the bytes {content[:4].hex(' ') or '(none)'}; an idx file of "
            f"{dimensions}-dimensional bytes begins with {expected.hex(' ')}. Copy the file again."
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ConfigError(f"{path} is cut short within its header. Copy the file again.")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != math.prod(shape):
        raise ConfigError(
            f"{path} has {len(content) - start:,} bytes of values, but its header says "
            f"{' x '.join(map(str, shape))}; it was cut short or altered. Copy the file again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def load(name: str, root: Path | None = None) -> Digits:
    """Load a data set of ``DATA_SETS``; only MNIST has a folder.

    Raises:
        ConfigError: for an unknown name, a needless folder, or what ``mnist`` refuses.
    """
    require_choice("data set", name, DATA_SETS)
    if name == "mnist":
        return mnist(root)
    if root is not None:
        raise ConfigError(
            f"--root {root} was given, but digits comes with scikit-learn; leave --root out, or "
            "pass --data mnist."
        )
    return scikit_digits()
