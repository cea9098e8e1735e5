"""Requests that are too large, too slow, too many, malformed or foreign: refused, in a sentence."""

from __future__ import annotations

import http.server
import json
import random
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
import pytest
from gradio_client import Client, handle_file
from starlette.testclient import TestClient

from app.serving.lifecycle import Lifecycle
from app.serving.server import build_app
from app.startup import Settings
from tests.reliability.mutations import Mutation
from tests.reliability.raw_http import (
    FILE,
    JOIN,
    UPLOAD,
    Answer,
    Headers,
    ask,
    connect,
    fuzzed,
    head,
    multipart,
    read,
    send,
)
from tests.serving import EXAMPLE, App, serving, tiny_models

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")

JSON_LIMIT, UPLOAD_LIMIT = 2_000_000, 256_000_000
PATIENCE = 3.0
DESCRIPTORS = 512  # of which the app keeps 384 from connections
# The app as the world meets it, with less patience and fewer descriptors than it may have.
HURRIED = f"""
import resource, runpy, sys
sys.path.insert(0, "")
resource.setrlimit(resource.RLIMIT_NOFILE, (128, {DESCRIPTORS}))
from app.serving.connections import Connection, Patience
Connection.patience = Patience(head={PATIENCE}, pause={PATIENCE})
sys.argv = ["app.py"]
runpy.run_path("app.py", run_name="__main__")
"""
RESET = "/gradio_api/reset"
JSON_KIND = ("Content-Type", "application/json")
EDGE = ("Content-Type", "multipart/form-data; boundary=edge")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app")
    with serving(
        folder,
        tiny_models(folder),
        command=("-c", HURRIED),
        MASK2KAN_PUBLIC="1",
        MASK2KAN_HOSTS="demo.example.org,*.example.com",
        OMP_NUM_THREADS="1",
    ) as running:
        # Models are loaded, and what every visitor sees first is there.
        client = Client(running.url, verbose=False, httpx_kwargs={"trust_env": False})
        client.predict(handle_file(EXAMPLE), api_name="/compare")
        yield running


def uploads(app: App) -> set[Path]:
    """What Gradio keeps of uploads, finished or not."""
    folder = app.log.parent / "gradio"
    return {path for path in folder.rglob("*") if path.is_file()}


def memory(app: App) -> float:
    """MB that the app's process and its children hold."""
    process = psutil.Process(app.process.pid)
    return sum(one.memory_info().rss for one in [process, *process.children(True)]) / 1e6


def is_refused(answer: Answer, *statuses: int) -> bool:
    return answer.status in statuses and answer.sentence.endswith(".")


@pytest.mark.row("oversize or odd HTTP", limit="0 answers of 500, < 100 MB, page answers after")
def test_fuzzed_requests(app: App, seed: int, scale: Any, figure: Any, save_failure: Any) -> None:
    rng = random.Random(seed)
    for _ in range(50):  # what is imported or made at first use is no growth
        send(app.url, fuzzed(rng), 3)
    before = memory(app)
    requests = [fuzzed(rng) for _ in range(scale(300, 5_000))]
    with ThreadPoolExecutor(8) as several:
        answers = list(several.map(lambda request: send(app.url, request, 3), requests))
    grown = memory(app) - before
    faults = [
        (request, answer)
        for request, answer in zip(requests, answers, strict=True)
        if answer.status >= 500 and not (answer.status == 503 and "retry-after" in answer.headers)
    ]
    answered = sum(answer.status > 0 for answer in answers)
    for number, (request, answer) in enumerate(faults[:5]):
        save_failure(f"{number}.http", request + b"\n\n" + repr(answer).encode())
    figure(f"{len(requests)} requests, {answered} answers, {len(faults)} of 500, {grown:+.0f} MB")
    assert not faults
    assert answered > len(requests) * 0.6
    assert grown < 100
    assert ask(app.url).status == 200


