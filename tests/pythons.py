"""Which Pythons there are on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def promised() -> tuple[int, int]:
    """The oldest version ``pyproject.toml`` allows."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    major, minor = re.search(r'requires-python = ">=(\d+)\.(\d+)"', text).groups()
    return int(major), int(minor)


def pythons(upto: tuple[int, int] = sys.version_info[:2]) -> dict[tuple[int, int], str]:
    """The interpreters on this machine that are new enough, by version; of ``PATH`` up to one."""
    oldest = promised()
    candidates = [sys.executable]
    for minor in range(oldest[1], upto[1] + 1):
        candidates.append(shutil.which(f"python3.{minor}") or "")
    for folder in (
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions",
        Path.home() / ".local" / "share" / "uv" / "python",
    ):
        candidates += map(str, sorted(folder.glob("*/bin/python3")))
    found: dict[tuple[int, int], str] = {}
    for path in filter(None, candidates):
        told = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        version = tuple(map(int, told.stdout.split())) if told.returncode == 0 else (0, 0)
        if version >= oldest:
            found.setdefault(version, path)
    return found
