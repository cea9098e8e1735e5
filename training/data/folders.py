"""Where data lies when the user does not say, or says only roughly."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mask2kan.errors import ConfigError

VARIABLE = "MASK2KAN_DATA"
_REPOSITORY = Path(__file__).resolve().parents[2]


def data_places() -> list[Path]:
    """The folders data is looked for in.

    ``$MASK2KAN_DATA``, ``data`` in the repository and ``shared/data`` beside it.
    """
    places = [_REPOSITORY / "data", _REPOSITORY.parent / "shared" / "data"]
    if os.environ.get(VARIABLE):
        places.insert(0, Path(os.environ[VARIABLE]))
    return places


def find_data(
    name: str | Path,
    *,
    folders: Sequence[str] = (),
    root: str | Path | None = None,
    recognised: Callable[[Path], bool] | None = None,
) -> Path:
    """A file or folder of data.

    Looked at, in this order: with a root, the root itself and what lies in it; else ``name`` as a
    path, and what lies in ``data_places()``.

    Args:
        name: a path, or a name below one of those places.
        folders: other names it goes by.
        root: what the user named.
        recognised: whether a path that is there is what is looked for; None for any.

    Raises:
        ConfigError: listing every place looked at.
    """
    names = [name, *folders]
    if root is not None:
        tried = [Path(root), *(Path(root) / one for one in names)]
    else:
        tried = [Path(name), *(place / one for place in data_places() for one in names)]
    for path in tried:
        if exists(path) and (recognised is None or recognised(path)):
            return path
    looked = ", ".join(str(path) for path in dict.fromkeys(tried))
    raise ConfigError(
        f"No data at {name}: not found in {looked}. Give the path of its folder, or set "
        f"{VARIABLE} to the folder that holds it."
    )


def exists(path: Path) -> bool:
    """Whether something is there; also False where one may not look."""
    try:
        path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False
    return True


def any_exists(root: Path, *inside: str) -> bool:
    """Whether a folder holds any of these paths."""
    return any(exists(root / one) for one in inside)
