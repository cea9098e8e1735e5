"""One visitor who takes what is for all: places, threads, sessions, names, the queue itself."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio.server_messages import HeartbeatMessage
from PIL import Image

from app.serving.answers import RefusedError
from app.serving.bodies import check_json
from app.serving.lifecycle import Lifecycle
from app.work.gradio_bounds import bound
from tests.reliability.mutations import Mutation
from tests.serving import EXAMPLE, App, free_port, serving, tiny_models
from tests.visitors import Visitor

SHARE = 12  # jobs of one client that may wait, in public
GREEDY, OTHER = "203.0.113.7", "203.0.113.8"

MUTATIONS = [
    Mutation(
        "a share of the queue",
        "test_one_visitor_cannot",
        "app.serving.clients",
        "if waiting + self._asking[name] >= self._most:",
        "if False:",
    ),
    Mutation(
        "a share of what does not queue",
        "test_questions_beside",
        "app.serving.clients",
        '"component_server", ',
        "",
    ),
    Mutation(
        "messages to nobody",
        "test_a_session_that_is_forgotten",
        "app.work.gradio_bounds",
        "if event.session_hash not in sessions:",
        "if False:",
    ),
    Mutation(
        "unread messages",
        "test_answers_that_nobody_fetches",
        "app.work.gradio_bounds",
        "if sum(unread.values()) > _MOST_UNREAD:",
        "if False:",
    ),
    Mutation(
        "a queue that ended is not ready",
        "test_a_queue_that_ended",
        "app.serving.lifecycle",
        "return not self._demo._queue.stopped",
        "return True",
    ),
    Mutation(
        "sessions for many visitors",
        "test_many_sessions",
        "app.work.gradio_bounds",
        "app.state_holder.capacity = _SESSIONS",
        "app.state_holder.capacity = 200",
    ),
    Mutation(
        "small sessions",
        "test_many_sessions",
        "app.work.gradio_bounds",
        "        self.config_values = {}\n",
        "",
    ),
    Mutation(
        "addresses are not fetched",
        "test_nothing_is_fetched",
        "app.work.gradio_bounds",
        "processing_utils.async_ssrf_protected_download = _fetch_nothing",
        "pass",
    ),
    Mutation(
        "who has left is not waited for",
        "test_cancelled_jobs",
        "app.page",
        "            who.cancelled = True",
        "            who.cancelled = False",
    ),
    Mutation(
        "sessions that wait stay",
        "test_a_session_that_is_forgotten",
        "app.work.gradio_bounds",
        "if oldest not in waiting:",
        "if True:",
    ),
    Mutation(
        "small values by the hundred thousand",
        "test_many_small_values",
        "app.serving.bodies",
        "if sum(map(body.count, _SIGNS)) > _MOST_SIGNS:",
        "if False:",
    ),
    Mutation(
        "names in bodies",
        "test_names_are_short",
        "app.serving.bodies",
        "if not all(name is None or",
        "if False and not all(name is None or",
    ),
    Mutation(
        "names in addresses",
        "test_names_are_short",
        "app.serving.routes",
        "if not all(map(NAME.fullmatch, names)):",
        "if False:",
    ),
    Mutation(
        "what is no JSON",
        "test_names_are_short",
        "app.serving.bodies",
        'raise RefusedError(415, HTTP["kind"], "kind")',
        "pass",
    ),
    Mutation(
        "an absent model holds no thread",
        "test_questions_about_an_absent_model",
        "app.services.service",
        "if not fetches or (",
        "if False and (",
    ),
    Mutation(
        "proxies that are known",
        "test_a_forged_name",
        "app.serving.hosts",
        "if name not in _FORWARDED or (trusted and self._may_say(name, value))",
        "if True",
    ),
]


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """A Hub that takes every question and answers none."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as silent:
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, hub: str) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app")
    environment = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hub")}
    with serving(folder, tiny_models(folder), MASK2KAN_PUBLIC="1", **environment) as running:
        assert _ask(Visitor(running.url)).error is None  # now there is a process of the models
        yield running


def _from(app: App, address: str) -> Visitor:
    visitor = Visitor(app.url)
    visitor.http.headers["X-Forwarded-For"] = address
    return visitor


def _ask(visitor: Visitor) -> Any:
    event = visitor.event("segment")
    return visitor.ask(event, [visitor.upload(EXAMPLE), *visitor.usual(event)[1:]])


def _function(visitor: Visitor, name: str) -> int:
    [number] = (
        number
        for number, component in visitor.components.items()
        if name in (component["props"].get("server_fns") or ())
    )
    return int(number)


