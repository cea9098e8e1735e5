"""Many visitors at once: nobody gets another's result, nobody waits without a word."""

from __future__ import annotations

import io
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.reliability.bombs import mutant_of, originals_of
from tests.reliability.mutations import Mutation
from tests.serving import EXAMPLE, App, serving, tiny_models
from tests.visitors import Visitor

SIZES = [(64, 64), (48, 80), (128, 96), (33, 57), (200, 64), (64, 200), (96, 96), (160, 120)]
JOB_SECONDS = 6

MUTATIONS = [
    Mutation(
        "a job has a time limit",
        "test_a_job_that_never_returns",
        "app.work.processes",
        "while pipe.poll(max(0.0, deadline - time.monotonic())):",
        "while pipe.poll(None):",
    ),
    Mutation(
        "a process that ended is replaced",
        "test_a_process_that_is_killed",
        "app.work.processes",
        "and self._process.is_alive():",
        "or True:",
    ),
    Mutation(
        "an answer is known by the picture's pixels",
        "test_nobody_gets_anothers_result",
        "app.services.models",
        "    digest.update(np.ascontiguousarray(picture).data)\n",
        "",
    ),
    Mutation(
        "results are swept",
        "test_nothing_grows",
        "app.files.janitor",
        "file.path.unlink()",
        "pass",
    ),
]


class Result(NamedTuple):
    """What a visitor gets for a picture: the summary, and each file's content by name."""

    summary: dict[str, Any]
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app")
    with serving(
        folder,
        tiny_models(folder),
        MASK2KAN_JOB_SECONDS=str(JOB_SECONDS),
        MASK2KAN_KEEP_SECONDS="20",
    ) as running:
        yield running


def _picture(seed: int, folder: Path) -> Path:
    chance = np.random.default_rng(seed)
    height, width = SIZES[seed % len(SIZES)]
    path = folder / f"noise_{seed}.png"
    Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def _ask(visitor: Visitor, picture: Path) -> Any:
    event = visitor.event("segment")
    return visitor.ask(event, [visitor.upload(picture), *visitor.usual(event)[1:]])


