"""Turn every guard off, one at a time, and see its row turn red: ``make reliability-mutations``.

A module of this folder lists its guards as ``MUTATIONS``. For each, its short test runs in a
process of its own whose import of the guard's module finds the source changed (``inside/``).
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_FAILED, _NO_SUCH_SOURCE = 1, 70  # of pytest; of ``inside/sitecustomize.py``


class Mutation(NamedTuple):
    """A guard turned off.

    Attributes:
        guard: in words.
        test: name of the test, or its beginning, in the module that lists the mutation.
        module: dotted name of the module with the guard.
        old: a piece of its source that occurs once.
        new: what stands there instead.
    """

    guard: str
    test: str
    module: str
    old: str
    new: str


def turned_off(guard: str, module: str, condition: str, test: str) -> Mutation:
    """Turn a guard off that is an ``if`` with one condition."""
    return Mutation(guard, test, module, f"if {condition}", f"if False and {condition}")


def listed() -> Iterator[tuple[str, Mutation]]:
    """Yield every mutation with its test module's name."""
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"tests.reliability.{path.stem}")
        for mutation in getattr(module, "MUTATIONS", ()):
            yield path.stem, mutation


def survives(module: str, mutation: Mutation) -> tuple[bool, str]:
    """Run a mutation's test; return whether it passes all the same, and what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(HERE / "inside"), str(ROOT))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RELIABILITY_MUTATION": json.dumps(mutation._asdict()),
    }
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "not gpu"]
    command += [f"tests/reliability/{module}.py", "-k", mutation.test]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    printed = done.stdout + done.stderr
    # Any other status: the test never ran, which shows nothing.
    ran = done.returncode in (0, _FAILED) and f" times {mutation.old!r}" not in printed
    if not ran:
        raise RuntimeError(f"{module}: {mutation.guard}\n{printed[-3000:]}")
    return done.returncode == 0, printed


def main(wanted: Sequence[str]) -> int:
    """Run the mutations whose guard or module contains one of the words, or all."""
    chosen = [
        (module, mutation)
        for module, mutation in listed()
        if not wanted or any(word in f"{module} {mutation.guard}" for word in wanted)
    ]
    alive = 0
    for module, mutation in tqdm(chosen, unit="guard", disable=not sys.stderr.isatty()):
        start = time.monotonic()
        passed, _ = survives(module, mutation)
        alive += passed
        verdict = "STILL GREEN" if passed else "red"
        spent = time.monotonic() - start
        tqdm.write(f"{verdict:11} {mutation.guard} ({module}, {mutation.test}, {spent:.0f} s)")
    print(f"{len(chosen) - alive} of {len(chosen)} guards turn their row red when they are off.")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
