"""What a person does on the page, as functions the browser tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Download, Locator, Page

from app.files.samples import sample_pictures

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sample_pictures()  # in the page's order
# Milliseconds until a wait counts as hanging, the same for all: how long something takes is never
# what a browser test is about.
TIMEOUT = 180_000
TOAST = "[data-testid=toast-body]"
EVENTS = "**/gradio_api/queue/join*"  # what asks the server for a result


@contextlib.contextmanager
def window(browser: Browser, **options: Any) -> Iterator[Page]:
    """An empty page in a context of its own.

    Args:
        browser: what opens it.
        options: of the context.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(TIMEOUT)
    try:
        yield context.new_page()
    finally:
        context.close()


@contextlib.contextmanager
def visit(browser: Browser, url: str, *, wait: bool = True, **options: Any) -> Iterator[Page]:
    """The app's page in a window of its own, with the result that it opens with.

    Args:
        browser: what opens it.
        url: of the app.
        wait: for that result.
        options: of the context.
    """
    with window(browser, **options) as page:
        page.goto(url)
        page.wait_for_function("window.mask2kan")  # the viewer listens
        if wait:
            wait_ready(page)
        yield page


def open_example(page: Page, nth: int = 0) -> str:
    """Click an example and wait for its result; returns the run's number."""
    before = page.get_attribute(".m2k", "data-run")
    page.locator(".m2k-tile").nth(nth).click()
    return wait_ready(page, before)


def upload(page: Page, path: Path) -> None:
    """Choose a file."""
    page.set_input_files("#picture-file", str(path))


def wait_ready(page: Page, before: str | None = None) -> str:
    """Wait for a result, and for one other than ``before``; returns its number."""
    page.wait_for_function(
        """(before) => {
          const { state, run, drawn } = document.querySelector('.m2k')?.dataset ?? {};
          return state === 'ready' && run !== before && drawn === run;
        }""",
        arg=before,
    )
    return str(page.get_attribute(".m2k", "data-run"))


def card(page: Page, side: str) -> Locator:
    return page.locator(f".m2k-card[data-side={side}]")


def read(page: Page, side: str, name: str) -> float:
    """A number on a model's card; regions are waited for."""
    selector = f".m2k-card[data-side={side}]"
    page.wait_for_function(
        """([selector, name]) => document.querySelector(selector).dataset[name] !== ''""",
        arg=[selector, name],
    )
    return float(
        page.evaluate("([s, n]) => document.querySelector(s).dataset[n]", [selector, name])
    )


def settle(page: Page) -> None:
    """Two frames: what was asked for has been drawn."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def move(page: Page, side: str, value: float) -> None:
    """Set a threshold: ``left`` or ``right`` to a score, ``both`` to a place on the slider."""
    page.evaluate(
        """([side, value]) => {
          const field = document.querySelector(`#threshold-${side}`);
          field.value = value;
          field.dispatchEvent(new Event(side === 'both' ? 'input' : 'change', { bubbles: true }));
        }""",
        [side, value],
    )
    settle(page)


def set_layers(page: Page, *names: str) -> None:
    """Show these layers and no others."""
    for button in page.locator("[data-layer]").all():
        pressed = button.get_attribute("aria-pressed") == "true"
        if pressed != (button.get_attribute("data-layer") in names) and button.is_enabled():
            button.click()
    settle(page)


def failure(page: Page) -> str:
    """The words that stand where the result would be."""
    page.wait_for_selector(".m2k[data-state=failed]")
    return page.inner_text(".m2k-message p")


def pick_model(page: Page, side: str, name: str) -> None:
    """Choose a model in the sheet behind the chip, by the words of its entry."""
    open_settings(page)
    page.click(f"#{side} input")
    page.get_by_role("option", name=name).click()


def open_settings(page: Page) -> None:
    """Open the sheet behind the chip."""
    if page.get_attribute(".bar-chip", "aria-expanded") != "true":
        page.click(".bar-chip")


def set_view(page: Page, name: str) -> None:
    page.click(f".m2k-tab[data-view={name}]")
    settle(page)


def open_tab(page: Page, name: str) -> None:
    """Go to a tab of the page; on a narrow one it may be in the menu of those that do not fit."""
    tab = page.locator("#tabs > .tab-wrapper").get_by_role("tab", name=name, exact=True)
    if not tab.count() or not tab.first.is_visible():
        page.click("#tabs > .tab-wrapper .overflow-menu > button")
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        tab.first.click()
    settle(page)


def explain(page: Page, x: int, y: int) -> None:
    """Click a pixel of the first pane and wait for what is said about it."""
    page.locator(".m2k-pane").first.scroll_into_view_if_needed()
    where = page.evaluate("([x, y]) => window.mask2kan.locate(x, y, 0)", [x, y])
    page.mouse.click(where["x"], where["y"])
    page.wait_for_selector(f".m2k-why[data-x='{x}'][data-y='{y}']")


def downloaded(page: Page, kind: str) -> list[Path]:
    """Press an entry of the download menu; returns the saved files by their names."""
    page.click(".m2k-menu[data-menu=download] summary")
    saved: list[Download] = []

    def keep(item: Download) -> None:
        saved.append(item)

    page.on("download", keep)
    # The page saves by clicking links: they say how many files there will be.
    page.evaluate(
        """() => {
          window.links = 0;
          document.onclick = ({ target }) => { window.links += Boolean(target.download); };
        }"""
    )
    page.click(f"[data-download={kind}]")
    page.wait_for_function(
        """(kind) => window.links && !document.querySelector(`[data-download=${kind}]`).ariaBusy""",
        arg=kind,
    )
    links = page.evaluate("window.links")
    while len(saved) < links:
        with page.expect_download():
            pass
    page.remove_listener("download", keep)
    page.keyboard.press("Escape")
    page.mouse.click(2, 2)
    paths = []
    for item in saved:
        path = Path(item.path())
        target = path.with_name(f"{path.name}_{item.suggested_filename}")
        path.rename(target)
        paths.append(target)
    return paths


def error_text(page: Page) -> str:
    """The words of the message that is shown; it goes away by itself, so they are taken at once."""
    words = page.wait_for_function("(toast) => document.querySelector(toast)?.innerText", arg=TOAST)
    return str(words.json_value())


def close_error(page: Page) -> None:
    """Close the message, unless it has gone by itself."""
    page.evaluate("() => document.querySelector('[data-testid=toast-close]')?.click()")
    page.wait_for_selector(TOAST, state="detached")
