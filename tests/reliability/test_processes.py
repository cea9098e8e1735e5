"""What computes: jobs that never return, and pictures for which there is no memory."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from app import jobs as app_jobs
from app.services.catalog import Catalog
from app.services.service import ProcessService
from app.work.limits import Limits
from app.work.processes import TimeLimitError, Worker
from mask2kan.errors import OutOfMemoryError
from tests import jobs
from tests.reliability.mutations import Mutation
from tests.serving import tiny_models

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc of Linux")

SECONDS = 120.0  # only against hanging
LIMIT = 0.5

MUTATIONS = [
    Mutation(
        "a process is ended, not left behind",
        "test_a_job_that_never_returns",
        "app.work.processes",
        "        process.kill()\n        process.join(_END_SECONDS)\n",
        "",
    ),
    Mutation(
        "running out of memory is noticed",
        "test_there_is_no_memory",
        "mask2kan.runtime.memory",
        "return own and any(text in str(error) for text in _NO_MEMORY)",
        "return False",
    ),
    Mutation(
        "a process has a limit of memory",
        "test_there_is_no_memory",
        "app.work.processes",
        "resource.setrlimit(resource.RLIMIT_AS, (taken + bytes_, taken + bytes_))",
        "pass",
    ),
]


def _descendants() -> int:
    return len(psutil.Process().children(recursive=True))


@pytest.mark.row("hang, many times", limit="freed within its limit + 2 s, nothing grows")
@pytest.mark.parametrize("job", [jobs.hang, jobs.spin])
def test_a_job_that_never_returns(
    job: Any, figure: Callable[[str], None], scale: Callable[[Any, Any], Any]
) -> None:
    worker = Worker("models")
    try:
        assert worker.run(SECONDS, jobs.echo, 1) == (1,)
        own = psutil.Process()
        before = own.num_fds(), threading.active_count(), _descendants(), own.memory_info().rss
        longest = 0.0
        for number in range(scale(3, 50)):
            start = time.monotonic()
            with pytest.raises(TimeLimitError):
                worker.run(LIMIT, job)
            longest = max(longest, time.monotonic() - start)
            assert worker.run(SECONDS, jobs.echo, number) == (number,)
        after = own.num_fds(), threading.active_count(), _descendants(), own.memory_info().rss
        grown = (after[3] - before[3]) / 1e6
        figure(f"freed after {longest:.2f} s at most (limit {LIMIT} s), {grown:.1f} MB more")
        assert longest < LIMIT + scale(20, 2)
        assert after[:3] == before[:3]
        assert grown < 10
    finally:
        worker.close()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessService]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    models = tiny_models(tmp_path)
    service = ProcessService(
        device="cpu",
        catalog=Catalog([str(path) for path in models]),
        limits=Limits(job_bytes=700 * 2**20),
    )
    yield service
    service.close()


def _resident(service: ProcessService) -> int:
    [computing] = [service._computing.pid]
    assert computing is not None
    return int(psutil.Process(computing).memory_info().rss)


@pytest.mark.row("out of memory", limit="a sentence each, the next works, memory back ± 2 %")
def test_there_is_no_memory(
    service: ProcessService, figure: Callable[[str], None], scale: Callable[[Any, Any], Any]
) -> None:
    """A process with so little memory that the picture really does not fit."""
    source = service.catalog.offered[0]
    small = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    large = np.zeros((4096, 6000, 3), np.uint8)

    def ask(picture: Any) -> dict[str, Any]:
        with service.turn([source]):
            return service.run(app_jobs.results, ("model",), [source], picture, "msp")[0]

    first, told = ask(small), 0
    with pytest.raises(OutOfMemoryError):
        ask(large)
    ask(small)
    before, process = _resident(service), service._computing.pid
    times = scale(2, 50)
    for _ in range(times):
        with pytest.raises(OutOfMemoryError, match="smaller picture") as refused:
            ask(large)
        told += "6000×4096" in str(refused.value)
        again = ask(small)
        assert again["model"]["classes"] == first["model"]["classes"]
    grown = 100 * (_resident(service) / before - 1)
    figure(f"{told} of {times} told, {grown:+.1f} % of memory")
    assert told == times
    assert service._computing.pid == process
    assert grown < scale(10, 2)


def test_the_test_has_a_limit_of_its_own() -> None:
    """Nothing above may take the machine down: the worker's address space is really limited."""
    worker = Worker("limited", memory=100 * 2**20)
    try:
        worker.run(SECONDS, os.getpid)
        with pytest.raises(Exception, match="MemoryError|ended"):
            worker.run(SECONDS, jobs.eat, 300 * 2**20)
    finally:
        worker.close()
