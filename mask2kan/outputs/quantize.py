"""The 16-bit encoding of score maps: codes 0 to 65535 over the map's own minimum and maximum.

``score = low + code * step``; low, high and step stand in every file of codes. A threshold is a
code as well, "anomalous from this code on": whoever counts on the codes counts what the app shows.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from mask2kan.errors import NumericsError

CODES = 65536


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """A score map in 16-bit steps over its own range.

    Attributes:
        codes: (H, W) uint16.
        low: the score of code 0, the map's minimum.
        high: the score of code 65535, its maximum.
    """

    codes: NDArray[np.uint16]
    low: float
    high: float

    @property
    def encoding(self) -> dict[str, float]:
        """``low``, ``high`` and ``step``: what reading the scores back takes."""
        return {"low": self.low, "high": self.high, "step": (self.high - self.low) / (CODES - 1)}

    @functools.cached_property
    def values(self) -> NDArray[np.float64]:
        """The score of each code, (65536,); of the largest, the maximum without a rounding."""
        # the viewer computes its thresholds in this order of operations, to the last bit
        values = self.low + np.arange(CODES) * (self.high - self.low) / (CODES - 1)
        values[-1] = self.high
        return values

    def threshold_code(self, threshold: float) -> int:
        """Return the smallest code whose score reaches the threshold; ``CODES`` if none does."""
        return int(np.searchsorted(self.values, threshold))


def quantize(values: NDArray[np.float32]) -> Quantized:
    """Encode a score map: (H, W) to (H, W); a constant map is all 0.

    Raises:
        NumericsError: for values that are not finite.
    """
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise NumericsError(f"{bad} of {values.size} scores are not finite; they have no code.")
    low, high = float(values.min()), float(values.max())
    span = high - low if high > low else 1.0
    scaled = (values.astype(np.float64) - low) / span * (CODES - 1)
    return Quantized(np.rint(scaled).astype(np.uint16), low, high)
