"""The pictures offered beneath the upload field (``examples/``; ``SOURCES.md`` there says more)."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "examples"
_SUFFIXES = (".webp", ".jpg", ".jpeg", ".png")
_TRUTH = ("_class", "_anomaly")


def sample_pictures(folder: Path = FOLDER) -> list[Path]:
    """Pictures of ``folder`` without their ground truth: streets first, then by name.

    An absent folder has none: the app works without examples.
    """
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    pictures = [path for path in found if not path.stem.endswith(_TRUTH)]
    return sorted(pictures, key=lambda path: (not path.name.startswith("street"), path.name))
