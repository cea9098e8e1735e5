"""Processes for jobs: what comes back, what ends them, and what they leave."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from app.work.processes import JobError, ProcessEndedError, TimeLimitError, Worker
from mask2kan.errors import ConfigError
from tests import jobs
from tests.serving import ROOT

SECONDS = 60.0  # only against hanging


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("test")
    yield worker
    worker.close()


def test_jobs_are_done_elsewhere_one_after_the_other(worker: Worker) -> None:
    first = worker.run(SECONDS, jobs.pid)
    assert first == worker.pid != os.getpid()
    assert worker.run(SECONDS, jobs.pid) == first
    array = np.arange(3 * 10**6, dtype=np.uint8).reshape(1000, 1000, 3)
    [back] = worker.run(SECONDS, jobs.echo, array)
    np.testing.assert_array_equal(back, array)


def test_what_a_job_raises_is_raised_here(worker: Worker) -> None:
    with pytest.raises(ConfigError, match="^no such thing$"):
        worker.run(SECONDS, jobs.refuse, "no such thing")
    with pytest.raises(JobError, match="KeyError: 'ours'"):
        worker.run(SECONDS, jobs.fail)
    assert worker.run(SECONDS, jobs.echo, 1) == (1,)


def test_what_a_job_logs_is_logged_here(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.run(SECONDS, jobs.say, "something")
    [record] = [record for record in caplog.records if record.name == "jobs"]
    assert record.getMessage() == "said something"
    assert record.levelno == logging.WARNING


@pytest.mark.parametrize("job", [jobs.hang, jobs.spin])
def test_a_job_that_takes_too_long_is_ended_and_the_next_one_works(
    worker: Worker, job: Any
) -> None:
    before = worker.run(SECONDS, jobs.pid)
    with pytest.raises(TimeLimitError, match="longer than 0.3 s"):
        worker.run(0.3, job)
    assert not psutil.pid_exists(before)
    assert worker.run(SECONDS, jobs.pid) != before


@pytest.mark.parametrize("job", [jobs.crash, jobs.leave])
def test_a_process_that_ends_says_so_and_the_next_one_works(worker: Worker, job: Any) -> None:
    with pytest.raises(ProcessEndedError, match="ended"):
        worker.run(SECONDS, job)
    assert worker.run(SECONDS, jobs.echo, "a") == ("a",)


def test_what_cannot_be_sent_is_raised_and_the_next_one_works(worker: Worker) -> None:
    with pytest.raises(Exception, match="pickle"):
        worker.run(SECONDS, jobs.echo, lambda: None)
    assert worker.run(SECONDS, jobs.echo, "a") == ("a",)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's limit of an address space")
def test_memory_is_limited() -> None:
    worker = Worker("small", memory=200 * 2**20)
    try:
        assert worker.run(SECONDS, jobs.eat, 50 * 2**20) == 50 * 2**20
        with pytest.raises((JobError, ProcessEndedError)):
            worker.run(SECONDS, jobs.eat, 400 * 2**20)
        assert worker.run(SECONDS, jobs.eat, 50 * 2**20) == 50 * 2**20
    finally:
        worker.close()


def test_setting_up_happens_once_in_each_process() -> None:
    worker = Worker("named", jobs.say, ("hello",))
    try:
        assert worker.run(SECONDS, jobs.echo, 1) == (1,)
        worker.close()
        assert worker.pid is None
        assert worker.run(SECONDS, jobs.echo, 2) == (2,)
    finally:
        worker.close()


_BUSY = """
from app.work.processes import Worker
from tests import jobs
from tests.serving import ROOT
if __name__ == "__main__":
    worker = Worker("busy")
    print(worker.run(60, jobs.pid), flush=True)
    worker.run(600, jobs.spin)
"""


def test_processes_end_with_the_app_also_in_the_middle_of_a_job(tmp_path: Path) -> None:
    script = tmp_path / "busy.py"
    script.write_text(_BUSY, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as app:
        assert app.stdout is not None
        busy = psutil.Process(int(app.stdout.readline()))
        app.kill()
    gone, alive = psutil.wait_procs([busy], timeout=SECONDS)
    assert gone == [busy]
    assert not alive