@contextlib.contextmanager
def _nothing_computed(app: App) -> Iterator[None]:
    hung = app.stopped()
    try:
        yield
    finally:
        hung.resume()


@pytest.mark.row("a client that fills the queue", limit="its share waits, 429; others are served")
def test_one_visitor_cannot_fill_the_queue(app: App, figure: Callable[[str], None]) -> None:
    greedy, other, refused = _from(app, GREEDY), _from(app, OTHER), []
    event = greedy.event("segment")
    data = [greedy.upload(EXAMPLE), *greedy.usual(event)[1:]]
    with _nothing_computed(app):
        for _ in range(60):
            try:
                greedy.another_session().join(event, data)
            except httpx.HTTPStatusError as error:
                refused.append(error.response)
    start = time.monotonic()
    assert _ask(other).error is None
    figure(
        f"{60 - len(refused)} of 60 jobs joined, {len(refused)} refused; "
        f"another waited {time.monotonic() - start:.1f} s"
    )
    assert 60 - SHARE - 1 <= len(refused) <= 60 - SHARE + 1  # one or two of them run
    for response in refused:
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert str(SHARE) in response.json()["detail"]


@pytest.mark.row("a client beside the queue", limit="its share is asked, 429; others are served")
def test_questions_beside_the_queue_have_their_share(
    app: App, figure: Callable[[str], None]
) -> None:
    greedy, other = _from(app, GREEDY), _from(app, OTHER)
    number, statuses = _function(greedy, "kan_edge"), []
    question = {"run": None, "model": str(app.models[0]), "layer": 0, "input": 0, "output": 0}
    told = {"session_hash": "x", "component_id": number, "fn_name": "kan_edge", "data": question}

    def ask(_: int) -> None:
        answer = greedy.http.post("/gradio_api/component_server", json=told)
        statuses.append(answer.status_code)

    with ThreadPoolExecutor(45) as crowd:
        with _nothing_computed(app):
            asked = [crowd.submit(ask, n) for n in range(45)]
            deadline = time.monotonic() + 60
            while len(statuses) < 45 - SHARE and time.monotonic() < deadline:
                time.sleep(0.05)
            refused = list(statuses)
            start = time.monotonic()
            page = other.http.get("/").status_code
            spent = time.monotonic() - start
        for one in asked:
            one.result()
    figure(f"{refused.count(429)} of 45 refused; the page answers another in {spent:.2f} s")
    assert refused.count(429) >= 45 - SHARE
    assert page == 200
    assert _ask(other).error is None


@pytest.mark.row(
    "an absent model", limit="no thread and no place in the queue waits for a stranger's"
)
def test_questions_about_an_absent_model(app: App, figure: Callable[[str], None]) -> None:
    visitor = Visitor(app.url)
    question = {"run": None, "model": "stranger/model", "layer": 0, "input": 0, "output": 0}
    start = time.monotonic()
    beside = visitor.call_server(_function(visitor, "kan_edge"), "kan_edge", question)
    event = visitor.event("segment")
    image, _, *rest = visitor.usual(event)
    queued = visitor.ask(event, [image, "stranger/model", *rest])
    figure(f"{queued.error} ({time.monotonic() - start:.1f} s)")
    assert "not on this server" in str(beside.error)
    assert "not on this server" in str(queued.error)


@pytest.mark.row("addresses in place of files", limit="nothing is fetched, one sentence")
def test_nothing_is_fetched_from_addresses(app: App, figure: Callable[[str], None]) -> None:
    visitor, refusals = Visitor(app.url), []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        for event in visitor.events:
            for place in range(len(event["inputs"])):
                for address in (here, "https://example.com/x.png"):
                    data = visitor.usual(event)
                    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
                    data[place] = [file] if isinstance(data[place], list) else file
                    refusals.append(visitor.ask(event, data).refusal)
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
    told = sum("fetches nothing" in str(refusal) for refusal in refusals)
    figure(f"{told} of {len(refusals)} told so, 0 fetched")

    assert told > 20


