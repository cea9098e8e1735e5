"""Each layer around Gradio alone, with an application of three lines behind it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import time
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.serving import clients
from app.serving.answers import Answers, RefusedError
from app.serving.bodies import Bodies, Sizes, check_json, deepest
from app.serving.clients import Allowance, Buckets, Rate, RateLimit
from app.serving.headers import RetryAfter, SecurityHeaders
from app.serving.hosts import Hosts
from app.serving.lifecycle import Draining, Lifecycle, Probes
from app.serving.trace import Trace
from app.work.turns import BusyError, Turns

UPLOAD = "/gradio_api/upload"


def answers(*layers: Middleware, client: str = "127.0.0.1", **request: Any) -> list[httpx.Response]:
    """Send a request, several times where asked to, through layers to an application."""

    async def echo(request: Request) -> Response:
        return JSONResponse({"got": len(await request.body())})

    async def full(request: Request) -> Response:
        return JSONResponse({"detail": "Queue is full."}, 503)

    async def fails(request: Request) -> Response:
        raise ZeroDivisionError

    async def failed(request: Request) -> Response:
        return JSONResponse({"error": "no"}, 500)

    async def plain(request: Request) -> Response:
        return PlainTextResponse("no", 500)

    async def store(request: Request) -> Response:
        async with request.form(max_files=1_000) as form:
            return JSONResponse({"got": len(form.getlist("files"))})

    routes = {
        "/": echo,
        UPLOAD: store,
        "/full": full,
        "/fails": fails,
        "/failed": failed,
        "/plain": plain,
    }
    app = Starlette(
        routes=[Route(path, do, methods=["GET", "POST"]) for path, do in routes.items()],
        middleware=list(layers),
    )

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, client=(client, 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as sender:
            times = request.pop("times", 1)
            method, path = request.pop("method", "POST"), request.pop("path", "/")
            return [await sender.request(method, path, **request) for _ in range(times)]

    # In a thread of its own: beside browser tests, Playwright's loop runs in this one.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(send())).result()


@pytest.mark.parametrize("path", ["/fails", "/failed", "/plain"])
def test_nothing_is_answered_with_a_500(path: str) -> None:
    [answer] = answers(Middleware(Trace), Middleware(Answers), path=path)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert len(answer.headers["x-request-id"]) == 16


@pytest.mark.parametrize("streamed", [True, False])
def test_bodies_up_to_a_byte(streamed: bool) -> None:
    for size, status in ((100, 200), (101, 413)):
        body = b'"' + b"x" * (size - 2) + b'"'

        async def pieces(body: bytes = body) -> Any:
            for start in range(0, len(body), 7):
                yield body[start : start + 7]

        [answer] = answers(
            Middleware(Answers),
            Middleware(Bodies, Sizes(upload=50, other=100)),
            content=pieces() if streamed else body,
        )
        assert answer.status_code == status
        assert status == 413 or answer.json() == {"got": size}


def test_unfinished_bodies_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.serving.bodies._MOST_KEPT", 100)
    layers = Middleware(Answers), Middleware(Bodies, Sizes(upload=50))
    [kept] = answers(*layers, content=b" " * 99 + b"1")
    assert kept.status_code == 200
    [refused] = answers(*layers, content=b" " * 100 + b"1")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"


def _nested(rng: random.Random, levels: int) -> Any:
    if levels == 0:
        return rng.choice((1, "text", 'quo"te', "brackets ]}[{", "back\\slash", "\\", '\\"[', None))
    inner = _nested(rng, levels - 1)
    others = [_nested(rng, rng.randrange(levels)) for _ in range(rng.randrange(3))]
    return rng.choice(([*others, inner], {str(n): one for n, one in enumerate([inner, *others])}))


def _levels(value: Any) -> int:
    if not isinstance(value, (list, dict)):
        return 0
    return 1 + max(map(_levels, value.values() if isinstance(value, dict) else value), default=0)


def test_levels_are_counted_as_python_reads_them() -> None:
    rng = random.Random(18)
    for _ in range(300):
        text = json.dumps(_nested(rng, rng.randrange(9)))
        assert deepest(text.encode()) == _levels(json.loads(text))


@pytest.mark.parametrize("number", [1, -0.5, 1e300, 10**400])
def test_numbers_that_are_some(number: float) -> None:
    check_json(json.dumps([number]).encode())


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", "1e999", "9" * 5_000, "[" * 33 + "]" * 33])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(RefusedError, match="can't be read"):
        check_json(text.encode())


def test_deep_json_costs_little() -> None:
    """Nothing is built of it: the levels are counted over the whole of a body."""
    assert deepest(b"[" * 2_000_000) == 2_000_000
    assert deepest(b'"' + b'\\"' * 500_000 + b'"' + b"[]" * 500_000) == 1


OWN = socket.gethostname().lower()


@pytest.mark.parametrize(
    ("listens", "names", "own", "foreign"),
    [
        ("127.0.0.1", (), ["localhost", "127.0.0.1:80", "[::1]:1"], [OWN + ".lan", "10.0.0.1", ""]),
        ("0.0.0.0", (), ["10.0.0.1:7860", "[fe80::1]:7860", OWN, "localhost."], ["evil.example"]),
        ("::", (), ["192.168.1.2", f"{OWN.split('.')[0]}.local:7860"], ["local", "a.local.evil"]),
        ("box.lan", (), ["box.lan:7860", "10.0.0.1"], ["evil.lan"]),
        ("127.0.0.1", ("a.org", "*.b.org"), ["A.org", "x.b.org:1"], ["b.org", "xa.org", "xb.org"]),
        ("127.0.0.1", (), ["127.8.8.8"], ["[::1", "127.0.0.1:x", "a@localhost", "local host"]),
    ],
)
def test_names_of_the_server(
    listens: str, names: tuple[str, ...], own: list[str], foreign: list[str]
) -> None:
    hosts = Hosts(listens, names)
    assert [name for name in own if not hosts.admits(name)] == []
    assert [name for name in foreign if hosts.admits(name)] == []


def test_a_client_gets_its_requests_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(clients.time, "monotonic", lambda: now)
    buckets, rate = Buckets(), Rate(3, 2.0)
    assert [buckets.take("a", rate) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", rate) == 0
    now = 0.5
    assert [buckets.take("a", rate) for _ in range(2)] == [0, 0.5]
    assert [buckets.wait("b", rate, count) for count in (2, 3, 3, 5)] == [0, 0, 0, 1]
    assert [buckets.take("b", rate, count) for count in (2, 2, 1)] == [0, 0.5, 0]


def test_a_network_is_one_client_and_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def statuses(client: str, **more: Any) -> list[int]:
        layers = Middleware(Answers), Middleware(RateLimit, Rate(2, 0.001), Rate(4, 0.001))
        return [one.status_code for one in answers(*layers, client=client, times=5, **more)]

    def client_of(address: Any, *headers: tuple[bytes, bytes]) -> tuple[str, bool]:
        return clients._client({"client": address, "headers": list(headers)})

    assert statuses("203.0.113.5") == [200, 200, 429, 429, 429]
    assert statuses("127.0.0.1") == [200] * 4 + [429]
    assert statuses("203.0.113.5", method="GET") == [200] * 5
    assert client_of(("2001:db8::1", 1)) == client_of(("2001:db8::ffff", 2))
    assert client_of(("::ffff:127.0.0.1", 1)) == ("127.0.0.1", True)
    assert client_of(("127.0.0.1", 1), (b"x-forwarded-for", b"127.0.0.1")) == ("127.0.0.1", False)
    assert client_of(None) == ("", False)
    buckets = Buckets()
    for number in range(clients._MOST_CLIENTS + 5):
        buckets.take(str(number), Rate(1, 1.0))
    assert len(buckets) == clients._MOST_CLIENTS


@pytest.mark.parametrize(("size", "taken"), [(1, 3), (65_536, 1), (300_000, 0)])
def test_a_client_may_leave_so_many_bytes(size: int, taken: int) -> None:
    """A file counts as 64 KiB more than it has: tiny ones use a disk up, too."""
    layers = Middleware(Answers), Middleware(Bodies, Sizes(upload=10**6), Rate(200_000, 100.0))
    upload: dict[str, Any] = {"path": UPLOAD, "files": {"files": ("a.png", b"1" * size)}}
    others = answers(*layers, client="203.0.113.7", times=4, **upload)
    assert [answer.status_code for answer in others] == [200] * taken + [429] * (4 - taken)
    assert "Too much was uploaded" in others[-1].json()["detail"]
    assert int(others[-1].headers["retry-after"]) > 600
    own = answers(*layers, times=4, **upload)
    assert [answer.status_code for answer in own] == [200] * 4


def test_an_allowance_is_each_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def scope(address: str) -> dict[str, Any]:
        return {"client": (address, 1), "headers": []}

    monkeypatch.setattr(clients.time, "monotonic", lambda: 0.0)
    allowance = Allowance(Rate(1_000, 10.0))
    spend = allowance.spender(scope("203.0.113.7"), 100)
    spend(900)
    with pytest.raises(RefusedError) as refused:
        spend(200)
    assert (refused.value.status, refused.value.retry_after) == (429, 100)  # for all of it
    with pytest.raises(RefusedError, match="in 40 s"):
        allowance.spender(scope("203.0.113.7"), 500)
    for address, size in (("203.0.113.8", 1_000), ("127.0.0.1", 10**12)):
        allowance.spender(scope(address), size)(size)
    Allowance(None).spender(scope("203.0.113.7"), 10**12)(10**12)


def test_a_full_queue_of_gradios_says_when_to_come_back() -> None:
    [answer] = answers(Middleware(RetryAfter, lambda: 6.4), path="/full")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json() == {"detail": "Queue is full."}


def test_only_a_space_may_be_framed_by_others() -> None:
    for on_spaces in (True, False):
        [answer] = answers(Middleware(SecurityHeaders, on_spaces), method="GET")
        policy = answer.headers["content-security-policy"]
        assert ("https://huggingface.co" in policy.partition("frame-ancestors")[2]) == on_spaces
        assert "object-src 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


class Demo:
    """What the lifecycle looks at of a page."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.well = True
        self._queue = types.SimpleNamespace(stopped=False)  # Gradio's

    def ready(self) -> bool:
        return self.well


