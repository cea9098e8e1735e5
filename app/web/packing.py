"""Pack arrays as files that the browser unpacks: see ``viewer/maps.js``."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.kept import served


def packed_codes(codes: NDArray[np.uint16], name: str) -> dict[str, Any]:
    """Keep 16-bit codes (H, W) as such a file, a quarter of the size of ``packed``.

    Smooth maps differ little from what their upper and left neighbours foretell. Those differences,
    wrapping at 65536 and with the sign in the lowest bit, are stored as all low bytes, then all
    high ones; ``maps.js`` adds them up again.
    """
    rest = codes.copy()
    rest[:, 1:] -= codes[:, :-1]
    rest[1:] -= rest[:-1].copy()
    signed = rest.view(np.int16)
    folded = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
    return packed(np.stack([folded & 0xFF, folded >> 8]).astype(np.uint8), name)


def packed(array: NDArray[Any], name: str) -> dict[str, Any]:
    """Keep an array as such a file: gzipped, little-endian, row by row."""
    ordered = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    # The fastest level: a visitor waits for it, and the finest bits of scores hardly compress.
    return served(gzip.compress(ordered.tobytes(), 1, mtime=0), name)
