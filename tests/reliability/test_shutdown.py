"""Told to stop, the app takes nothing new, finishes what it has begun, and goes."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.reliability.mutations import Mutation
from tests.serving import EXAMPLE, ROOT, free_port, serving, tiny_models

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

PICTURES = 8  # a job of some seconds
# A page with nothing but jobs that take as long as they are told, in the app's own server.
SLEEPER = """
import sys, time
import gradio as gr
from app.logs import write_log
from app.serving import server
from app.startup import Settings

def sleep(seconds):
    print("asleep", flush=True)
    time.sleep(seconds)
    return "rested"

write_log()
server._FINISH_SECONDS = float(sys.argv[2])
with gr.Blocks() as demo:
    seconds, told = gr.Number(), gr.Textbox()
    gr.Button().click(sleep, seconds, told, api_name="sleep")
demo.prepare = lambda: None
demo.queue()
server.serve(demo, Settings(port=int(sys.argv[1])))
"""


class Asked(threading.Thread):
    """A job that was joined, and the messages that came of it."""

    def __init__(self, url: str, api_name: str, data: Any) -> None:
        super().__init__(daemon=True)
        self._http = httpx.Client(base_url=url, timeout=120, trust_env=False)
        config = self._http.get("/config").json()
        [event] = (one for one in config["dependencies"] if one["api_name"] == api_name)
        values = {one["id"]: one["props"].get("value") for one in config["components"]}
        usual = [values[number] for number in event["inputs"]]
        self.session = uuid.uuid4().hex
        self.body = {
            "data": [*data, *usual[len(data) :]],
            "fn_index": event["id"],
            "session_hash": self.session,
        }
        self.messages: list[dict[str, Any]] = []
        self.begun = threading.Event()
        self.join_queue().raise_for_status()
        self.start()

    def join_queue(self) -> httpx.Response:
        return self._http.post("/gradio_api/queue/join", json=self.body)

    def run(self) -> None:
        query = {"session_hash": self.session}
        with (
            contextlib.suppress(httpx.TransportError),
            self._http.stream("GET", "/gradio_api/queue/data", params=query) as stream,
        ):
            for line in stream.iter_lines():
                if line:
                    self.messages.append(json.loads(line.removeprefix("data:")))
                    if self.messages[-1]["msg"] in ("process_starts", "process_generating"):
                        self.begun.set()

    @property
    def completed(self) -> list[dict[str, Any]]:
        return [one for one in self.messages if one["msg"] == "process_completed"]


@contextlib.contextmanager
def sleeper(finish_seconds: float) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The page of jobs that sleep."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(port), str(finish_seconds)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while not ready(url):
            assert process.poll() is None
            time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.row("SIGTERM", limit="unready at once, job done and delivered, exit 0, <= 30 s")
def test_the_running_job_is_finished(tmp_path: Path, figure: Any) -> None:
    with serving(tmp_path, tiny_models(tmp_path), OMP_NUM_THREADS="1") as app:
        while not ready(app.url):
            time.sleep(0.1)
        files = [("files", (f"{n}.webp", EXAMPLE.read_bytes())) for n in range(PICTURES)]
        sent = httpx.post(f"{app.url}/gradio_api/upload", files=files, trust_env=False).json()
        pictures = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in sent]
        heartbeat = httpx.Client(trust_env=False, timeout=60)
        page = heartbeat.stream("GET", f"{app.url}/gradio_api/heartbeat/open-page")
        page.__enter__()  # an open page never lets go by itself
        job = Asked(app.url, "batch", [pictures])
        assert job.begun.wait(60)
        time.sleep(0.3)
        assert not job.completed
        start = time.monotonic()
        app.process.send_signal(signal.SIGTERM)
        while ready(app.url):
            pass
        unready = time.monotonic() - start
        assert httpx.get(f"{app.url}/livez", trust_env=False).status_code == 200
        assert httpx.get(app.url, trust_env=False).status_code == 200
        refused = job.join_queue()
        assert not job.completed
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "restarting" in refused.json()["detail"]
        job.join(60)
        status = app.process.wait(60)
        spent = time.monotonic() - start
        page.__exit__(None, None, None)
    delivered = bool(job.completed and job.completed[0]["success"])
    figure(f"unready in {unready:.2f} s, delivered: {delivered}, exit {status} after {spent:.1f} s")
    assert delivered
    assert unready < 1
    assert status == 0
    assert spent < 35


def test_a_job_that_never_ends_does_not_hold_the_server(figure: Any) -> None:
    with sleeper(finish_seconds=1.0) as (url, process):
        job = Asked(url, "sleep", [600])
        assert job.begun.wait(30)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - start > 1
        job.join(10)
    assert not [one for one in job.completed if one["success"]]


def test_a_second_signal_ends_it_at_once() -> None:
    with sleeper(finish_seconds=600) as (url, process):
        job = Asked(url, "sleep", [600])
        assert job.begun.wait(30)
        process.send_signal(signal.SIGINT)
        while ready(url):
            pass
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 128 + signal.SIGINT


MUTATIONS = [
    Mutation("what was begun is finished", "test_the_running", "app.serving.lifecycle",
             "return self.at_work == 0 and self.jobs == 0", "return True"),
    Mutation("readiness", "test_the_running", "app.serving.lifecycle",
             "return self.answers and self.alive and not self.stopping", "return self.answers"),
    Mutation("nothing new while it stops", "test_the_running", "app.serving.lifecycle",
             "if begins and self._lifecycle.stopping:", "if False:"),
    Mutation("open pages let go", "test_the_running", "app.serving.server",
             "self._demo.close(verbose=False)", "self.config.timeout_graceful_shutdown = None"),
    Mutation("jobs that never end", "test_a_job", "app.serving.server",
             "watchdog.start()", "pass"),
    Mutation("the limit for jobs", "test_a_job", "app.serving.server",
             "late = time.monotonic() > self._stop_at", "late = False"),
    Mutation("a second signal", "test_a_second", "app.serving.server",
             "os._exit(128 + sig)", "pass"),
]  # fmt: skip
