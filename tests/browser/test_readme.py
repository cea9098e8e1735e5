"""What README.md shows in Python runs as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.serving import App

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
EXAMPLE = ROOT / "examples" / "road_sofa.webp"


def test_there_are_blocks_for_people_for_programs_and_for_cards() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(
    number: int, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, in a folder with a picture; the app listens where this test started it."""
    (tmp_path / "examples").mkdir()
    shutil.copy(EXAMPLE, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    code = BLOCKS[number].replace("http://127.0.0.1:7860", app.url)
    left: dict[str, Any] = {}
    exec(compile(code, f"README.md, block {number}", "exec"), left)
    if "prediction" in left:  # what its comments say
        prediction = left["prediction"]
        assert prediction.semantic.dtype == np.uint8
        assert prediction.semantic.shape == prediction.anomaly("msp").shape == (512, 1024)
        assert prediction.class_scores.shape == (len(prediction.class_names), 512, 1024)
        assert prediction.class_scores.dtype == prediction.anomaly("msp").dtype == np.float32
        assert np.array_equal(left["left"].semantic, prediction.semantic)
        assert left["reasons"].to_json()["value"] == pytest.approx(
            float(prediction.anomaly("msp")[250, 480]), abs=1e-6
        )
    if "archive" in left:
        assert Path(left["archive"]).suffix == ".zip"
        assert left["summary"]["left"]["score"] == "rba"
