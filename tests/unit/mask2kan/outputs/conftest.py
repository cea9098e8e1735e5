from __future__ import annotations

import numpy as np
import pytest

from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from tests.tiny_models import tiny

HEIGHT, WIDTH = 60, 90


@pytest.fixture(scope="session")
def predictions() -> list[tuple[str, Prediction]]:
    """A tiny KAN and a tiny MLP on the same noise, with a title each."""
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    models = [("a KAN", "mask2kan"), ("an MLP", "mask2former")]
    return [(title, Predictor(tiny(name, "mobilenetv2"), "cpu")(image)) for title, name in models]
