"""Name the results of images so that no image's replace another's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mask2kan.errors import printable
from mask2kan.media.files import parse_object
from mask2kan.media.web import is_url

LONGEST_STEM = 180  # bytes; file systems take 255, and the results' own names follow

# Devices of Windows, whatever suffix stands behind their names.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|con(in|out)\$) *(\.|$)", re.I)


def stem_of(image: str) -> str:
    """Return the stem of an image's path or address, fit to name files by; ``image`` without one.

    A stem that no system can write, or only some can, is changed as little as that needs.
    """
    return fit_stem(Path(unquote(urlsplit(image).path) if is_url(image) else image).stem, "image")


def fit_stem(stem: str, otherwise: str, longest: int = LONGEST_STEM) -> str:
    """Make a stem one that every system can write, ``longest`` bytes at most.

    Returns:
        The stem without what is not printable, without dots and spaces at its end, and with a
        ``_`` before the name of a device of Windows; ``otherwise`` where nothing is left.
    """
    fit = printable(stem).encode()[:longest].decode(errors="ignore").rstrip(". ") or otherwise
    return f"_{fit}" if _RESERVED.match(fit) else fit


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
