"""Every module is understood by the oldest Python we promise, or the oldest that is here."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

from tests.pythons import pythons

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "import_everything.py"


def test_every_module_imports_under_the_oldest_python() -> None:
    found = pythons()
    ours = {"mask2kan", "training", "app", "tests"}
    others = sorted(set(importlib.metadata.packages_distributions()) - ours)
    finished = subprocess.run(
        [found[min(found)], "-I", str(SCRIPT), ",".join(others), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    count = int(finished.stdout.split()[0])
    assert count > 100, finished.stdout
