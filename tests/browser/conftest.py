"""A running app on two tiny models, and a real browser to look at it with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Playwright, ViewportSize, expect, sync_playwright

from tests.browser.steps import TIMEOUT, visit
from tests.serving import App, serving, tiny_models

WIDE: ViewportSize = {"width": 1440, "height": 1000}


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app on two tiny models."""
    folder = tmp_path_factory.mktemp("app")
    with serving(folder, tiny_models(folder), MASK2KAN_HOSTS="kan.example") as running:
        yield running


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of an installed Chromium; tests that need it skip where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return path


@pytest.fixture(scope="session")
def browser(playwright: Playwright, chromium: str) -> Iterator[Browser]:
    running = playwright.chromium.launch(
        executable_path=chromium, headless=True, args=["--no-sandbox"]
    )
    yield running
    running.close()


@pytest.fixture
def page(browser: Browser, app: App) -> Iterator[Page]:
    """The app's page in a wide window, with the result that it opens with."""
    with visit(browser, app.url, viewport=WIDE) as opened:
        yield opened


@pytest.fixture(scope="module")
def _shared(browser: Browser, app: App) -> Iterator[Page]:
    with visit(browser, app.url, viewport=WIDE) as opened:
        yield opened


@pytest.fixture
def viewer(_shared: Page) -> Page:
    """A page that the tests of a module share, its viewer as it was at first.

    Loading a page takes seconds; tests that only look at results need not do it.
    """
    _shared.set_viewport_size(WIDE)
    _shared.mouse.move(1, 1)
    _shared.evaluate("() => window.mask2kan.reset()")
    return _shared
