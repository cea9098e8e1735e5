"""A wheel holds all that the package needs elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("mask2kan", "training", "weights", "setup.py", "pyproject.toml")
FILES = ("README.md", "LICENSE", "requirements.txt")


def test_an_installed_wheel_segments_with_the_bundled_weights(tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves folders behind
    for part in (*PARTS, *FILES):
        place, target = ROOT / part, source / part
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(place, target) if place.is_dir() else shutil.copy(place, target)
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    subprocess.run([*pip, *build], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    install = ("install", "--no-deps", "--target", str(site), str(wheel))
    subprocess.run([*pip, *install], check=True, capture_output=True)

    elsewhere.mkdir()
    Image.new("RGB", (96, 64)).save(elsewhere / "road.png")
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    run("-m", "mask2kan", "predict", "road.png", "--device", "cpu")
    assert (elsewhere / "mask2kan_results" / "road_score.npz").is_file()
    used = run("-c", "import mask2kan, training.tables; print(mask2kan.__file__)")
    assert Path(used).is_relative_to(site)
