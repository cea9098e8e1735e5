"""16-bit codes of score maps: their range, their thresholds, and what has none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mask2kan.errors import NumericsError
from mask2kan.outputs.quantize import CODES, quantize


def random_scores(seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(60, 90))
    return ndimage.gaussian_filter(noise, 2).astype(np.float32)


def test_codes_span_the_maps_own_range() -> None:
    scores = random_scores()
    found = quantize(scores)
    assert (found.codes.min(), found.codes.max()) == (0, CODES - 1)
    step = found.encoding["step"]
    decoded = found.encoding["low"] + found.codes * step
    np.testing.assert_allclose(decoded, scores, atol=step / 2 * 1.001)
    assert found.encoding["high"] == found.values[-1] == scores.max()


def test_a_constant_map_and_one_that_is_not_finite() -> None:
    flat = quantize(np.full((3, 4), 0.25, np.float32))
    assert not flat.codes.any()
    assert flat.encoding == {"low": 0.25, "high": 0.25, "step": 0.0}
    assert flat.threshold_code(0.25) == 0
    assert flat.threshold_code(0.2500001) == CODES
    with pytest.raises(NumericsError, match="1 of 4"):
        quantize(np.array([[0, 1], [np.nan, 2]], np.float32))


def test_a_threshold_is_the_first_code_that_reaches_it() -> None:
    found = quantize(random_scores())
    random = np.random.default_rng(1)
    for threshold in [
        *random.uniform(found.low - 0.1, found.high + 0.1, 200),
        found.low,
        found.high,
    ]:
        code = found.threshold_code(threshold)
        assert code == CODES or found.values[code] >= threshold
        assert code == 0 or found.values[code - 1] < threshold


def test_a_code_of_the_viewers_grid_is_its_own_threshold() -> None:
    """The page sends thresholds that JavaScript has computed with this formula."""
    found = quantize(random_scores())
    for code in (0, 1, 777, 31_415, CODES - 2, CODES - 1):
        viewers = found.low + code * (found.high - found.low) / (CODES - 1)
        assert found.threshold_code(found.high if code == CODES - 1 else viewers) == code


@pytest.mark.parametrize("span", [1e-44, 1.0, 1e30])
def test_thresholds_far_outside_have_codes_too(span: float) -> None:
    found = quantize(np.array([[0, span]], np.float32))
    for far in (1e308, float("inf")):
        assert found.threshold_code(far) == CODES
        assert found.threshold_code(-far) == 0
