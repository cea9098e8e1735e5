"""What training leaves behind opens in the app."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.services.models import ModelService
from app.tabs.compare import Handlers

ROOT = Path(__file__).resolve().parents[3]


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