def _noise(visitor: Visitor, folder: Path, seed: int) -> dict[str, Any]:
    path = folder / f"noise_{seed}.png"
    chance = np.random.default_rng(seed)
    Image.fromarray(chance.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return visitor.upload(path)


@pytest.mark.row("jobs that are cancelled", limit="those that wait are not computed")
def test_cancelled_jobs_are_not_computed(
    app: App, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    greedy, other = _from(app, GREEDY), _from(app, OTHER)
    event, jobs = greedy.event("segment"), 8
    pictures = [_noise(greedy, tmp_path, seed) for seed in range(jobs)]
    assert _ask(other).error is None
    runs = app.model_runs()
    with _nothing_computed(app):
        for picture in pictures:
            newcomer = greedy.another_session()
            joined = newcomer.join(event, [picture, *greedy.usual(event)[1:]])
            time.sleep(0.3)  # until it is taken from the queue
            told = {"session_hash": newcomer.session, "fn_index": event["id"], "event_id": joined}
            newcomer.http.post("/gradio_api/cancel", json=told).raise_for_status()
        time.sleep(1.5)
    start = time.monotonic()
    assert other.ask(event, [_noise(other, tmp_path, 99), *other.usual(event)[1:]]).error is None
    computed = app.model_runs() - runs - 1
    figure(f"{computed} of {jobs} computed; another waited {time.monotonic() - start:.1f} s")
    assert computed <= 1  # the one that ran


@pytest.mark.row("names of sessions", limit="1 to 64 characters, 400 in a sentence, < 20 MB")
def test_names_are_short(app: App, figure: Callable[[str], None]) -> None:
    visitor = Visitor(app.url)
    event, process = visitor.event("models"), app.processes()["app"]
    before, answers = process.memory_info().rss, []
    for name in ("", "a b", "x" * 65, "x" * 1_900_000, ["x"], 5, "é", "x\n"):
        for key in ("session_hash", "event_id"):
            body = {"data": [], "fn_index": event["id"], key: name}
            answers.append(visitor.http.post("/gradio_api/queue/join", json=body))
    for number in range(20):
        body = {"data": [], "fn_index": event["id"], "session_hash": f"{number}" + "x" * 1_900_000}
        answers.append(visitor.http.post("/gradio_api/queue/join", json=body))
    for number in range(200):
        query = {"upload_id": f"{number}" + "x" * 30_000}
        answers.append(visitor.http.get("/gradio_api/upload_progress", params=query))
    named = {"session_hash": "x" * 65}
    answers.append(visitor.http.get("/gradio_api/queue/data", params=named, timeout=5))
    answers.append(visitor.http.get(f"/gradio_api/heartbeat/{'x' * 65}", timeout=5))
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    told = b'--edge\r\nContent-Disposition: form-data; name="session_hash"\r\n\r\nx\r\n--edge--\r\n'
    parts = visitor.http.post("/gradio_api/component_server", content=told, headers=kind)
    grown = (process.memory_info().rss - before) / 1e6
    figure(f"{len(answers)} refused, {grown:+.0f} MB")
    assert {answer.status_code for answer in answers} == {400}
    assert parts.status_code == 415
    assert all(answer.json()["detail"] for answer in [*answers, parts])
    assert grown < 20
    check_json(b'{"session_hash": null, "event_id": "a-B_9"}')


@pytest.mark.row("JSON of many small values", limit="413 before it is read")
def test_many_small_values_are_not_read(figure: Callable[[str], None]) -> None:
    many = [
        b"[]," * 600_000,
        b'"",' * 600_000,
        b'"a":1,' * 300_000,
        b'"' + b"\\\\" * 900_000 + b'",',
    ]
    for values in many:
        with pytest.raises(RefusedError) as refused:
            check_json(b"[" + values + b"0]")
        assert refused.value.status == 413
    figure(f"{len(many)} of {len(many)} refused")
    check_json(json.dumps([[{"path": f"/a/{n}.png", "size": n}] for n in range(2_000)]).encode())


@pytest.mark.row("a forged name of the server", limit="nobody else is told it")
def test_a_forged_name_is_told_to_nobody(app: App, figure: Callable[[str], None]) -> None:
    names = ("X-Forwarded-Host", "X-Gradio-Server")
    forged_names = ("evil.example", "6.6.6.6", "2001:db8::6", "localhost:9")
    for name in names:
        for value in ("evil.example", "http://evil.example", "[", "6.6.6.6", "[2001:db8::6]"):
            forged = {name: value, "X-Forwarded-Proto": "https"}
            assert httpx.get(f"{app.url}/gradio_api/info", headers=forged).status_code == 200
            config = httpx.get(f"{app.url}/config", headers=forged).text
            assert not any(name in config for name in forged_names)
    assert httpx.get(f"{app.url}/gradio_api/info", headers={"Host": "localhost:9"}).is_success
    told = httpx.get(f"{app.url}/gradio_api/info").text
    count = sum(map(told.count, forged_names))
    figure(f"{len(names)} headers, told {count} times")
    assert count == 0


@pytest.mark.row("many sessions", limit="a visitor's state outlives 1,000 others; < 60 kB each")
def test_many_sessions_push_nobody_out(app: App, figure: Callable[[str], None]) -> None:
    visitor, process = Visitor(app.url), app.processes()["app"]
    number = _function(visitor, "kan_edge")
    begin, end = visitor.event("begin"), visitor.event("end")
    files = [{**visitor.upload(EXAMPLE), "orig_name": "a.webp"}]
    assert visitor.ask(begin, [files, None, None]).error is None
    before = process.memory_info().rss
    for _ in range(1_000):
        visitor.another_session().call_server(number, "kan_edge", {"layer": "x"})
    each = (process.memory_info().rss - before) / 1_000
    note = visitor.ask(end, [None]).data[2]
    figure(f"{each / 1e3:.0f} kB a session; told afterwards: {str(note.get('value'))[:60]}")
    assert note.get("__type__") == "update"
    assert note.get("value")
    assert each < 60_000


class Served:
    """A page of two callbacks, served here: one is slow, one quick."""

    def __init__(self, sessions: int = 2_000) -> None:
        self.go_on = threading.Event()
        with gr.Blocks() as self.demo:
            gr.api(self._slow, api_name="slow", concurrency_id="one", concurrency_limit=1)
            gr.api(self._quick, api_name="quick", concurrency_id="one", concurrency_limit=1)
        self.demo.queue()
        self.demo.launch(
            prevent_thread_lock=True, server_port=free_port(), quiet=True, ssr_mode=False
        )
        bound(self.demo.app, self.demo)
        self.demo._queue.pending_messages_per_session.most = sessions
        assert self.demo.limiter.total_tokens == 40  # not the threads of pages and files
        self.http = httpx.Client(base_url=self.demo.local_url, timeout=30, trust_env=False)

    def _slow(self) -> str:
        self.go_on.wait(30)
        return "done"

    def _quick(self) -> str:
        return "x" * 1_000

    def join(self, function: int, session: str) -> httpx.Response:
        body = {"data": [], "fn_index": function, "session_hash": session}
        return self.http.post("/gradio_api/queue/join", json=body)

    def answer(self, session: str) -> Any:
        query = {"session_hash": session}
        with self.http.stream("GET", "/gradio_api/queue/data", params=query) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if message.get("msg") == "process_completed":
                    return message["output"]["data"]
        raise AssertionError("no answer")

    def close(self) -> None:
        self.go_on.set()
        self.http.close()
        self.demo.close(verbose=False)


@pytest.mark.row("more sessions than are kept", limit="who waits is answered, the queue goes on")
def test_a_session_that_is_forgotten_ends_no_queue(figure: Callable[[str], None]) -> None:
    served = Served(sessions=3)
    try:
        served.join(0, "first")
        for number in range(8):
            served.join(1, f"waiting{number}")
        queue = served.demo._queue
        queue.send_message(types.SimpleNamespace(session_hash="no", alive=True), HeartbeatMessage())
        served.go_on.set()
        answers = [served.answer(f"waiting{number}") for number in range(8)]
        joined = served.join(1, "later")
        for number in range(20):
            served.join(1, f"unread{number}")
        figure(
            f"{len(answers)} of 8 answered, the next one: {joined.status_code}, "
            f"{len(queue.pending_messages_per_session)} sessions kept"
        )
        assert answers == [["x" * 1_000]] * 8
        deadline = time.monotonic() + 20
        while queue.event_ids_to_events and time.monotonic() < deadline:
            time.sleep(0.05)
        served.join(1, "last")
        assert served.answer("last") == ["x" * 1_000]
        assert not queue.stopped
    finally:
        served.close()


@pytest.mark.row("answers that nobody fetches", limit="at most 1,000 are kept")
def test_answers_that_nobody_fetches_are_dropped(figure: Callable[[str], None]) -> None:
    served = Served()
    queue = served.demo._queue
    try:
        served.join(1, "unread")
        event = types.SimpleNamespace(session_hash="unread", _id="x", alive=True)
        for _ in range(3_000):
            queue.send_message(event, HeartbeatMessage())
        kept = sum(messages.qsize() for messages in queue.pending_messages_per_session.values())
        figure(f"{kept} of 3,000 are kept")
        assert kept <= 1_000
    finally:
        served.close()


def test_a_queue_that_ended_is_not_ready() -> None:
    served = Served()
    try:
        lifecycle = Lifecycle(served.demo)
        lifecycle.answers = True
        assert lifecycle.alive
        assert lifecycle.ready
        served.demo._queue.stopped = True
        assert not lifecycle.alive
        assert not lifecycle.ready
    finally:
        served.close()
