"""What the bundled pair and a new checkpoint do in the app."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.files.samples import sample
from app.services.service import ModelService
from app.tabs.compare import Handlers
from mask2kan.checkpoints import list_weights, load_model
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import SCORES
from mask2kan.outputs.summary import Analysis

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", list_weights(bundled_only=True))
def test_a_normal_road_stays_grey_under_every_score(name):
    """At the shipped threshold, smoothing and smallest region, as the README promises."""
    normal = sample("road_normal")
    prediction = Predictor(load_model(name, device="cpu"), "cpu")(normal.path)
    for score in SCORES:
        assert Analysis(prediction, score).outlined.mean() < 0.01, score


@pytest.mark.slow
def test_twenty_steps_on_synthetic_streets_open_in_the_app(tmp_path):
    command = [sys.executable, "-m", "training.train", "camvid_kan", "--data", "synthetic"]
    subprocess.run(
        [*command, "--steps", "20", "--out", str(tmp_path)], cwd=ROOT, check=True, env=os.environ
    )
    checkpoint = str(tmp_path / "last.safetensors")
    image = ROOT / "examples" / "road_sofa.webp"
    summary, files = Handlers(ModelService(device="cpu")).compare(
        {"path": str(image)}, checkpoint, "mask2former_road", "msp"
    )
    assert summary["left"]["model"] == checkpoint
    assert any("left_semantic" in name for name in files)
