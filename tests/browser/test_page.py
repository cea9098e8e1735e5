"""The page as a whole: results, messages, sizes, themes, speed and weight."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Request, ViewportSize

from tests.browser.steps import (
    open_example,
    open_tab,
    read,
    set_view,
    settle,
    upload,
    visit,
    wait_ready,
    window,
)

if TYPE_CHECKING:
    from tests.serving import App

TABS = ("Batch", "KAN", "Models")
STREAMS = re.compile(r"/gradio_api/(heartbeat/|queue/data\?)")  # stay open as long as the page


def test_what_is_known_of_both_answers_is_told(page: Page) -> None:
    facts = page.locator(".m2k-fact").all_text_contents()
    assert "tiny_kan.safetensors" in facts[0]
    assert "KAN head" in facts[0]
    assert "MLP head" in facts[1]
    for text in facts:
        assert re.search(r"M parameters · cpu, (float32|bfloat16) · [\d.]+ m?s", text)
    for name in ("decode", "backbone", "pixel decoder", "transformer decoder", "post-processing"):
        assert name in facts[0]
    assert page.locator(".m2k-legend li").count() >= 1


def test_a_24_megapixel_picture_is_computed_smaller_and_says_so(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.fromarray(np.full((4000, 6000, 3), 127, np.uint8)).save(path)
    before = page.get_attribute(".m2k", "data-run")
    upload(page, path)
    wait_ready(page, before)
    notes = page.locator(".m2k-notes").all_text_contents()
    assert all("2048" in note for note in notes)
    assert page.get_attribute(".m2k", "data-size") == "1365x2048"
    page.focus(".m2k-surface >> nth=0")
    page.keyboard.press("ArrowRight")  # positions are those of the picture as it was uploaded
    assert int(page.get_attribute(".m2k-readout", "data-x") or 0) == pytest.approx(3000, abs=6)


def test_a_picture_of_a_batch_opens_in_the_comparison(page: Page, tmp_path: Path) -> None:
    for name in ("one", "two"):
        noise = np.random.default_rng(len(name)).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    open_tab(page, "Batch")
    page.set_input_files(
        "#batch-files input[type=file]", [tmp_path / "one.png", tmp_path / "two.png"]
    )
    page.click("#batch-run")
    page.wait_for_function("document.querySelectorAll('#batch-gallery img').length === 2")
    page.locator("#batch-gallery img").first.click()
    before = page.get_attribute(".m2k", "data-run")
    page.click("#batch-open")
    wait_ready(page, before)
    assert page.get_attribute(".m2k", "data-size") == "64x96"
    assert page.is_visible(".m2k-panes")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440, 2560])
def test_the_page_fits_its_window(
    browser: Browser, app: App, tmp_path: Path, width: int, theme: str
) -> None:
    """No sideways scrolling, whatever is shown; MASK2KAN_SCREENSHOTS keeps the pictures."""
    folder = Path(os.environ.get("MASK2KAN_SCREENSHOTS", tmp_path))
    viewport: ViewportSize = {"width": width, "height": 900}
    with visit(browser, f"{app.url}/?__theme={theme}", viewport=viewport) as page:
        open_example(page)
        assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
        for view in ("swipe", "difference", "one", "pair"):
            set_view(page, view)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view
            tops = [pane.bounding_box() for pane in page.locator(".m2k-pane").all()]
            assert all(box and box["width"] > 120 for box in tops)
            page.screenshot(path=folder / f"{view}_{width}_{theme}.png", full_page=True)
        for menu in ("adjust", "download"):
            page.click(f".m2k-menu[data-menu={menu}] summary")
            settle(page)
            sheet = page.locator(f".m2k-menu[data-menu={menu}] .m2k-sheet").bounding_box()
            assert sheet
            assert 0 <= sheet["x"] <= width - sheet["width"], menu
            page.keyboard.press("Escape")
        page.locator(".m2k-surface").first.press("Enter")
        page.wait_for_selector(".m2k-why[data-x]")
        page.screenshot(path=folder / f"why_{width}_{theme}.png", full_page=True)
        page.click(".m2k-why .m2k-close")
        for tab in TABS:
            open_tab(page, tab)
            if tab == "KAN":
                page.wait_for_selector(".kan[data-state=ready][data-input]")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
            page.screenshot(path=folder / f"{tab.lower()}_{width}_{theme}.png", full_page=True)


def test_what_was_seen_before_is_not_computed_again(page: Page, app: App) -> None:
    """How soon it is there is a matter of the machine: ``benchmarks/page.py`` prints it."""
    open_example(page, 3)
    open_example(page, 4)
    runs = app.model_runs()
    for nth in (3, 4, 3):
        open_example(page, nth)
    assert app.model_runs() == runs
    assert read(page, "left", "pixels") >= 0


def test_nothing_comes_from_elsewhere_and_little_from_here(browser: Browser, app: App) -> None:
    """Every request of a first visit goes to the app; the page and its first result are light."""
    weight: dict[str, int] = {}
    underway: set[Request] = set()

    def begin(request: Request) -> None:
        underway.add(request)

    def end(request: Request) -> None:
        underway.remove(request)
        weight[request.url] = request.sizes()["responseBodySize"]

    with window(browser) as page:
        page.on("request", begin)
        page.on("requestfinished", end)
        page.goto(app.url)
        wait_ready(page)
        page.evaluate("document.fonts.ready")
        while any(not STREAMS.search(request.url) for request in underway):
            with page.expect_event("requestfinished"):
                pass
    elsewhere = [url for url in weight if not url.startswith((app.url, "data:", "blob:"))]
    assert elsewhere == []
    result = {url: size for url, size in weight.items() if "mask2kan_first" in url}
    assert len(result) >= 6  # its list, the photo, and two maps of each model
    assert sum(weight.values()) - sum(result.values()) <= 1_500_000
    assert sum(weight.values()) <= 3_000_000


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1440, 900), (1920, 1080)])
def test_the_answer_is_on_one_screen(browser: Browser, app: App, width: int, height: int) -> None:
    """Stage, sentence, slider and what it all means, without scrolling."""
    viewport: ViewportSize = {"width": width, "height": height}
    with visit(browser, app.url, viewport=viewport) as page:
        for view in ("pair", "swipe", "one", "difference"):
            set_view(page, view)
            for part in (
                ".m2k-stage",
                ".m2k-sentence",
                "#threshold-both",
                ".m2k-about",
                ".m2k-toolbar",
                ".bar-chip",
            ):
                box = page.locator(part).bounding_box()
                assert box, part
                assert box["x"] >= 0, (view, part)
                assert box["y"] >= 0, (view, part)
                assert box["x"] + box["width"] <= width, (view, part)
                assert box["y"] + box["height"] <= height, (view, part)
        panel = page.locator(".m2k-panel").bounding_box()
        assert panel
        assert panel["y"] + panel["height"] <= height


def test_a_phone_shows_photo_sentence_and_slider(browser: Browser, app: App) -> None:
    viewport: ViewportSize = {"width": 390, "height": 844}
    with visit(browser, app.url, viewport=viewport, is_mobile=True, has_touch=True) as page:
        assert page.locator(".m2k-pane").count() == 1
        for part in (".m2k-pane", ".m2k-sentence", "#threshold-both"):
            box = page.locator(part).bounding_box()
            assert box, part
            assert box["y"] + box["height"] <= 844, part
            assert box["x"] + box["width"] <= 390, part


@pytest.mark.parametrize("size", [(300, 1200), (1600, 320)])
def test_portrait_and_panorama_use_the_height(
    page: Page, tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", size, (90, 120, 90)).save(path)
    before = page.get_attribute(".m2k", "data-run")
    upload(page, path)
    wait_ready(page, before)
    stage, pane = (page.locator(part).first.bounding_box() for part in (".m2k-stage", ".m2k-pane"))
    assert stage
    assert pane
    assert pane["width"] / pane["height"] == pytest.approx(size[0] / size[1], rel=0.02)
    # As high as the window leaves room, or as wide as half of the stage.
    room = page.evaluate("innerHeight") - 386
    assert pane["height"] == pytest.approx(room, abs=4) or pane["width"] == pytest.approx(
        stage["width"] / 2 - 4, abs=2
    )
