"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The same numbers on every processor, in processes of the tests' own, too.
os.environ.setdefault("MASK2KAN_DTYPE", "float32")

# Processes that test beside each other (pytest -n) divide the cores; torch reads it when loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference answers and pictures; it lies beside the repository, not in it."""
    folder = Path(os.environ.get("MASK2KAN_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(
            f"no reference data: {folder} does not exist (set MASK2KAN_SHARED to its place)"
        )
    return folder
