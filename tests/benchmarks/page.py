"""The page on the bundled models: how soon it shows a result, its weight, how it follows a hand.

    PYTHONPATH=. python tests/benchmarks/page.py
    PYTHONPATH=. python tests/benchmarks/page.py --road-anomaly data/road_anomaly/frames

- "ready": from the start of ``python app.py`` to its first page, from the second start on (the
  first one compiles Python's modules);
- "first result": from the page's load event to both models' answers drawn, without a click;
- "first look", "second look": from the click on an example to both results, with the models in
  memory; what was seen before is not computed again;
- "dragged": from a moved threshold to the frame that shows what passes it, smoothing on;
- "weight": bytes over the network, without the first result and of it.

With ``--road-anomaly`` the page's own numbers on each of these pictures with their ground truth, at
its default settings: objects at least half covered, and false regions, as model cards have them.
Needs Chromium and ``tests/requirements.txt``.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, Response, sync_playwright
from tqdm import tqdm

from tests.browser.steps import open_example, read, upload, visit, wait_ready, window
from tests.serving import serving

EXAMPLES = range(1, 6)
MOVES = 60
SIDES = ("left", "right")


def starts(folder: Path, repeats: int) -> list[float]:
    """Seconds from the start of the app to its first page."""
    spent = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with serving(folder):
            spent.append(time.perf_counter() - start)
    return spent[1:]


def first_results(browser: Browser, url: str, repeats: int) -> tuple[list[float], dict[str, int]]:
    """Seconds from the load event to the first result, and bytes of the page and of the result."""
    spent = []
    for _ in range(repeats):
        weight = {"page": 0, "first result": 0}

        def weigh(response: Response, weight: dict[str, int] = weight) -> None:
            if "/queue/data" in response.url or "/heartbeat/" in response.url:
                return  # open as long as the page
            part = "first result" if "mask2kan_first" in response.url else "page"
            weight[part] += int(response.request.sizes()["responseBodySize"])

        with window(browser, viewport={"width": 1440, "height": 900}) as page:
            answers: list[Response] = []
            page.on("response", lambda answer, kept=answers: kept.append(answer))
            page.goto(url)
            wait_ready(page)
            ended = page.evaluate("performance.now()")
            loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
            spent.append((ended - loaded) / 1e3)
            page.wait_for_timeout(500)
            for response in answers:
                weigh(response)
    return spent, weight


def looks(page: Page) -> list[float]:
    """Seconds from the click on an example to both results."""
    spent = []
    for nth in EXAMPLES:
        start = time.perf_counter()
        open_example(page, nth)
        spent.append(time.perf_counter() - start)
    return spent


def dragged(page: Page) -> list[float]:
    """Seconds from each move of the slider to its picture."""
    box = page.locator("#threshold-both").bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 10, y)
    page.mouse.down()
    page.evaluate("window.mask2kan.timings.length = 0")
    for step in range(MOVES):
        page.mouse.move(box["x"] + 10 + (box["width"] - 20) * (step + 1) / MOVES, y)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(done))")
    page.mouse.up()
    return [spent / 1e3 for spent in page.evaluate("window.mask2kan.timings.slice()")]


def road_anomaly(page: Page, frames: Path, folder: Path) -> measure.Row:
    """The page's counts over all pictures of EPFL's RoadAnomaly in a folder."""
    found = dict.fromkeys(SIDES, 0)
    objects = dict.fromkeys(SIDES, 0)
    false: dict[str, list[int]] = {side: [] for side in SIDES}
    for path in tqdm(sorted(frames.glob("*.jpg")), unit="picture"):
        labels = np.asarray(Image.open(path.with_suffix(".labels") / "labels_semantic.png"))
        mask = folder / "truth.png"
        Image.fromarray((labels == 2).astype(np.uint8)).save(mask)
        before = page.get_attribute(".m2k", "data-run")
        upload(page, path)
        before = wait_ready(page, before)
        page.set_input_files("#truth-file", str(mask))
        wait_ready(page, before)
        for side in SIDES:
            read(page, side, "pixels")
            found[side] += int(read(page, side, "found"))
            objects[side] += int(read(page, side, "objects"))
            false[side].append(int(read(page, side, "falseRegions")))
    return {
        "pictures": len(false["left"]),
        **{
            f"{side} {name}": value
            for side in SIDES
            for name, value in (
                ("found", f"{found[side]} of {objects[side]}"),
                ("false regions, median", statistics.median(false[side])),
            )
        },
    }


def row(name: str, seconds: list[float]) -> measure.Row:
    """One line of the table."""
    return {
        "what": name,
        "median s": statistics.median(seconds),
        "least s": min(seconds),
        "most s": max(seconds),
        "of": len(seconds),
    }


def main() -> None:
    """Print the table."""
    parser = measure.parser(__doc__, 3)
    parser.add_argument("--road-anomaly", type=Path, metavar="FRAMES")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts = measure.about(arguments.threads)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("No Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with serving(folder, OMP_NUM_THREADS=str(arguments.threads)) as app:
            with visit(browser, app.url, viewport={"width": 1440, "height": 900}) as page:
                if arguments.road_anomaly:
                    counts = road_anomaly(page, arguments.road_anomaly, folder)
                    measure.write({"rows": [counts]}, facts, arguments.json)
                    print(json.dumps(counts, indent=2))
                    return
                open_example(page, 0)
                rows = [row("first look", looks(page)), row("second look", looks(page))]
                open_example(page, 0)
                rows.append(row("dragged", dragged(page)))
            spent, weight = first_results(browser, app.url, 2 * arguments.repeats)
            rows.append(row("first result", spent))
        rows.append(row("ready", starts(folder, arguments.repeats)))
        browser.close()
    measure.show(rows, facts)
    print({part: f"{size / 1e6:.2f} MB" for part, size in weight.items()})
    measure.write({"rows": rows, "bytes": weight}, facts, arguments.json)


if __name__ == "__main__":
    main()
