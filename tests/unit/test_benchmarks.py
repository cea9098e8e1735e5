"""The benchmark of a card runs through without one, so that it works where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "benchmarks" / "gpu_all.py"


def run(*options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
def test_every_section_rehearses():
    done = run("--rehearse")
    assert done.returncode == 0, done.stderr[-3000:]
    for section in ("correctness", "kernels", "models", "training", "rounding", "sanitizer"):
        assert f"\n{section}: " in done.stdout
    assert "False" not in done.stdout  # a row of errors beyond its limits
    assert "error" not in done.stdout.replace("forward error", "")


@pytest.mark.slow
def test_without_a_card_it_says_so():
    done = run()
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "No CUDA GPU was found; --rehearse runs this script without one."
    )
