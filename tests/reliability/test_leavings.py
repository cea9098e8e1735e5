"""What visitors leave on the server: names, runs, places in a row, uploads; each is bounded."""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from app.services import hub_downloads
from app.services.catalog import Catalog
from app.services.hub_downloads import Fetches
from app.services.results import Runs
from app.services.service import ModelService
from app.tabs import models as models_tab
from app.tabs.compare import Handlers
from app.tabs.kan import KanHandlers
from app.tabs.models import ModelsHandlers
from app.work.turns import BusyError
from mask2kan.checkpoints.manifest import Address
from tests.reliability.mutations import Mutation
from tests.reliability.raw_http import FILE, UPLOAD, Answer, ask, multipart
from tests.serving import EXAMPLE, serving, tiny_models

ALLOWANCE = 500_000_000  # bytes of a client, in public
LONG = 1_900_000  # characters: a request may have 2 MB
MODEL = "mask2kan_road"

MUTATIONS = [
    Mutation(
        "bytes of one client's uploads",
        "test_tiny_files",
        "app.serving.uploads",
        "        self._spend(_FILE)\n",
        "",
    ),
    Mutation(
        "an allowance for uploads",
        "test_tiny_files",
        "app.serving.clients",
        "if rate is None or is_own:",
        "if True:",
    ),
    Mutation(
        "a picture's name is cut where it is taken",
        "test_runs_keep_little",
        "app.files.uploads",
        ".name[-_LONGEST_SENT:]",
        ".name",
    ),
    Mutation(
        "runs name models as they are known",
        "test_runs_keep_little",
        "app.tabs.compare",
        "tuple(map(self._service.catalog.name, models))",
        "tuple(models)",
    ),
    Mutation(
        "the panel names models as they are known",
        "test_the_panel_says_little",
        "app.tabs.kan",
        'self._service.catalog.name(str(question.get("model") or ""))',
        'str(question.get("model") or "")',
    ),
    Mutation(
        "sessions that could cancel",
        "test_few_sessions",
        "app.tabs.models",
        "LRUCache(_SESSIONS)",
        "LRUCache(10**9)",
    ),
    Mutation(
        "visitors who wait for a download",
        "test_few_wait",
        "app.services.hub_downloads",
        "if self._most_bytes is not None and crowded:",
        "if False:",
    ),
]


@pytest.mark.row("one client's tiny files", limit="429 beyond 500 MB; others are served")
def test_tiny_files_are_not_piled_up(tmp_path: Path, figure: Callable[[str], None]) -> None:
    def upload(url: str, client: str, first: int) -> Answer:
        parts = [(FILE, f"{first + number}".encode()) for number in range(400)]
        headers = [
            ("Content-Type", "multipart/form-data; boundary=edge"),
            ("X-Forwarded-For", client),
        ]
        return ask(url, "POST", UPLOAD, headers, multipart(parts), seconds=60)

    most = ALLOWANCE // (400 * 65_536)
    with serving(tmp_path, tiny_models(tmp_path), MASK2KAN_PUBLIC="1") as app:
        greedy = [upload(app.url, "203.0.113.7", 1_000 * number) for number in range(most + 4)]
        other = upload(app.url, "203.0.113.8", 10**6)
        folder = app.log.parent / "gradio"
        files = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size < 16]
    refused = [answer for answer in greedy if answer.status == 429]
    figure(f"{len(refused)} of {len(greedy)} uploads refused; {len(files):,} files are left")
    assert {answer.status for answer in greedy[:most]} == {200}
    assert {answer.status for answer in greedy[most + 2 :]} == {429}
    assert all(answer.sentence.endswith(" s.") for answer in refused)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert other.status == 200
    assert len(files) == 400 * (len(greedy) - len(refused) + 1)


class Idle(ModelService):
    """Computes nothing."""

    def __init__(self) -> None:
        super().__init__(device="cpu", catalog=Catalog([MODEL]))

    def run(self, job: Callable[..., Any], *args: Any) -> Any:
        return {}

    def decode(self, job: Callable[..., Any], *args: Any) -> Any:
        return np.zeros((8, 8, 3), np.uint8)


@pytest.mark.row("long names in requests", limit="a run keeps < 2 kB")
def test_runs_keep_little(figure: Callable[[str], None]) -> None:
    handlers = Handlers(Idle())
    said = {"path": str(EXAMPLE), "name": "x" * LONG + ".png", "token": 1}
    padded = MODEL + " " * LONG
    value: Any = handlers.look(padded, padded, "msp", gr.EventData(None, said))
    run = handlers.runs.find(value["run"])
    kept = len(pickle.dumps(run))
    figure(f"{kept:,} bytes")
    assert run.sources == (MODEL, MODEL)
    assert value["name"] == "x" * 56 + ".png"
    assert kept < 2_000


def test_the_panel_says_little() -> None:
    handlers = KanHandlers(Idle(), Runs())
    assert handlers.see({"model": MODEL + " " * LONG})["model"] == MODEL


def test_few_sessions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_tab, "_SESSIONS", 3)
    handlers = ModelsHandlers(Idle())
    requests: list[Any] = [SimpleNamespace(session_hash=str(number)) for number in range(5)]
    for request in requests:
        handlers.begin(MODEL, request)
    found = [handlers._cancelled.find(request) is not None for request in requests]
    assert found == [False, False, True, True, True]


@pytest.mark.row("visitors who wait for one download", limit="12 in public; the next is told")
def test_few_wait_for_a_download(
    monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(hub_downloads, "fetch", lambda *_, **__: go_on.wait(30))
    address = Address("someone/tiny")

    @contextlib.contextmanager
    def waiting(fetches: Fetches, visitors: int) -> Iterator[None]:
        go_on.clear()
        with ThreadPoolExecutor(visitors) as crowd:
            waits = [crowd.submit(fetches.fetch, address) for _ in range(visitors)]
            deadline = time.monotonic() + 20
            while sum(one.waiting for one in list(fetches._running.values())) < visitors:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            try:
                yield
            finally:
                go_on.set()
            for one in waits:
                one.result(20)

    def comes_too(*_: Any) -> None:
        raise InterruptedError

    bounded = Fetches(most_bytes=10**9)
    with waiting(bounded, 12), pytest.raises(BusyError, match="Try again in 60 s") as told:
        bounded.fetch(address, comes_too)
    figure(str(told.value))
    for fetches, visitors in ((bounded, 11), (Fetches(), 20)):
        with waiting(fetches, visitors), pytest.raises(InterruptedError):
            fetches.fetch(address, comes_too)