def _timeless(summary: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs from one time to the next: how long it took."""
    return {
        key: _timeless(value) if isinstance(value, dict) else value
        for key, value in summary.items()
        if key not in ("timings", "milliseconds")
    }


def _result(visitor: Visitor, picture: Path) -> Result:
    answer = _ask(visitor, picture)
    assert answer.error is None, answer.error
    summary, files = answer.data
    contents = {}
    for file in files:
        got = visitor.http.get(f"/gradio_api/file={file['path']}")
        assert got.status_code == 200, (file, got.status_code)
        contents[Path(file["path"]).name] = got.content
    return Result(_timeless(summary), contents)


@pytest.mark.row("other users' results", limit="0 mixed, byte-equal to serial, 0 unstated errors")
def test_nobody_gets_anothers_result(
    app: App, tmp_path: Path, figure: Callable[[str], None], scale: Callable[[Any, Any], Any]
) -> None:
    visitors, each = 16, scale(2, 50)
    pictures = [_picture(seed, tmp_path) for seed in range(24)]
    alone = Visitor(app.url)
    expected = [_result(alone, picture) for picture in pictures]
    assert len({str(result.summary) for result in expected}) == len(pictures)

    def visit(number: int) -> list[str]:
        visitor, faults = Visitor(app.url), []
        chance = np.random.default_rng(number)
        for _ in range(each):
            chosen = int(chance.integers(len(pictures)))
            try:
                result = _result(visitor, pictures[chosen])
            except AssertionError as error:
                faults.append(f"error: {error}")
                continue
            if result != expected[chosen]:
                other = [n for n, known in enumerate(expected) if result.files == known.files]
                faults.append(f"got {other or 'something else'} instead of {chosen}")
        return faults

    with ThreadPoolExecutor(visitors) as several:
        faults = [fault for found in several.map(visit, range(visitors)) for fault in found]
    figure(f"{visitors} visitors × {each} requests: {len(faults)} faults")
    assert not faults, faults[:5]


class Usage(NamedTuple):
    """What the app's processes hold."""

    memory: int  # bytes
    descriptors: int
    threads: int
    files: int


def _usage(app: App, folder: Path) -> Usage:
    running = list(app.processes().values())
    return Usage(
        sum(process.memory_info().rss for process in running),
        sum(process.num_fds() for process in running),
        sum(process.num_threads() for process in running),
        sum(path.is_file() for path in folder.rglob("*")),
    )


@pytest.mark.row(
    "leak", limit="< 5 kB a request in the last half; descriptors, threads and files flat"
)
def test_nothing_grows(
    app: App, tmp_path: Path, figure: Callable[[str], None], scale: Callable[[Any, Any], Any]
) -> None:
    """Distinct pictures, so that no answer is there already."""
    warm, requests = scale((60, 120), (1200, 2000))
    visitor = Visitor(app.url)
    uploads = app.log.parent / "gradio"

    def ask(seed: int) -> None:
        chance = np.random.default_rng(10_000 + seed)
        buffer = io.BytesIO()
        Image.fromarray(chance.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(buffer, "PNG")
        path = tmp_path / "noise.png"
        path.write_bytes(buffer.getvalue())
        answer = _ask(visitor, path)
        assert answer.error is None, answer.error

    for seed in range(warm):
        ask(seed)
    half = requests // 2
    for seed in range(warm, warm + half):
        ask(seed)
    before = _usage(app, uploads)
    for seed in range(warm + half, warm + requests):
        ask(seed)
    after = _usage(app, uploads)
    grown = (after.memory - before.memory) / half
    figure(
        f"{grown / 1000:.1f} kB a request over the last {half}; descriptors "
        f"{before.descriptors} → {after.descriptors}, threads {before.threads} → {after.threads}, "
        f"files {before.files} → {after.files}"
    )
    assert grown < scale(200_000, 5_000)  # a few requests do not average out the allocator's steps
    assert after.descriptors <= before.descriptors + 4
    assert after.threads <= before.threads + 4
    deadline = time.monotonic() + 60
    while sum(path.is_file() for path in uploads.rglob("*")) > 50:  # kept for 20 seconds
        assert time.monotonic() < deadline, "uploads and results stay"
        time.sleep(1)


@pytest.mark.row(
    "hang", limit=f"freed within the limit ({JOB_SECONDS} s) + 2 s, the next job works"
)
def test_a_job_that_never_returns(
    app: App, tmp_path: Path, figure: Callable[[str], None], scale: Callable[[Any, Any], Any]
) -> None:
    visitor, waits = Visitor(app.url), []
    picture = _picture(3, tmp_path)
    expected = _result(visitor, picture)
    before = _usage(app, app.log.parent / "gradio")
    for seed in range(scale(1, 25)):
        hung = app.stopped()
        start = time.monotonic()
        answer = _ask(visitor, _picture(1000 + seed, tmp_path))
        waits.append(time.monotonic() - start)
        assert "longer than" in str(answer.error), answer
        assert not hung.is_running() or hung.status() == psutil.STATUS_ZOMBIE
        assert _result(visitor, picture) == expected
    after = _usage(app, app.log.parent / "gradio")
    figure(f"{len(waits)} times, freed after {max(waits):.1f} s at most")
    assert max(waits) < JOB_SECONDS + scale(20, 2)
    assert after.descriptors <= before.descriptors + 2
    assert after.threads <= before.threads + 2


@pytest.mark.row("crash of what computes", limit="one sentence, the next job works")
def test_a_process_that_is_killed(
    app: App, tmp_path: Path, figure: Callable[[str], None], scale: Callable[[Any, Any], Any]
) -> None:
    visitor, told = Visitor(app.url), 0
    picture = _picture(3, tmp_path)
    expected = _result(visitor, picture)
    times = scale(2, 20)
    for seed in range(times):
        hung = app.stopped()
        timer = threading.Timer(0.5, hung.kill)
        timer.start()
        answer = _ask(visitor, _picture(2000 + seed, tmp_path))
        told += "ended" in str(answer.error)
        assert _result(visitor, picture) == expected
    figure(f"{told} of {times} told so, and the next one served")
    assert told == times


@pytest.mark.row("malformed picture over HTTP", limit="0 of 500, 0 without a sentence, none > 2 s")
def test_damaged_pictures_are_answered(
    app: App,
    tmp_path: Path,
    figure: Callable[[str], None],
    scale: Callable[[Any, Any], Any],
    seed: int,
    save_failure: Callable[[str, bytes], Path],
) -> None:
    chance = random.Random(seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    originals = list(originals_of(pixels).items())
    visitor, read, longest, faults = Visitor(app.url), 0, 0.0, []
    assert _ask(visitor, EXAMPLE).error is None  # the app has started
    for number in range(scale(40, 1000)):
        name, content = originals[number % len(originals)]
        mutant = mutant_of(chance, content)
        path = tmp_path / f"{number}_{name}"
        path.write_bytes(mutant)
        start = time.monotonic()
        answer = _ask(visitor, path)
        spent = time.monotonic() - start
        longest, read = max(longest, spent), read + (answer.error is None)
        sentence = answer.error is None or str(answer.error).startswith("Can't read this image")
        if not sentence or spent > scale(20, 2):
            faults.append(f"{path.name}: {answer.error!r} after {spent:.1f} s")
            save_failure(path.name, mutant)
    figure(f"{number + 1} mutants, {read} read all the same, {longest:.2f} s at most")
    assert not faults, faults[:5]


@pytest.mark.row(
    "many scans", limit="refused within 3 s; others' median wait ≤ 1.5 × of without it"
)
def test_a_picture_that_takes_long_keeps_nobody_waiting(
    app: App, tmp_path: Path, figure: Callable[[str], None], scale: Callable[[Any, Any], Any]
) -> None:
    slow = tmp_path / "scans.jpg"
    slow.write_bytes(_progressive(3000))
    attacker, refusals, stop = Visitor(app.url), [], threading.Event()

    def attack() -> None:
        while not stop.is_set():
            start = time.monotonic()
            answer = _ask(attacker, slow)
            refusals.append(time.monotonic() - start)
            assert answer.error, answer

    def waits(first: int) -> float:
        visitor, times = Visitor(app.url), []
        for seed in range(first, first + scale(7, 60)):
            chance = np.random.default_rng(seed)
            picture = tmp_path / "street.png"  # as large as people's
            Image.fromarray(chance.integers(0, 256, (512, 1024, 3), dtype=np.uint8)).save(picture)
            start = time.monotonic()
            answer = _ask(visitor, picture)
            times.append(time.monotonic() - start)
            assert answer.error is None
        return statistics.median(times)

    without = waits(3000)
    thread = threading.Thread(target=attack)
    thread.start()
    beside = waits(4000)
    stop.set()
    thread.join()
    figure(f"refused in {max(refusals):.2f} s; {1000 * without:.0f} → {1000 * beside:.0f} ms")
    assert max(refusals) < scale(20, 3)
    assert beside < scale(4, 1.5) * without  # a few waits beside other tests say little


def _progressive(scans: int) -> bytes:
    """Repeat the last scan of a progressive JPEG: every one is decoded over all its pixels."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((1024, 1024))
    image.save(buffer, "JPEG", progressive=True, quality=10)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + b"\xff\xd9"


@pytest.mark.row("overload", limit="4 × for 60 s: all answered, rejections < 200 ms median")
def test_more_visitors_than_can_be_served(
    app: App, tmp_path: Path, figure: Callable[[str], None], scale: Callable[[Any, Any], Any]
) -> None:
    seconds = scale(6, 60)
    visitor = Visitor(app.url)
    start = time.monotonic()
    for seed in range(10):
        assert _ask(visitor, _picture(5000 + seed, tmp_path)).error is None
    every = (time.monotonic() - start) / 10 / 4
    event, rest = visitor.event("segment"), visitor.usual(visitor.event("segment"))[1:]
    pictures = [_picture(6000 + seed, tmp_path) for seed in range(64)]
    served, rejected, faults = [], [], []

    def visit(number: int) -> None:
        time.sleep(number * every)
        try:
            newcomer = visitor.another_session()
            uploaded = newcomer.upload(pictures[number % len(pictures)])
            begin = time.monotonic()
            answer = newcomer.ask(event, [uploaded, *rest])
            (served if answer.error is None else faults).append(str(answer.error))
        except httpx.HTTPStatusError as error:
            response = error.response
            if response.status_code in (429, 503) and "retry-after" in response.headers:
                rejected.append(time.monotonic() - begin)
            else:
                faults.append(f"{response.status_code} {response.text[:80]}")
        except (httpx.HTTPError, AssertionError) as error:
            faults.append(repr(error)[:200])

    count = int(seconds / every)
    with ThreadPoolExecutor(count) as crowd:
        list(crowd.map(visit, range(count)))
    median = statistics.median(rejected) if rejected else 0.0
    figure(
        f"{count} in {seconds} s: {len(served)} served, {len(rejected)} told when to come again "
        f"(median {1000 * median:.0f} ms), {len(faults)} faults"
    )
    assert not faults, faults[:5]
    assert median < scale(2, 0.2)
    assert _ask(visitor, _picture(1, tmp_path)).error is None
