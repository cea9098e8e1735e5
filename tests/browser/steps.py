"""What a person does on the page, as functions the browser tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.webp"))
READY = ".m2k[data-state=ready]"
WAIT = 60_000


def open_example(page: Page, nth: int = 0) -> str:
    """Click an example of the first tab; returns the run's number."""
    before = page.get_attribute(".m2k", "data-run")
    page.click(f"#examples-road img >> nth={nth}")
    return wait_ready(page, before)


def upload(page: Page, path: Path) -> None:
    """Choose a file, in place of a picture that is there."""
    remove = page.locator("#picture button[aria-label='Remove Image']")
    if remove.count():
        remove.click()
    page.set_input_files("#picture input[type=file]", str(path))


def wait_ready(page: Page, before: str | None = None) -> str:
    """Wait for a result, and for one other than ``before``; returns its number."""
    page.wait_for_function(
        """(before) => {
          const { state, run, drawn } = document.querySelector('.m2k')?.dataset ?? {};
          return state === 'ready' && run !== before && drawn === run;
        }""",
        arg=before,
        timeout=WAIT,
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
        timeout=WAIT,
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
    """Set a threshold: ``left``, ``right`` or ``both``."""
    page.evaluate(
        """([side, value]) => {
          const slider = document.querySelector(`#threshold-${side}`);
          slider.value = value;
          slider.dispatchEvent(new Event('input', { bubbles: true }));
        }""",
        [side, value],
    )
    settle(page)


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


def downloaded(page: Page, kind: str) -> list[Path]:
    """Press an entry of the download menu; returns the saved files by their names."""
    page.click(".m2k-menu[data-menu=download] summary")
    saved: list[Any] = []

    def keep(item: Any) -> None:
        saved.append(item)

    page.on("download", keep)
    page.click(f"[data-download={kind}]")
    page.wait_for_function(
        """(kind) => !document.querySelector(`[data-download=${kind}]`).ariaBusy""",
        arg=kind,
        timeout=WAIT,
    )
    page.wait_for_timeout(800)
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
    page.wait_for_selector("[data-testid=toast-body]", timeout=WAIT)
    return page.inner_text("[data-testid=toast-body]")


def close_error(page: Page) -> None:
    page.click("[data-testid=toast-close]")
    page.wait_for_selector("[data-testid=toast-body]", state="detached")
