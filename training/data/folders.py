"""Where a data set lies when the user does not say, or says only roughly."""

from __future__ import annotations

import os
from pathlib import Path

from mask2kan.errors import ConfigError

VARIABLE = "MASK2KAN_DATA"
_REPOSITORY = Path(__file__).resolve().parents[2]


def find_data_set(name: str, inside: str, root: str | Path | None = None) -> Path:
    """The folder of a data set.

    Looked at, in this order: ``root`` and ``root/<name>`` when a root is given; else
    ``<name>`` in the folder that the environment variable MASK2KAN_DATA names, in ``data`` and in
    ``../shared/data``, both seen from the repository.

    Args:
        name: the data set's folder name.
        inside: a path that only this data set's folder holds, by which it is recognised.
        root: what the user named.

    Raises:
        ConfigError: listing every place looked at.
    """
    if root is not None:
        places = [Path(root), Path(root) / name]
    else:
        bases = [_REPOSITORY / "data", _REPOSITORY.parent / "shared" / "data"]
        if os.environ.get(VARIABLE):
            bases.insert(0, Path(os.environ[VARIABLE]))
        places = [base / name for base in bases]
    for place in places:
        if (place / inside).exists():
            return place
    looked = ", ".join(str(place) for place in places)
    raise ConfigError(
        f"Data set {name!r} not found: none of {looked} holds {inside}. Pass --root with its "
        f"folder, or set {VARIABLE} to the folder that holds it."
    )