@pytest.mark.row("limits of size", limit="exact to a byte, chunked or not, 413 in a sentence")
def test_limits_are_exact(app: App, scale: Any, figure: Any) -> None:
    chunked = ("Transfer-Encoding", "chunked")
    shown = []
    for size in (JSON_LIMIT, JSON_LIMIT + 1):
        body = b'{"event_id": "x", "more": "%s"}' % (b"x" * (size - 29))
        assert len(body) == size
        pieces = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
        for answer in (
            ask(app.url, "POST", RESET, [JSON_KIND], body),
            send(app.url, head("POST", RESET, [JSON_KIND, chunked]) + pieces),
        ):
            shown.append(answer.status)
            assert answer.status == (413 if size > JSON_LIMIT else 200), answer
            assert size == JSON_LIMIT or is_refused(answer, 413), answer
    for size in (UPLOAD_LIMIT, UPLOAD_LIMIT + 1):
        length = ("Content-Length", str(size))
        with connect(app.url, 1) as client:
            client.sendall(head("POST", UPLOAD, [EDGE, length]))
            answer = read(client)  # none while the body is waited for
        assert is_refused(answer, 413) == (size > UPLOAD_LIMIT), answer
        shown.append(answer.status)
        if scale(False, True):
            shown.append(_stream(app, size).status)
            assert (shown[-1] == 413) == (size > UPLOAD_LIMIT)
    figure(f"at and above {JSON_LIMIT} and {UPLOAD_LIMIT} bytes: {shown}")


def _stream(app: App, size: int) -> Answer:
    """Upload so many bytes in all without saying so before, as files of 50 MB."""
    with connect(app.url, 60) as client:
        client.sendall(head("POST", UPLOAD, [EDGE, ("Transfer-Encoding", "chunked")]))
        start = f"--edge\r\nContent-Disposition: {FILE}\r\n\r\n".encode()
        end = b"\r\n--edge--\r\n"
        left, part = size - len(end), 50_000_000
        try:
            while left > 0:
                content = min(part, left - len(start) - 2 * (left > part))
                piece = start + b"\0" * content + b"\r\n" * (left > part + len(start))
                client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                left -= len(piece)
            client.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end))
        except ConnectionError:
            pass
        return read(client)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 40_000, id="depth"),
        pytest.param(b'{"data": [' + b"[" * 40 + b"]" * 40 + b"]}", id="forty levels"),
        pytest.param(b'{"data": [NaN]}', id="NaN"),
        pytest.param(b'{"data": [-Infinity]}', id="Infinity"),
        pytest.param(b'{"data": [1e999]}', id="1e999"),
        pytest.param(b'{"data": [' + b"9" * 5_000 + b"]}", id="digits"),
        pytest.param(b'{"data": ', id="cut"),
        pytest.param(b"\xff\xfe{}", id="no UTF-8"),
    ],
)
def test_json_that_python_alone_would_take(app: App, body: bytes) -> None:
    for kind in ([JSON_KIND], []):
        assert is_refused(ask(app.url, "POST", JOIN, kind, body), 400)


ODD_UPLOADS = {
    "a text part": (EDGE, multipart([('form-data; name="files"', b"text")])),
    "200 MB would be text": (EDGE, multipart([('form-data; name="x"', b"t" * 10_000)])),
    "another name": (EDGE, multipart([('form-data; name="f"; filename="x"', b"")])),
    "no disposition": (EDGE, b"--edge\r\n\r\nx\r\n--edge--\r\n"),
    "a name of dots": (EDGE, multipart([('form-data; name="files"; filename=".."', b"")])),
    "NUL in the name": (EDGE, multipart([('form-data; name="files"; filename="a\0b"', b"")])),
    "2,000 characters": (EDGE, multipart([(FILE.replace("x.", "n" * 2_000 + "."), b"")])),
    "401 parts": (EDGE, multipart([(FILE, b"")] * 401)),
    "long boundary": (
        ("Content-Type", f"multipart/form-data; boundary={'b' * 5_000}"),
        multipart([(FILE, b"")], "b" * 5_000),
    ),
    "71 characters": (
        ("Content-Type", f"multipart/form-data; boundary={'b' * 71}"),
        multipart([(FILE, b"")], "b" * 71),
    ),
    "no boundary": (("Content-Type", "multipart/form-data"), b""),
    "a charset of its own": (
        ("Content-Type", "multipart/form-data; boundary=edge; charset=idna"),
        multipart([(FILE, b"")]),
    ),
    "cut": (EDGE, multipart([(FILE, b"x" * 5_000)])[:-200]),
    "long headers": (EDGE, multipart([(FILE + ("\r\nX: " + "x" * 1_000) * 5, b"")])),
    "a good file, then text": (
        EDGE,
        multipart([(FILE, b"x" * 100_000), ('form-data; name="files"', b"text")]),
    ),
}


