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
    close_error,
    error_text,
    explain,
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


def test_one_click_on_an_example_shows_both_models(page: Page) -> None:
    open_example(page)
    names = page.locator(".m2k-card .m2k-name").all_inner_texts()
    assert names == ["tiny_kan.safetensors", "tiny_mlp.safetensors"]
    facts = page.locator(".m2k-facts").all_inner_texts()
    assert "KAN head" in facts[0]
    assert "MLP head" in facts[1]
    for text in facts:
        assert re.search(r"M parameters · cpu, (float32|bfloat16) · [\d.]+ m?s$", text)
    stages = page.locator(".m2k-stages").all_inner_texts()
    for name in ("decode", "backbone", "pixel decoder", "transformer decoder", "post-processing"):
        assert name in stages[0]
    assert page.locator(".m2k-legend li").count() >= 1


def test_another_score_is_shown_without_running_the_models_again(page: Page, app: App) -> None:
    before = open_example(page)
    runs = app.model_runs()
    page.click("#score input")
    page.get_by_role("option", name="Entropy").click()
    wait_ready(page, before)
    explain(page, 400, 300)
    assert "Entropy" in page.inner_text(".m2k-why-side[data-side=left]")
    assert app.model_runs() == runs


def test_bad_pictures_get_one_clear_message_and_the_app_keeps_serving(
    page: Page, tmp_path: Path
) -> None:
    text = tmp_path / "text.png"
    text.write_text("this is not a picture", encoding="utf-8")
    upload(page, text)
    assert "Can't read this image" in error_text(page)
    close_error(page)
    huge = tmp_path / "huge.png"
    Image.new("1", (10_000, 6_000)).save(huge)
    upload(page, huge)
    assert "40" in error_text(page)
    page.wait_for_selector(".m2k[data-state=failed]", state="attached")
    close_error(page)
    open_example(page)


def test_a_24_megapixel_picture_is_computed_smaller_and_says_so(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.fromarray(np.full((4000, 6000, 3), 127, np.uint8)).save(path)
    upload(page, path)
    wait_ready(page)
    notes = page.locator(".m2k-notes").all_inner_texts()
    assert all("2048" in note for note in notes)
    assert page.get_attribute(".m2k", "data-size") == "1365x2048"
    page.focus(".m2k-surface >> nth=0")
    page.keyboard.press("ArrowRight")  # positions are those of the picture as it was uploaded
    assert int(page.get_attribute(".m2k-readout", "data-x") or 0) == pytest.approx(3000, abs=6)


def test_a_missing_checkpoint_is_named_and_the_app_keeps_serving(page: Page) -> None:
    page.fill("#left input", "/nowhere/model.safetensors")
    page.keyboard.press("Enter")
    page.click("#examples-road img >> nth=0")
    assert "/nowhere/model.safetensors" in error_text(page)
    page.wait_for_selector(".m2k[data-state=failed]", state="attached")
    close_error(page)
    page.click("#left input")
    page.get_by_role("option", name="tiny_kan.safetensors").click()
    open_example(page)


def test_the_indoor_preset_chooses_the_ade20k_model_and_says_it_needs_the_network(
    page: Page,
) -> None:
    assert "network" in page.inner_text("#preset")
    open_example(page)
    page.get_by_role("radio", name="Indoor").check()
    page.wait_for_function(
        "document.querySelector('#left input').value"
        " === 'facebook/mask2former-swin-tiny-ade-semantic'"
    )
    assert "network" in error_text(page)


def test_a_model_chosen_on_its_page_is_compared(page: Page) -> None:
    before = open_example(page)
    open_tab(page, "Models")
    page.locator("#models-list [data-source]").nth(1).click()
    page.wait_for_selector("#models-list li:nth-child(2) [aria-pressed=true]")
    page.click("#models-use-left")
    open_tab(page, "Compare")
    wait_ready(page, before)
    assert page.locator(".m2k-card .m2k-name").all_inner_texts() == ["tiny_mlp.safetensors"] * 2


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
    page.click("#batch-open")
    wait_ready(page)
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
        for view in ("swipe", "difference", "side", "overview"):
            set_view(page, view)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view
            tops = [pane.bounding_box() for pane in page.locator(".m2k-pane").all()]
            assert all(box and box["width"] > 120 for box in tops)
            page.screenshot(path=folder / f"{view}_{width}_{theme}.png", full_page=True)
        for menu in ("layers", "download"):
            page.click(f".m2k-menu[data-menu={menu}] summary")
            settle(page)
            sheet = page.locator(f".m2k-menu[data-menu={menu}] .m2k-sheet").bounding_box()
            assert sheet
            assert 0 <= sheet["x"] <= width - sheet["width"], menu
            page.keyboard.press("Escape")
        page.locator(".m2k-surface").first.press("Enter")
        page.wait_for_selector(".m2k-why[data-x]")
        for tab in TABS:
            open_tab(page, tab)
            if tab == "KAN":
                page.wait_for_selector(".kan[data-state=ready][data-input]")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
            page.screenshot(path=folder / f"{tab.lower()}_{width}_{theme}.png", full_page=True)


def test_what_was_seen_before_is_not_computed_again(page: Page, app: App) -> None:
    """How soon it is there is a matter of the machine: ``benchmarks/app.py`` prints it."""
    open_example(page, 3)
    open_example(page, 4)
    runs = app.model_runs()
    for nth in (3, 4, 3):
        open_example(page, nth)
    assert app.model_runs() == runs
    assert read(page, "left", "pixels") >= 0


def test_nothing_comes_from_elsewhere_and_little_from_here(browser: Browser, app: App) -> None:
    """Every request of a first visit goes to the app; what is not Gradio's own stays small."""
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
        page.wait_for_selector("#examples-road img")
        page.wait_for_function(
            "window.mask2kan && [...document.images].every((image) => image.complete)"
        )
        page.evaluate("document.fonts.ready")
        while any(not STREAMS.search(request.url) for request in underway):
            with page.expect_event("requestfinished"):
                pass
    elsewhere = [url for url in weight if not url.startswith((app.url, "data:", "blob:"))]
    assert elsewhere == []
    ours = {url: size for url, size in weight.items() if "/assets/" not in url}
    assert sum(ours.values()) <= 1_500_000, ours
    assert any("viewer/main.js" in url for url in ours)
