"""Name the results of images so that no image's replace another's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mask2kan.media.files import parse_object
from mask2kan.media.web import is_url


def stem_of(image: str) -> str:
    """Return the stem of an image's path or address; ``image`` without one."""
    return Path(unquote(urlsplit(image).path) if is_url(image) else image).stem or "image"


def unique_stems(
    images: Sequence[str], summary_of: Callable[[str], Path] | None = None
) -> list[str]:
    """Take the stems of paths and addresses; a repeated one gets the next free number: road_2.

    ``summary_of`` gives the file that an earlier run wrote last under a name; a name that another
    image has there is not free.
    """
    stems: dict[str, str] = {}  # by their case-folded form
    for image in images:
        first = stem = stem_of(image)
        number = 1
        while stem.casefold() in stems or (
            summary_of is not None and _belongs_to_another(summary_of(stem), image)
        ):
            number += 1
            stem = f"{first}_{number}"
        stems[stem.casefold()] = stem
    return list(stems.values())


def _belongs_to_another(summary: Path, image: str) -> bool:
    try:
        picture = parse_object(summary.read_bytes())["picture"]
    except (OSError, ValueError, KeyError):
        return False
    if not image or not isinstance(picture, str):  # an image without a name is always another
        return True
    if is_url(image):
        return picture != image
    return Path(picture).absolute() != Path(image).absolute()