@pytest.mark.row("odd and aborted uploads", limit="400 in a sentence, no file left")
def test_refused_uploads_leave_nothing(app: App, figure: Any) -> None:
    before = uploads(app)
    for words, (kind, body) in ODD_UPLOADS.items():
        for path in (UPLOAD, f"{UPLOAD}?upload_id=x"):
            answer = ask(app.url, "POST", path, [kind], body)
            assert is_refused(answer, 400), (words, answer)
    aborted = 30
    for _ in range(aborted):
        with connect(app.url) as client:
            body = multipart([(FILE, b"x" * 50_000)])
            client.sendall(
                head("POST", UPLOAD, [EDGE, ("Content-Length", "90000")]) + body[:40_000]
            )
    slow = connect(app.url)  # held open, until it has been too slow
    slow.sendall(head("POST", UPLOAD, [EDGE, ("Content-Length", "90000")]) + body[:40_000])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and uploads(app) - before:
        time.sleep(0.1)
    slow.close()
    left = uploads(app) - before
    figure(f"{len(ODD_UPLOADS)} kinds refused, {aborted} aborted: {len(left)} files left")
    assert not left
    sent = ask(app.url, "POST", UPLOAD, [EDGE], multipart([(FILE, b"x" * 1_000)]))
    assert sent.status == 200
    assert Path(json.loads(sent.body)[0]).read_bytes() == b"x" * 1_000


@pytest.mark.parametrize(
    "value", ["bytes=1-2-3", "bytes=" + "0-1," * 999 + "0-1", "bytes=9-1", "bytes=²-9", "x=0-1"]
)
def test_odd_ranges_are_ignored(app: App, value: str) -> None:
    sent = ask(app.url, "POST", UPLOAD, [EDGE], multipart([(FILE, b"0123456789")]))
    path = f"/gradio_api/file={json.loads(sent.body)[0]}"
    answer = ask(app.url, "GET", path, [("Range", value)])
    assert (answer.status, answer.body) == (200, b"0123456789")
    some = ask(app.url, "GET", path, [("Range", "bytes=2-4")])
    assert (some.status, some.body) == (206, b"234")
    assert ask(app.url, "GET", path, [("Range", "bytes=7-")]).body == b"789"


@pytest.mark.row("slow senders", limit="a visitor is served within 1.5 s, streams live on, 0 stay")
def test_slow_senders_keep_nobody_out(app: App, figure: Any) -> None:
    count = 600  # more than there are descriptors for
    with connect(app.url, 60) as stream:
        stream.sendall(head("GET", "/gradio_api/heartbeat/slow"))
        slow, spent = [], []
        half = head("POST", JOIN, [JSON_KIND, ("Content-Length", "100000")])
        for number in range(count):
            client = connect(app.url)
            client.sendall(b"GET / HTTP/1.1\r\nHost:" if number % 2 else half)
            slow.append(client)
            if number % 50 == 0:
                spent.append(_seconds_of_a_visit(app))
        begin = time.monotonic()
        while time.monotonic() - begin < 1.4 * PATIENCE:
            spent.append(_seconds_of_a_visit(app))
            for client in slow:  # a byte now and then
                try:
                    client.send(b" ")
                except OSError:
                    continue
            time.sleep(0.2)
        stay = sum(not _is_closed(client) for client in slow)
        lives = not _is_closed(stream)
    for client in slow:
        client.close()
    longest = max(spent)
    figure(f"{count} senders: {longest:.2f} s for a visitor, {stay} stay, stream lives: {lives}")
    assert longest < 1.5
    assert stay == 0
    assert lives


