"""The fault table: a line for each row (fault, figure, limit, verdict), and how long tests run.

``make reliability`` runs the rows whole, ``pytest`` their short forms. A test belongs to a row by
``@pytest.mark.row("fault", limit="what must be reached")`` and says its figure by ``figure(…)``.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAILURES = Path(__file__).with_name("failures")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="run the fault table's rows whole")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(fault, limit): a row of the fault table")


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Callable[[Any, Any], Any]:
    """Choose the size of a row: ``scale(short, whole)``."""
    whole = request.config.getoption("--whole", default=False)
    return lambda short, long: long if whole else short


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say a row's figure, also of one that is about to fail; the last one said counts."""
    return lambda text: request.node.user_properties.append(("figure", text))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of a row: RELIABILITY_SEED, else new when it runs whole and 0 when short; printed."""
    whole = request.config.getoption("--whole", default=False)
    chosen = int(os.environ.get("RELIABILITY_SEED") or (random.randrange(2**31) if whole else 0))
    request.node.user_properties.append(("seed", chosen))
    return chosen


@pytest.fixture
def save_failure(request: pytest.FixtureRequest) -> Callable[[str, bytes], Path]:
    """Save what a row failed on: ``save_failure(name, content)``."""

    def save(name: str, content: bytes) -> Path:
        FAILURES.mkdir(exist_ok=True)
        test = re.sub(r"\W+", "_", request.node.name)
        path = FAILURES / f"{test}_{name}"
        path.write_bytes(content)
        return path

    return save


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    row = item.get_closest_marker("row")
    if row is not None:
        report.user_properties += [("fault", row.args[0]), ("limit", row.kwargs["limit"])]
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [
        report
        for outcome in ("passed", "failed", "skipped", "error")
        for report in terminalreporter.stats.get(outcome, ())
        if hasattr(report, "user_properties")  # not where a module can't be collected
        and (report.when == "call" or report.outcome != "passed")
    ]
    rows = [(dict(getattr(report, "user_properties", ())), report) for report in reports]
    rows = [(facts, report) for facts, report in rows if "fault" in facts]
    if not rows:
        return
    terminalreporter.section("fault table")
    for facts, report in rows:
        verdict = {"passed": "ok", "skipped": "skipped"}.get(report.outcome, "FAILED")
        seed = f" (seed {facts['seed']})" if "seed" in facts else ""
        shown = facts.get("figure", "–")
        terminalreporter.write_line(
            f"{verdict:7} {facts['fault']}: {shown}; limit: {facts['limit']}{seed}"
        )
