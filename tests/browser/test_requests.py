"""What happens between a choice and its result: many clicks, waiting, failing, going back."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.browser.steps import (
    EVENTS,
    EXAMPLES,
    TOAST,
    failure,
    open_example,
    open_settings,
    open_tab,
    pick_model,
    settle,
    upload,
    visit,
    wait_ready,
    window,
)

if TYPE_CHECKING:
    from tests.serving import App

TRIALS = 20


def test_the_last_example_clicked_is_shown_always(browser: Browser, app: App) -> None:
    """Ten clicks in quick succession, twenty times; and nothing else comes after."""
    rng = random.Random(18)
    with visit(browser, app.url, viewport={"width": 1440, "height": 1000}) as page:
        for _ in range(TRIALS):
            clicks = [rng.randrange(len(EXAMPLES)) for _ in range(10)]
            for nth in clicks:
                page.locator(".m2k-tile").nth(nth).click()
                page.wait_for_timeout(rng.choice((0, 0, 20, 60, 150)))
            wait_ready(page)
            assert page.get_attribute(".m2k", "data-example") == EXAMPLES[clicks[-1]].stem
            pressed = page.locator(".m2k-tile[aria-pressed=true]")
            assert pressed.get_attribute("data-example") == EXAMPLES[clicks[-1]].stem


def test_a_late_answer_changes_nothing(page: Page) -> None:
    """An answer with an earlier number arrives after the picture that was chosen since."""
    before = page.get_attribute(".m2k", "data-run")
    held: list[Route] = []
    free = threading.Event()

    def hold(route: Route) -> None:
        if held or free.is_set():
            route.continue_()
        else:
            held.append(route)

    page.route(EVENTS, hold)
    page.locator(".m2k-tile").nth(1).click()
    page.wait_for_function("document.querySelector('.m2k').dataset.state === 'busy'")
    while not held:
        page.wait_for_timeout(20)
    page.locator(".m2k-tile").nth(2).click()
    free.set()
    held[0].continue_()
    wait_ready(page, before)
    assert page.get_attribute(".m2k", "data-example") == EXAMPLES[2].stem


def test_the_new_photo_is_there_at_once_and_cancel_brings_back_the_old_result(page: Page) -> None:
    run = page.get_attribute(".m2k", "data-run")
    page.route(EVENTS, lambda route: None)  # nothing is answered
    page.locator(".m2k-tile").nth(1).click()
    page.wait_for_function("document.querySelector('.m2k-coming img')?.naturalWidth === 1024")
    assert page.is_visible(".m2k-coming")
    assert not page.is_visible(".m2k-sentence")  # that was of the picture before
    page.click("[data-cancel]")
    page.wait_for_selector(".m2k[data-state=ready]")
    assert not page.is_visible(".m2k-coming")
    assert page.get_attribute(".m2k", "data-run") == run
    assert page.get_attribute(".m2k-tile >> nth=0", "aria-pressed") == "true"
    page.unroute(EVENTS)
    open_example(page, 2)


def test_another_model_leaves_the_old_result_until_its_own_is_there(page: Page) -> None:
    open_example(page)
    page.route(EVENTS, lambda route: None)
    pick_model(page, "right", "tiny_kan.safetensors")
    page.wait_for_selector(".m2k[data-state=busy]")
    assert not page.is_visible(".m2k-coming")
    assert page.is_visible(".m2k-pane >> nth=0")


def test_a_failure_stays_and_can_be_tried_again(page: Page) -> None:
    page.route(EVENTS, lambda route: route.fulfill(status=503, json={"detail": "busy"}))
    page.locator(".m2k-tile").nth(1).click()
    assert "did not answer" in failure(page)
    page.unroute(EVENTS)
    before = page.get_attribute(".m2k", "data-run")
    page.wait_for_timeout(300)
    assert page.get_attribute(".m2k", "data-state") == "failed"
    page.click("[data-retry]")
    wait_ready(page, before)
    assert page.get_attribute(".m2k", "data-example") == EXAMPLES[1].stem


def test_bad_pictures_get_one_clear_message_where_the_result_would_be(
    page: Page, tmp_path: Path
) -> None:
    text = tmp_path / "text.png"
    text.write_text("this is not a picture", encoding="utf-8")
    upload(page, text)
    assert "Can't read this image" in failure(page)
    assert page.locator(TOAST).count() == 0  # once, not twice
    page.click("[data-back]")
    assert page.get_attribute(".m2k", "data-state") == "ready"
    open_example(page, 1)


def test_an_unknown_model_is_named_and_does_not_join_the_list(page: Page) -> None:
    open_settings(page)
    page.click("#left input")
    offered = page.get_by_role("option").all_inner_texts()
    page.fill("#left input", "/nowhere/model.safetensors")
    page.keyboard.press("Enter")
    assert "/nowhere/model.safetensors" in failure(page)
    page.click("[data-back]")
    page.wait_for_function(
        "document.querySelector('#left input').value === 'tiny_kan.safetensors'"
    )  # the pickers say what the result was made with
    open_settings(page)
    page.click("#left input")
    assert page.get_by_role("option").all_inner_texts() == offered
    page.keyboard.press("Escape")
    open_example(page, 1)


def test_pickers_offer_every_model_by_a_readable_title(page: Page) -> None:
    from mask2kan.checkpoints.manifest import manifest

    open_settings(page)
    page.click("#left input")
    offered = page.get_by_role("option").all_inner_texts()
    titles = [str(entry["title"]) for entry in manifest()]
    assert [title for title in offered if title in titles] == titles
    for model in ("tiny_kan", "tiny_mlp"):
        assert any(f"{model}.safetensors" in title for title in offered)
    chip = page.inner_text(".bar-chip")
    assert all(word in chip for word in ("tiny_kan", "tiny_mlp", "MSP"))


def test_a_preset_that_fails_ends_the_waiting(page: Page) -> None:
    open_settings(page)
    page.get_by_role("radio", name="Indoor").check()
    assert "network" in failure(page)
    page.click("[data-back]")
    assert page.get_attribute(".m2k", "data-state") == "ready"
    assert page.get_attribute(".bar-chip", "aria-expanded") == "false"  # a click beside it
    open_settings(page)
    page.keyboard.press("Escape")
    assert page.get_attribute(".bar-chip", "aria-expanded") == "false"


def test_another_score_is_shown_without_running_the_models_again(page: Page, app: App) -> None:
    before = open_example(page)
    runs = app.model_runs()
    open_settings(page)
    page.click("#score input")
    page.get_by_role("option", name="Entropy").click()
    wait_ready(page, before)
    assert "Entropy" in page.inner_text(".bar-chip")
    assert app.model_runs() == runs


def test_a_model_chosen_on_its_page_is_compared(page: Page) -> None:
    before = open_example(page)
    open_tab(page, "Models")
    page.locator("#models-list [data-source]").nth(1).click()
    page.wait_for_selector("#models-list li:nth-child(2) [aria-pressed=true]")
    page.click("#models-use-left")
    open_tab(page, "Compare")
    wait_ready(page, before)
    assert page.inner_text(".bar-chip").count("tiny_mlp") == 2
    captions = page.locator(".m2k-caption b").all_inner_texts()
    assert captions == ["MLP A", "MLP B"]  # names that tell them apart


def test_the_first_result_is_nobodys_own(browser: Browser, app: App) -> None:
    """Computed once, at the start: visitors get files."""
    with visit(browser, app.url) as one:
        run = one.get_attribute(".m2k", "data-run")
        assert one.get_attribute(".m2k", "data-example") == EXAMPLES[0].stem
        runs = app.model_runs()
    asked: list[str] = []
    with visit(browser, app.url, wait=False) as other:
        other.on("request", lambda request: asked.append(request.url))
        wait_ready(other)
        settle(other)
        assert other.get_attribute(".m2k", "data-run") == run
    assert app.model_runs() == runs
    assert not [url for url in asked if "queue/join" in url]


@pytest.mark.parametrize("state", ["empty", "busy"])
def test_a_first_result_that_is_not_there_yet_is_asked_for(
    browser: Browser, app: App, state: str
) -> None:
    """Somebody comes before it has been computed, or clicks while it loads."""
    with window(browser) as page:
        page.route("**/first.json", lambda route: route.fulfill(status=403))
        page.goto(app.url)
        if state == "busy":
            page.locator(".m2k-tile").nth(2).click()
        wait_ready(page)
        wanted = EXAMPLES[2 if state == "busy" else 0].stem
        page.wait_for_selector(f".m2k[data-example={wanted}][data-state=ready]")