def test_readiness_follows_the_page_and_the_end() -> None:
    demo = Demo()
    lifecycle = Lifecycle(demo)

    def status(path: str = "/readyz") -> int:
        [answer] = answers(Middleware(Probes, lifecycle), method="GET", path=path)
        return answer.status_code

    assert status() == 503
    lifecycle.answers = True
    assert status() == 200
    demo.well = False
    assert status() == 503
    demo.well = True
    demo._queue.stopped = True
    assert (status(), status("/livez")) == (503, 503)
    demo._queue.stopped = False
    with demo.turns.take():
        assert (lifecycle.jobs, lifecycle.idle) == (1, False)
        lifecycle.stop()
        assert (status(), status("/livez")) == (503, 200)
        with pytest.raises(BusyError, match="restarting"), demo.turns.take():
            pass
        [answer] = answers(Middleware(Answers), Middleware(Draining, lifecycle))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert lifecycle.idle


def test_seconds_of_jobs_are_told() -> None:
    turns, seen = Turns(), []
    turns.observe = seen.append
    with turns.take():
        time.sleep(0.01)
    [seconds] = seen
    assert seconds >= 0.01


@pytest.mark.parametrize("short_of", ["bytes", "files"])
def test_a_disk_that_is_nearly_full_takes_no_upload(
    monkeypatch: pytest.MonkeyPatch, short_of: str
) -> None:
    layers = Middleware(Answers), Middleware(Bodies, Sizes(upload=10**6))
    upload: dict[str, Any] = {"path": UPLOAD, "files": {"files": ("a.png", b"1")}}
    [answer] = answers(*layers, **upload)
    assert answer.json() == {"got": 1}
    if short_of == "bytes":
        usage = shutil.disk_usage(".")._replace(free=10**9 - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    else:
        state = types.SimpleNamespace(f_files=10**6, f_favail=19_999)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10**12))
        monkeypatch.setattr(os, "statvfs", lambda _: state)
    [answer] = answers(*layers, **upload)
    assert answer.status_code == 507
    assert "nearly full" in answer.json()["error"]
    assert answer.headers["retry-after"] == "120"
