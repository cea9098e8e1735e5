"""Every module is understood by the oldest Python we promise.

Our modules are imported under that Python where this machine has it (else the oldest it has), and,
whatever Python there is, their source is searched for what only newer ones take. ``make types``
also checks names of the standard library, ``make matrix`` runs everything.
"""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pythons import promised, pythons

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "import_everything.py"
OURS = ("mask2kan", "training", "app")
GENERIC_TUPLE = """
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

class Outcome(NamedTuple, Generic[T]):
    result: T
"""


def import_everything(root: Path) -> subprocess.CompletedProcess[str]:
    found = pythons()
    others = sorted(set(importlib.metadata.packages_distributions()) - {*OURS, "tests"})
    return subprocess.run(
        [found[min(found)], "-I", str(SCRIPT), ",".join(others), str(root)],
        capture_output=True,
        text=True,
        check=False,
    )


def too_new(source: str) -> Iterator[str]:
    """What of a module's source the oldest Python does not take, though this one does."""
    try:
        tree = ast.parse(source, feature_version=promised())
    except SyntaxError as error:
        yield f"line {error.lineno}: {error.msg}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            if "NamedTuple" in bases and len(bases) > 1:
                yield f"line {node.lineno}: {node.name} is a NamedTuple and more (Python 3.11)"


def test_every_module_imports_under_the_oldest_python() -> None:
    finished = import_everything(ROOT)
    assert finished.returncode == 0, finished.stderr
    count = int(finished.stdout.split()[0])
    assert count > 100, finished.stdout


def test_a_class_that_the_oldest_python_cannot_build_is_found_by_importing(tmp_path: Path) -> None:
    if min(pythons()) != (3, 10):
        pytest.skip("this machine has no Python 3.10, which cannot build it")
    package = tmp_path / "mask2kan"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "outcomes.py").write_text(GENERIC_TUPLE, encoding="utf-8")
    finished = import_everything(tmp_path)
    assert finished.returncode == 1
    assert "mask2kan.outcomes: TypeError: Multiple inheritance" in finished.stderr


def test_no_source_is_too_new() -> None:
    paths = [ROOT / "app.py", *(path for name in OURS for path in (ROOT / name).rglob("*.py"))]
    assert len(paths) > 100
    found = [
        f"{path.relative_to(ROOT)}, {fault}"
        for path in paths
        for fault in too_new(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        (GENERIC_TUPLE, ["line 6: Outcome is a NamedTuple and more"]),
        ("import typing\nclass A(typing.NamedTuple, B): pass", ["line 2: A is a NamedTuple"]),
        ("try:\n  pass\nexcept* OSError:\n  pass", ["only supported in Python 3.11"]),
        ("from typing import NamedTuple\nclass A(NamedTuple): pass", []),
    ],
)
def test_what_is_too_new_is_found(source: str, faults: list[str]) -> None:
    found = list(too_new(source))
    assert len(found) == len(faults)
    assert all(words in fault for words, fault in zip(faults, found, strict=True))
