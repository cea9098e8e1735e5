"""The app on the bundled models: how soon it is ready, answers, and follows a threshold.

    PYTHONPATH=. python tests/benchmarks/app.py

"ready" is from the start of ``python app.py`` to its first page, from the second start on: the
first one compiles Python's modules. "first look" and "second look" are from the click on an example
to both results drawn, with the models in memory; what was seen before is not computed again.
"threshold moved" is the time in which the page draws a moved threshold, "regions counted" the time
until its regions are counted. Needs Chromium and ``tests/requirements.txt``.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import measure
import torch
from playwright.sync_api import Page, sync_playwright

from tests.browser.steps import open_example, visit
from tests.serving import serving

EXAMPLES = range(1, 6)  # the first one brings the models into memory
MOVES = 60
DRAG = """
async (moves) => {
  const slider = document.querySelector('#threshold-both');
  const cards = [...document.querySelectorAll('.m2k-card')];
  const [low, high] = [Number(slider.min), Number(slider.max)];
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const counted = [];
  window.mask2kan.timings.length = 0;
  for (let i = 1; i <= moves; i++) {
    const start = performance.now();
    slider.value = low + (high - low) * i / (moves + 1);
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    do await frame();
    while (cards.some((card) => card.dataset.countedCut !== card.dataset.cut));
    counted.push((performance.now() - start) / 1e3);
  }
  return { drawn: window.mask2kan.timings.map((spent) => spent / 1e3), counted };
}
"""


def starts(folder: Path, repeats: int) -> list[float]:
    """Seconds from the start of the app to its first page."""
    spent = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with serving(folder):
            spent.append(time.perf_counter() - start)
    return spent[1:]


def looks(page: Page) -> list[float]:
    """Seconds from the click on an example to both results."""
    spent = []
    for nth in EXAMPLES:
        start = time.perf_counter()
        open_example(page, nth)
        spent.append(time.perf_counter() - start)
    return spent


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
    arguments = measure.parser(__doc__, 3).parse_args()
    torch.set_num_threads(arguments.threads)
    facts = measure.about(arguments.threads)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("No Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        rows = [row("ready", starts(folder, arguments.repeats))]
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with (
            serving(folder, OMP_NUM_THREADS=str(arguments.threads)) as app,
            visit(browser, app.url, viewport={"width": 1440, "height": 1000}) as page,
        ):
            open_example(page)
            rows += [row("first look", looks(page)), row("second look", looks(page))]
            spent = page.evaluate(DRAG, MOVES)
            rows += [
                row("threshold moved", spent["drawn"]),
                row("regions counted", spent["counted"]),
            ]
        browser.close()
    measure.show(rows, facts)
    measure.write({"rows": rows}, facts, arguments.json)


if __name__ == "__main__":
    main()
