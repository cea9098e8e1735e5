"""Data sets and how training reads them.

``open_split`` turns what a user wrote after ``--data`` into a data set; ``training.data.crops`` cuts
a run's augmented crops out of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.errors import ConfigError
from training.data.camvid import CamVid
from training.data.synthetic import SyntheticStreets
from training.data.transforms import Augmentation

__all__ = [
    "Augmentation",
    "CamVid",
    "LabelledPictures",
    "SyntheticStreets",
    "find_data",
    "open_split",
]


class LabelledPictures(Protocol):
    """What every data set here offers besides indexing."""

    names: list[str]
    num_classes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) RGB and its label (H, W), 255 = void, as bytes; do not write."""
        ...


def find_data(name: str | Path) -> Path:
    """A file or folder of data: a path as it is, or below one of the places where data lies.

    The places are ``$MASK2KAN_DATA``, ``data`` in the repository and ``shared/data`` beside it.

    Raises:
        ConfigError: when it is in none of them.
    """
    root = Path(__file__).resolve().parents[2]
    places = [root / "data", root.parent / "shared" / "data"]
    if "MASK2KAN_DATA" in os.environ:
        places.insert(0, Path(os.environ["MASK2KAN_DATA"]))
    for candidate in [Path(name), *(place / name for place in places)]:
        if candidate.exists():
            return candidate
    raise ConfigError(
        f"No data at {name}: it is no path, and not in {', '.join(map(str, places))}. Give its "
        "path, set MASK2KAN_DATA to the folder that holds it, or train on --data synthetic."
    )


def open_split(data: str | Path, split: str) -> LabelledPictures:
    """A split of the data set at a folder, or of the ``synthetic`` twin.

    Args:
        data: see ``find_data``, e.g. ``camvid``; or ``synthetic``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: when there is no data set of the expected layout.
    """
    if str(data) == "synthetic":
        return SyntheticStreets(split)
    return CamVid(find_data(data), split)
