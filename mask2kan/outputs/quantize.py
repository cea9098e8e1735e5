"""The 16-bit encoding of score maps: codes 0 to 65535 from the map's minimum to its maximum.

``score = low + code * step``. Thresholds are codes too, so that all readers see the same pixels.
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
    """Codes (H, W) of a score map, and its minimum and maximum."""

    codes: NDArray[np.uint16]
    low: float
    high: float

    @property
    def encoding(self) -> dict[str, float]:
        """``low``, ``high`` and ``step``, to read the scores back."""
        return {"low": self.low, "high": self.high, "step": (self.high - self.low) / (CODES - 1)}

    @functools.cached_property
    def values(self) -> NDArray[np.float64]:
        """The score of each code, (65536,); the last is the exact maximum."""
        # in the viewer's order of operations, equal to the last bit
        values = self.low + np.arange(CODES) * (self.high - self.low) / (CODES - 1)
        values[-1] = self.high
        return values

    def threshold_code(self, threshold: float) -> int:
        """Return the smallest code whose score reaches the threshold; ``CODES`` if none does."""
        return int(np.searchsorted(self.values, threshold))


def quantize(values: NDArray[np.float32]) -> Quantized:
    """Encode a score map (H, W); a constant one is all 0.

    Raises:
        NumericsError: for values that are not finite.
    """
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise NumericsError(f"{bad} of {values.size} scores are not finite; they have no code.")
    low, high = float(values.min()), float(values.max())
    span = high - low if high > low else 1.0
    scaled = (values.astype(np.float64) - low) / span * (CODES - 1)
    return Quantized(np.rint(scaled).astype(np.uint16), low, high)