@pytest.mark.skipif(sys.platform != "linux", reason="needs several addresses of this machine")
@pytest.mark.row("many streams", limit="a visitor is served within 1.5 s, others' streams live on")
def test_endless_streams_keep_nobody_out(app: App, figure: Any) -> None:
    count, spent = 700, []  # more than there are descriptors for
    with connect(app.url, 60, "127.0.0.2") as other:
        other.sendall(head("GET", "/gradio_api/heartbeat/other"))
        held = []
        for number in range(count):
            client = connect(app.url, own="127.0.0.3")
            client.sendall(head("GET", f"/gradio_api/heartbeat/{number}"))
            held.append(client)
            if number % 50 == 49:
                spent.append(_seconds_of_a_visit(app))
        kept = sum(not _is_closed(client) for client in held[-100:])
        lives = not _is_closed(other)
    for client in held:
        client.close()
    figure(
        f"{count} of one client: {max(spent):.2f} s for a visitor, "
        f"{kept} of its last 100 stay, another's lives: {lives}"
    )
    assert max(spent) < 1.5
    assert lives
    assert 0 < kept <= 100


def _seconds_of_a_visit(app: App) -> float:
    start = time.monotonic()
    assert ask(app.url, "GET", "/gradio_api/app_id").status == 200
    return time.monotonic() - start


def _is_closed(client: socket.socket) -> bool:
    client.settimeout(0.05)
    try:
        while client.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_a_reader_that_stops_reading_is_not_waited_for(app: App) -> None:
    sent = ask(app.url, "POST", UPLOAD, [EDGE], multipart([(FILE, bytes(30_000_000))]), seconds=60)
    path = f"/gradio_api/file={json.loads(sent.body)[0]}"
    with connect(app.url, 30) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.sendall(head("GET", path))
        time.sleep(PATIENCE / 4)
        assert client.getsockname()[1] in _visitors(app)
        time.sleep(1.2 * PATIENCE)
        assert client.getsockname()[1] not in _visitors(app)


def _visitors(app: App) -> set[int]:
    """Ports of the clients that the app has a connection with."""
    connections = psutil.Process(app.process.pid).net_connections("tcp4")
    return {one.raddr.port for one in connections if one.raddr}


@pytest.mark.row("foreign names and sites", limit="421 and 403, own ones served")
def test_foreign_hosts_and_origins(app: App, figure: Any) -> None:
    foreign = [
        "elsewhere.example",
        "localhost.elsewhere.example",
        "127.0.0.1.nip.io",
        "example.com",
        "8.8.8.8",
        "[2001:db8::1]",
        "demo.example.org.elsewhere.example",
        "a b",
        "",
    ]
    own = [
        "localhost",
        "LOCALHOST:99",
        "127.0.0.1",
        "127.9.9.9:1",
        "[::1]:7860",
        "demo.example.org",
        "a.b.example.com:8443",
    ]
    for host in foreign:
        assert ask(app.url, host=host).status in (400, 421), host
        assert host == "" or ask(app.url, "GET", "/livez", host=host).status in (200, 400)
    for host in own:
        assert ask(app.url, "GET", "/gradio_api/app_id", host=host).status == 200, host
    origins = [
        "null",
        "https://elsewhere.example",
        "http://localhost:1",
        "http://localhost.evil",
        "https://localhost:1",
        "file://",
        "::",
        "http://[",
        "https://forwarded.example",
        "chrome-extension://x",
    ]
    body = multipart([(FILE, b"x")])
    before = uploads(app)
    for origin in origins:
        for path, kind, sent in ((UPLOAD, EDGE, body), (JOIN, JSON_KIND, b"{}")):
            forwarded = ("X-Forwarded-Host", "forwarded.example")  # which is no name of ours
            answer = ask(app.url, "POST", path, [("Origin", origin), forwarded, kind], sent)
            assert is_refused(answer, 403), (origin, answer)
        told = ask(app.url, "GET", "/config", [("Origin", origin)])
        assert "access-control-allow-origin" not in told.headers, origin
        preflight = [("Origin", origin), ("Access-Control-Request-Method", "POST")]
        assert ask(app.url, "OPTIONS", UPLOAD, preflight).status == 403
    assert uploads(app) == before
    ours: list[Headers] = [
        [],
        [("Origin", "http://localhost")],
        [("Origin", "http://127.0.0.1:80"), ("Sec-Fetch-Site", "same-origin")],
        [("Origin", "https://demo.example.org")],
        [("Origin", "https://a.example.com:8"), ("X-Forwarded-Host", "a.example.com:8")],
    ]
    for headers in ours:
        answer = ask(app.url, "POST", UPLOAD, [*headers, EDGE], body)
        assert answer.status == 200, (headers, answer)
    figure(
        f"{len(foreign)} names and {len(origins)} origins refused, "
        f"{len(own)} and {len(ours)} served"
    )


