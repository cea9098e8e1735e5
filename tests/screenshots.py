"""Pictures of every view of the app, on the bundled models.

    PYTHONPATH=. python tests/screenshots.py                 # those of the README: app/screenshots/
    PYTHONPATH=. python tests/screenshots.py --all <folder>  # every view, three widths, two themes

Needs Chromium and ``tests/requirements.txt``.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from tqdm import tqdm

from tests.browser.steps import (
    EXAMPLES,
    TIMEOUT,
    explain,
    open_example,
    open_settings,
    open_tab,
    set_layers,
    set_view,
    settle,
    visit,
)
from tests.serving import ROOT, serving

README = ROOT / "app" / "screenshots"
WIDTHS = (360, 768, 1440)


def _first(page: Page) -> None:
    settle(page)


def _view(name: str) -> Callable[[Page], None]:
    def show(page: Page) -> None:
        set_view(page, name)

    return show


def _layers(*names: str) -> Callable[[Page], None]:
    def show(page: Page) -> None:
        set_layers(page, *names)

    return show


def _example(name: str) -> Callable[[Page], None]:
    def show(page: Page) -> None:
        open_example(page, [path.stem for path in EXAMPLES].index(name))

    return show


def _explanation(page: Page) -> None:
    truth = np.asarray(Image.open(EXAMPLES[0].with_name(f"{EXAMPLES[0].stem}_anomaly.png")))
    y, x = (int(np.quantile(where, 0.5)) for where in np.nonzero(truth == 1))
    explain(page, x, y)
    page.click(".m2k-why summary >> nth=0")


def _zoomed(page: Page) -> None:
    _explanation(page)
    for _ in range(3):
        page.locator(".m2k-surface").first.press("+")


def _settings(page: Page) -> None:
    open_settings(page)


def _menu(name: str) -> Callable[[Page], None]:
    def show(page: Page) -> None:
        page.click(f".m2k-menu[data-menu={name}] summary")

    return show


def _batch(page: Page) -> None:
    open_tab(page, "Batch")
    page.set_input_files("#batch-files input[type=file]", [str(path) for path in EXAMPLES])
    page.click("#batch-run")
    page.wait_for_function(
        f"document.querySelectorAll('#batch-gallery img').length === {len(EXAMPLES)}",
        timeout=len(EXAMPLES) * TIMEOUT,
    )
    # The buttons of both files come with the end of the batch.
    page.wait_for_selector("#batch-zip")
    page.wait_for_function(
        """() => [...document.querySelectorAll('#batch-gallery img')].every((image) => {
          image.loading = 'eager'; // also those below the window, which full-page pictures show
          return image.complete;
        })"""
    )


def _kan(page: Page) -> None:
    open_tab(page, "KAN")
    page.wait_for_selector(".kan[data-state=ready][data-input]")


def _models(page: Page) -> None:
    open_tab(page, "Models")
    page.wait_for_selector("#models-card h1")


VIEWS: dict[str, Callable[[Page], None]] = {
    "first": _first,
    "swipe": _view("swipe"),
    "one": _view("one"),
    "difference": _view("difference"),
    "classes": _layers("photo", "classes"),
    "truth": _layers("truth"),
    "normal": _example("road_normal"),
    "hard": _example("road_peccary"),
    "indoors": _example("room_cone"),
    "explanation": _explanation,
    "zoomed": _zoomed,
    "settings": _settings,
    "adjust": _menu("adjust"),
    "download": _menu("download"),
    "batch": _batch,
    "kan": _kan,
    "models": _models,
}
# Name: view, width, height, theme, and what part of the page; None for what the window shows.
SHOWN = {
    "compare": ("first", 1440, 760, "dark", None),
    "swipe": ("swipe", 1440, 900, "light", ".m2k-panes"),
    "explain": ("explanation", 1440, 900, "light", None),
    "kan": ("kan", 1440, 900, "light", "#kan-panel"),
    "batch": ("batch", 1440, 900, "light", "#batch-row"),
}


def image(
    browser: Browser, url: str, view: str, width: int, height: int, theme: str, part: str | None
) -> Image.Image:
    """One view.

    Args:
        browser: what draws it.
        url: of the app.
        view: a key of ``VIEWS``.
        width: of the window.
        height: of the window.
        theme: light or dark.
        part: selector of an element, ``page`` for all of the page; None for what the window shows.
    """
    viewport: ViewportSize = {"width": width, "height": height}
    with visit(browser, f"{url}/?__theme={theme}", viewport=viewport) as page:
        VIEWS[view](page)
        page.mouse.move(1, 1)
        settle(page)
        if part in {None, "page"}:
            taken = page.screenshot(full_page=part == "page")
        else:
            taken = page.locator(part or "").first.screenshot()
        return Image.open(io.BytesIO(taken))


def main(arguments: list[str] | None = None) -> int:
    """Take the pictures; 1 where there is no Chromium."""
    parser = argparse.ArgumentParser(description="Pictures of the app.")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every view, to look at")
    parser.add_argument("--only", nargs="+", choices=VIEWS, default=list(VIEWS), help="with --all")
    asked = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("No Chromium on this machine: apt-get install chromium", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder)) as app,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if asked.all:
            asked.all.mkdir(parents=True, exist_ok=True)
            wanted = [
                (view, width, theme)
                for view in asked.only
                for width in WIDTHS
                for theme in ("light", "dark")
            ]
            for view, width, theme in tqdm(wanted, unit="picture"):
                taken = image(browser, app.url, view, width, 900, theme, "page")
                taken.save(asked.all / f"{view}_{width}_{theme}.png")
        else:
            README.mkdir(exist_ok=True)
            for name, shown in tqdm(SHOWN.items(), unit="picture"):
                taken = image(browser, app.url, *shown)
                taken.save(README / f"{name}.webp", quality=82, method=6)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
