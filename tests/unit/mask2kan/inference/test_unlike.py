"""Pictures unlike a road model's are told by how little of them is surely open road."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mask2kan.checkpoints import load_model
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.unlike import LEAST_OPEN, MOST_ANOMALOUS, Unlike, unlike_training
from mask2kan.modeling.classes import CITYSCAPES

EXAMPLES = Path(__file__).resolve().parents[4] / "examples"
CALIBRATION = {"msp": {"fpr05": 0.3}}
SCORES = {"sure": 0.1, "unsure": 0.5}


def prediction(*parts: tuple[str, str, float], **changed: Any) -> Any:
    """A picture of 100 columns; of each part the class, how sure of it, and the share."""
    names = changed.pop("class_names", tuple(CITYSCAPES))
    semantic = [names.index(name) for name, _, share in parts for _ in range(round(share * 100))]
    scores = [SCORES[how] for _, how, share in parts for _ in range(round(share * 100))]
    assert len(scores) == 100
    maps = {"msp": np.tile(np.float32(scores), (4, 1))}
    return types.SimpleNamespace(
        class_names=names,
        calibration=changed.pop("calibration", CALIBRATION),
        semantic=np.tile(np.uint8(semantic), (4, 1)),
        anomaly_map=maps.__getitem__,
    )


def test_an_open_road_is_like_the_training_even_with_a_flock_on_it() -> None:
    flock = ("road", "unsure", MOST_ANOMALOUS)
    assert unlike_training(prediction(("road", "sure", 0.2), ("sky", "sure", 0.3), flock)) is None
    narrow = prediction(("terrain", "sure", LEAST_OPEN), ("car", "sure", 1 - LEAST_OPEN))
    assert unlike_training(narrow) is None


def test_a_room_that_is_surely_a_building_is_not() -> None:
    room = prediction(("building", "sure", 0.8), ("road", "sure", 0.2))
    assert unlike_training(room) is Unlike.NO_OPEN_ROAD
    unsure = prediction(("building", "sure", 0.6), ("road", "unsure", 0.4))
    assert unlike_training(unsure) is Unlike.NO_OPEN_ROAD


def test_a_picture_that_is_mostly_anomalous_is_not() -> None:
    noise = prediction(("road", "unsure", 0.6), ("sky", "sure", 0.4))
    assert unlike_training(noise) is Unlike.MOSTLY_ANOMALOUS


@pytest.mark.parametrize("calibration", [{}, {"rba": {"fpr05": 0.1}}, {"msp": {"range": [0, 1]}}])
def test_nothing_is_said_without_a_calibration(calibration: dict[str, Any]) -> None:
    assert unlike_training(prediction(("building", "sure", 1.0), calibration=calibration)) is None


@pytest.mark.parametrize("names", [("building", "car"), ("building", "road", "floor")])
def test_nothing_is_said_for_models_of_other_scenes(names: tuple[str, ...]) -> None:
    assert unlike_training(prediction(("building", "sure", 1.0), class_names=names)) is None


@pytest.mark.parametrize("model", ["mask2kan_road", "mask2former_road"])
def test_the_bundled_pair_tells_rooms_from_roads(model: str) -> None:
    predictor = Predictor(load_model(model, device="cpu"), "cpu", "float32")
    found = {
        name: unlike_training(predictor(EXAMPLES / f"{name}.webp"))
        for name in ("road_sheep", "road_normal", "room_cone")
    }
    assert found == {"road_sheep": None, "road_normal": None, "room_cone": Unlike.NO_OPEN_ROAD}
