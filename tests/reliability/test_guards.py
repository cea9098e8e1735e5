"""The guards that ``make reliability-mutations`` turns off are where it looks for them."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.reliability.mutations import listed

ROOT = Path(__file__).resolve().parents[2]


def test_every_guard_is_there_once_and_has_a_test() -> None:
    faults = []
    for module, mutation in listed():
        source = ROOT.joinpath(*mutation.module.split("."))
        path = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        count = path.read_text(encoding="utf-8").count(mutation.old)
        if count != 1:
            faults.append(f"{mutation.guard}: {count} times {mutation.old!r} in {path.name}")
        tests = ROOT / "tests" / "reliability" / f"{module}.py"
        functions = ast.walk(ast.parse(tests.read_text(encoding="utf-8")))
        names = [node.name for node in functions if isinstance(node, ast.FunctionDef)]
        wanted = mutation.test.split()[0]  # of an expression such as "test_bombs and image"
        if not any(wanted in name for name in names):
            faults.append(f"{mutation.guard}: no test {mutation.test} in {module}")
    assert not faults
