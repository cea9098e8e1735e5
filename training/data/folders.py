"""Where data lies when the user names no path, or only a rough one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mask2kan.errors import ConfigError

VARIABLE = "MASK2KAN_DATA"
_REPOSITORY = Path(__file__).resolve().parents[2]


def data_places() -> list[Path]:
    """Folders to search: ``$MASK2KAN_DATA``, ``data`` here and, in a checkout, its own.

    Those are ``data`` and ``../shared/data``.
    """
    places = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    places.append(Path("data"))
    if (_REPOSITORY / "pyproject.toml").is_file():
        places += [_REPOSITORY / "data", _REPOSITORY.parent / "shared" / "data"]
    return places


def find_data(
    name: str | Path,
    *,
    folders: Sequence[str] = (),
    root: str | Path | None = None,
    recognised: Callable[[Path], bool] | None = None,
) -> Path:
    """Find a file or folder of data.

    Tries the user's root and its contents; else ``name`` as a path, then in ``data_places()``.

    Args:
        name: a path, or a name below one of those places.
        folders: other names it goes by.
        root: from the user.
        recognised: whether an existing path is the right one; None for any.

    Raises:
        ConfigError: listing every place tried.
    """
    names = [name, *folders]
    if root is not None:
        tried = [Path(root), *(Path(root) / name for name in names)]
    else:
        tried = [Path(name), *(place / name for place in data_places() for name in names)]
    for path in tried:
        if exists(path) and (recognised is None or recognised(path)):
            return path
    places = ", ".join(str(path) for path in dict.fromkeys(tried))
    raise ConfigError(
        f"No data at {name}: not found in {places}. Give the path of its folder, or set "
        f"{VARIABLE} to the folder that holds it."
    )


def exists(path: Path) -> bool:
    """Whether the path exists; False also where permissions hide it."""
    try:
        path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False
    return True


def any_exists(root: Path, *inside: str) -> bool:
    """Whether a folder holds any of these paths."""
    return any(exists(root / path) for path in inside)
