"""What the protections of the app cost: this checkout's app beside another's, by turns.

    PYTHONPATH=. python tests/benchmarks/protections.py ../before

Both serve the bundled pair, each in its own process; a visitor asks both for comparisons of the
same pictures, which neither has seen before. Starting is timed until the page answers, and until
the first comparison is there; one starts when the other has stopped.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import measure
import numpy as np
from PIL import Image

from tests.serving import EXAMPLE
from tests.visitors import Visitor

_START_SECONDS = 300.0


def main() -> None:
    arguments = measure.parser(__doc__, repeats=9)
    arguments.add_argument("other", type=Path, help="the checkout to compare with")
    options = arguments.parse_args()
    checkouts = {"ours": measure.REPOSITORY, "before": options.other.resolve()}
    with tempfile.TemporaryDirectory() as folder:
        starts = {name: _starts(checkout, Path(folder), 3) for name, checkout in checkouts.items()}
        with (
            _serving(checkouts["ours"], Path(folder)) as ours,
            _serving(checkouts["before"], Path(folder)) as before,
        ):
            visitors = {"ours": Visitor(ours), "before": Visitor(before)}
            counts = dict.fromkeys(visitors, 0)

            def compare(name: str) -> None:
                counts[name] += 1
                visitor = visitors[name]
                event = visitor.event("compare")
                picture = visitor.upload(_picture(Path(folder), counts[name]))
                answer = visitor.ask(event, [picture, *visitor.usual(event)[1:]])
                assert answer.error is None, answer.error

            times = measure.by_turns(
                {name: lambda name=name: compare(name) for name in visitors}, options.repeats
            )
    rows: list[measure.Row] = []
    for name, values in times.items():
        page, first = zip(*starts[name], strict=True)
        ratios = [a / b for a, b in zip(values, times["before"], strict=True)]
        rows.append(
            {
                "app": name,
                "comparison s": round(statistics.median(values), 3),
                "ratio": round(statistics.median(ratios), 3),
                "page answers s": round(statistics.median(page), 2),
                "first comparison s": round(statistics.median(first), 2),
            }
        )
    facts = measure.about(options.threads)
    measure.show(rows, facts)
    measure.write({"protections": rows}, facts, options.json)


def _picture(folder: Path, number: int) -> Path:
    """Make a picture nobody has seen: an example with a pixel of its own."""
    with Image.open(EXAMPLE) as opened:
        pixels = np.array(opened.convert("RGB"))
    pixels[0, 0] = number % 256, number // 256, 7
    path = folder / "picture.png"
    Image.fromarray(pixels).save(path, compress_level=1)
    return path


def _starts(checkout: Path, folder: Path, times: int) -> list[tuple[float, float]]:
    """Seconds until the page answers, and until a comparison has been answered."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        with _serving(checkout, folder) as url:
            page = time.perf_counter() - begin
            visitor = Visitor(url)
            event = visitor.event("compare")
            assert visitor.ask(event, visitor.usual(event)).error is None
            found.append((page, time.perf_counter() - begin))
    return found


@contextmanager
def _serving(checkout: Path, folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        "PYTHONPATH": "",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / f"uploads_{port}"),
        "HF_HUB_OFFLINE": "1",
    }
    url = f"http://127.0.0.1:{port}"
    with (folder / f"log_{port}.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=checkout, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(url):
            assert process.poll() is None, log.name
            assert time.monotonic() < deadline, log.name
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