@pytest.mark.row("too many requests", limit="429 with Retry-After; others served; < 200 ms")
def test_a_client_that_asks_too_often(app: App, figure: Any) -> None:
    headers = [JSON_KIND, ("X-Forwarded-For", "203.0.113.7")]
    answers, spent = [], []
    for _ in range(300):
        start = time.monotonic()
        answers.append(ask(app.url, "POST", RESET, headers, b"{}"))
        spent.append(time.monotonic() - start)
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) > 50
    assert all(is_refused(answer, 429) for answer in refused)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(answer.status not in (429, 500) for answer in answers[:100])
    median = statistics.median(spent[-50:])
    figure(f"{len(refused)} of {len(answers)} refused, in {median * 1e3:.1f} ms each")
    assert median < 0.2
    for other in ("203.0.113.8", "2001:db8::1"):
        headers = [JSON_KIND, ("X-Forwarded-For", other)]
        assert ask(app.url, "POST", RESET, headers, b"{}").status != 429


class Listener(http.server.ThreadingHTTPServer):
    """Counts who comes; what the app is told to fetch."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        hits = self.hits

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hits.append(self.path)
                self.send_error(404)

            do_HEAD = do_POST = do_GET

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.mark.row("advisories", limit="every request refused; canary and listener: 0 hits")
def test_every_advisory(app: App, tmp_path: Path, figure: Any) -> None:
    canary = tmp_path / "canary.txt"
    canary.write_text("canary", encoding="utf-8")
    listener = Listener()
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    away = f"http://127.0.0.1:{listener.server_port}/x"
    config = json.loads(ask(app.url, "GET", "/config").body)
    events = {event["api_name"]: event for event in config["dependencies"] if event["backend_fn"]}
    segment = events["segment"]
    usual = [
        next(one for one in config["components"] if one["id"] == number)["props"].get("value")
        for number in segment["inputs"]
    ]

    def join(picture: Any, **more: Any) -> str:
        """What is answered to a picture, by all that is told of it."""
        said = {"fn_index": segment["id"], "session_hash": "advisory", "event_data": None, **more}
        said["data"] = [picture, *usual[1:]]
        asked = ask(app.url, "POST", JOIN, [JSON_KIND], json.dumps(said).encode())
        if asked.status != 200:
            return f"error {asked.status}"
        with connect(app.url, 60) as client:
            client.sendall(head("GET", "/gradio_api/queue/data?session_hash=advisory"))
            received = b""
            while b"process_completed" not in received and (piece := client.recv(65_536)):
                received += piece
        return received.decode()

    def server(function: str) -> Answer:
        said = {
            "session_hash": "x",
            "component_id": config["components"][0]["id"],
            "fn_name": function,
            "data": str(canary),
        }
        return ask(
            app.url, "POST", "/gradio_api/component_server", [JSON_KIND], json.dumps(said).encode()
        )

    path = str(canary)
    meta = {"_type": "gradio.FileData"}
    gets = {
        "CVE-2023-51449": f"/gradio_api/file={tmp_path}/x/../{canary.name}",
        "CVE-2023-51449, encoded": f"/gradio_api/file={tmp_path}/x/%2e%2e/{canary.name}",
        "CVE-2024-1561": f"/gradio_api/file={path}",
        "CVE-2025-23042": f"/gradio_api/file={path.upper()}",
        "CVE-2024-47164": f"/gradio_api/file={app.log.parent}/gradio/../log.txt",
        "CVE-2024-47167": f"/gradio_api/file={away}",
        "CVE-2026-28416": f"/gradio_api/proxy={away}",
        "assets": f"/assets/../../../../../../..{path}",
        "static": f"/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{path}",
        "custom component": f"/gradio_api/custom_component/1/client/component/..%2f..{path}",
        "theme": f"/gradio_api/stream/x/y/1/..%2f..{path}",
        "deep link": f"/?deep_link=../..{path}",
    }
    for name, target in gets.items():
        answer = ask(app.url, "GET", target)
        assert answer.body != b"canary", name
        assert answer.status in (400, 403, 404) or name == "deep link", (name, answer)
    closed = (
        "dev/reload",
        "proxy=https://x.hf.space/",
        "file=https://example.com/x",
        "file/https://example.com/x",
        "custom_component/x/client/component/index.js",
        "stream/x/y/1",
    )
    for route in closed:
        answer = ask(app.url, "GET", f"/gradio_api/{route}")
        assert is_refused(answer, 403, 404), (route, answer)
        assert answer.sentence == "There is nothing here."
    functions = ("move_resource_to_block_cache", "__class__", "preprocess", "load")
    statuses = [server(function).status for function in functions]
    assert set(statuses) <= {400, 404}, statuses
    told = [
        join(picture)
        for picture in (
            {"path": path, "meta": meta},
            {"path": away, "meta": meta},
            {"path": away, "url": away, "meta": meta},
            {"path": "x.png", "url": away, "meta": meta},
            {"path": f"{app.log.parent}/gradio/../log.txt", "meta": meta},
        )
    ]
    assert all("error" in one and "canary" not in one.split("error", 1)[0] for one in told), told
    foreign = [("Origin", "https://elsewhere.example"), EDGE]  # CVE-2024-1727, CVE-2024-47084
    assert ask(app.url, "POST", UPLOAD, foreign, multipart([(FILE, b"")])).status == 403
    kind, body = ODD_UPLOADS["long boundary"]  # CVE-2025-0187
    assert ask(app.url, "POST", UPLOAD, [kind], body).status == 400
    # CVE-2025-62727: a thousand ranges are merged in the square of their number.
    ranges = [("Range", "bytes=" + ",".join(f"{n}-" for n in range(999)))]
    picture = EXAMPLE.as_posix()
    assert ask(app.url, "GET", f"/gradio_api/file={picture}", ranges).status in (200, 403)
    listener.shutdown()
    listener.server_close()
    number = len(gets) + len(closed) + len(functions) + len(told) + 3
    figure(f"{number} requests refused, {len(listener.hits)} hits of the listener")
    assert listener.hits == []


def test_files_that_gradios_own_components_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at their paths only in pages that were launched, which ours is not."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    canary = tmp_path / "canary.txt"
    canary.write_text("canary", encoding="utf-8")
    with gr.Blocks() as demo:
        file, told = gr.File(), gr.Textbox()
        gr.Button().click(lambda path: Path(path).name, file, told, queue=False, api_name="name")
    outer = build_app(demo, Settings(), Lifecycle(demo))
    said = {"data": [{"path": str(canary), "meta": {"_type": "gradio.FileData"}}]}
    with TestClient(outer, base_url="http://localhost") as client:
        answer = client.post("/gradio_api/run/name", json=said)
    assert answer.status_code == 400
    assert "canary" not in answer.text


@pytest.mark.row("a full queue", limit="503, Retry-After and a sentence; < 200 ms median")
def test_a_full_queue_says_when_to_come_back(app: App, figure: Any) -> None:
    config = json.loads(ask(app.url, "GET", "/config").body)
    [event] = (one for one in config["dependencies"] if one["api_name"] == "models")

    def join(number: int) -> tuple[float, Answer]:
        said = {"data": [], "fn_index": event["id"], "session_hash": f"full{number}"}
        start = time.monotonic()
        answer = ask(app.url, "POST", JOIN, [JSON_KIND], json.dumps(said).encode())
        return time.monotonic() - start, answer

    with ThreadPoolExecutor(8) as several:
        told = list(several.map(join, range(400)))
    refused = [(spent, answer) for spent, answer in told if answer.status == 503]
    median = statistics.median([spent for spent, _ in refused] or [0.0])
    figure(f"{len(refused)} of {len(told)} refused, in {median * 1e3:.0f} ms")
    assert median < 0.2
    assert all(answer.status in (200, 503) for _, answer in told)
    for _, answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.sentence


MUTATIONS = [
    Mutation("the last guard", "test_fuzzed", "app.serving.answers",
             'if message["status"] == 500:', "if False:"),
    Mutation("the size of JSON", "test_limits", "app.serving.bodies",
             "if self._size > self._most:", "if False:"),
    Mutation("the size that is declared", "test_limits", "app.serving.bodies",
             "if self.declared > most:", "if False:"),
    Mutation("the depth of JSON", "test_json", "app.serving.bodies",
             "if deepest(body) > _DEEPEST:", "if False:"),
    Mutation("finite numbers", "test_json", "app.serving.bodies",
             "if not math.isfinite(number):", "if False:"),
    Mutation("uploads are files", "test_refused", "app.serving.uploads",
             'if options.get(b"name") != b"files" or b"filename" not in options:', "if False:"),
    Mutation("boundaries", "test_refused", "app.serving.uploads",
             "if not 1 <= len(boundary) <= _LONGEST_BOUNDARY:", "if False:"),
    Mutation("charsets", "test_refused", "app.serving.uploads",
             'if options.get(b"charset", b"utf-8").lower() != b"utf-8":', "if False:"),
    Mutation("the number of parts", "test_refused", "app.serving.uploads",
             "if self._count > _MOST_PARTS:", "if False:"),
    Mutation("the size of headers", "test_refused", "app.serving.uploads",
             "if self._size > _MOST_HEADERS:", "if False:"),
    Mutation("files' names", "test_refused", "app.serving.uploads",
             'if len(name) > _LONGEST_NAME or _CONTROL.search(name) or last in (b".", b".."):',
             "if False:"),
    Mutation("aborted uploads", "test_refused", "app.serving.uploads",
             'if not message.get("more_body", False) and not self._parts.ended:', "if False:"),
    Mutation("ranges", "test_odd_ranges", "app.serving.headers",
             "if ranges and not (len(ranges) == 1 and _is_simple(ranges[0])):", "if False:"),
    Mutation("slow heads", "test_slow", "app.serving.connections",
             "self._set_timer(self.patience.head)", "pass"),
    Mutation("slow bodies", "test_slow", "app.serving.connections",
             "gets_on = self._came >= self.patience.progress or", "gets_on = True or"),
    Mutation("slow readers", "test_a_reader", "app.serving.connections",
             "self._write_timer = self.loop.call_later(self.patience.pause, self.give_up)",
             "pass"),
    Mutation("room for others", "test_slow", "app.serving.connections",
             "if len(self.connections) > self.most:", "if False:"),
    Mutation("room beside streams", "test_endless", "app.serving.connections",
             "    elif settled:", "    elif False:"),
    Mutation("names of the server", "test_foreign", "app.serving.hosts",
             "if not self._hosts.admits(host):", "if False:"),
    Mutation("foreign sites", "test_foreign", "app.serving.hosts",
             "if not self._is_foreign(Headers(scope=scope)):", "if True:"),
    Mutation("requests per client", "test_a_client", "app.serving.clients",
             "if wait > 0:\n                seconds", "if False:\n                seconds"),
    Mutation("files of others", "test_files", "app.serving.server",
             "demo.has_launched = True", "pass"),
    Mutation("closed routes", "test_every", "app.serving.routes",
             'if _CLOSED.match(scope["path"]):', "if False:"),
    Mutation("when to come back", "test_a_full", "app.serving.headers",
             'message["status"] in (429, 503)', "False"),
]  # fmt: skip
