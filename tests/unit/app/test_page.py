"""The page as Gradio is told it: words on buttons, and a sentence for every score."""

from __future__ import annotations

from typing import Any

import pytest

from app.page import build_demo
from app.services.service import ModelService
from app.strings import BATCH, VIEWER
from mask2kan.inference.scores import SCORES


@pytest.fixture(scope="module")
def components() -> dict[str, dict[str, Any]]:
    """Properties by element id."""
    config = build_demo(service=ModelService(device="cpu")).get_config_file()
    return {part["props"].get("elem_id"): part["props"] for part in config["components"]}


@pytest.mark.parametrize("name", ["csv", "zip"])
def test_downloads_of_a_batch_say_what_they_are(
    components: dict[str, dict[str, Any]], name: str
) -> None:
    assert components[f"batch-{name}"]["label"] == BATCH[name]
    assert components[f"batch-{name}"].get("value") is None


def test_every_score_has_its_sum_in_words() -> None:
    assert {f"score_{name}" for name in SCORES} <= VIEWER.keys()
