"""Models of the Hub in the app, against a Hub on this machine that sends as slowly as told."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from gradio_client import Client
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import save_file

from tests.browser.steps import TOAST, failure, open_settings, open_tab, visit, wait_ready
from tests.fake_hub import PATIENT, FakeHub
from tests.serving import App, serving, tiny_models

ADE = "facebook/mask2former-swin-tiny-ade-semantic"
ROW = f'#models-list [data-source="{ADE}"]'
SECONDS = 120  # only against hanging
SLOW = 4e5  # bytes a second: all of a repository would take minutes


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """Repositories of 67 MB with a card, and two that hold models."""
    folder = tmp_path_factory.mktemp("repository")
    save_file({"x": torch.arange(2**23)}, folder / "model.safetensors")
    (folder / "README.md").write_text(
        "---\nlicense: mit\n---\n# A tiny card\n<script>window.harmed = true</script>\n",
        encoding="utf-8",
    )
    names = (ADE, "someone/typed", "someone/gated", "someone/late")
    repositories = dict.fromkeys(names, folder)
    for name, path in zip(
        ("someone/kan", "someone/mlp"), tiny_models(tmp_path_factory.mktemp("m")), strict=True
    ):
        repositories[name] = tmp_path_factory.mktemp("model")
        path.rename(repositories[name] / "model.safetensors")
    with FakeHub(repositories, gated=["someone/gated"]) as running:
        yield running


@pytest.fixture(scope="module")
def online(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app on the bundled models, with that Hub."""
    folder = tmp_path_factory.mktemp("online")
    with serving(folder, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", **PATIENT) as running:
        yield running


@pytest.fixture
def page(browser: Browser, online: App) -> Iterator[Page]:
    with visit(browser, online.url, viewport={"width": 1280, "height": 900}) as opened:
        open_tab(opened, "Models")
        opened.wait_for_selector(ROW)
        yield opened


def _type(page: Page, source: str) -> None:
    page.locator("#models-choice input").fill(source)
    page.locator("#models-choice input").press("Enter")


def _until(page: Page, happened: Callable[[], bool]) -> None:
    """Let the page go on until something has happened that is seen from here alone."""
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def test_download_cancel_and_download_again(page: Page, hub: FakeHub, online: App) -> None:
    hub.bytes_per_second = SLOW
    page.click(ROW)
    expect(page.locator(ROW)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#models-card")).to_contain_text("comes with the download")
    page.click("#models-download")
    told = page.locator("#models-note [role=progressbar]")
    expect(told).to_have_attribute(
        "aria-label",
        re.compile(r"of 67 MB, \d+(\.\d)? kB/s, \d+ (s|min) left"),
    )
    page.click("#models-cancel")
    expect(page.locator("#models-note")).to_contain_text("was cancelled")
    expect(page.locator("#models-cancel")).to_have_count(0)
    expect(page.locator(ROW)).to_have_attribute("data-state", "absent")

    # Nothing goes on in the background.
    hub.wait_until_quiet()
    assert hub.sent < 2**26

    hub.bytes_per_second = None
    page.click("#models-download")
    expect(page.locator("#models-note")).to_contain_text("is here: 67 MB")
    expect(page.locator(ROW)).to_have_attribute("data-state", "cached")
    expect(page.locator(ROW)).to_contain_text("Downloaded, 67 MB")
    expect(page.locator(ROW)).to_contain_text("mit")
    expect(page.locator("#models-card h1")).to_have_text("A tiny card")
    assert page.evaluate("window.harmed") is None
    assert hub.count("GET", f"{ADE}/resolve/{hub.commit(ADE)}/model.safetensors") == 2
    expect(page.locator("#models-download")).to_have_text("Update")

    listed = Client(online.url, verbose=False).predict(api_name="/models")
    entry = next(one for one in listed if one["source"] == ADE)
    assert (entry["state"], entry["scene"], entry["kind"]) == ("cached", "indoor", "hub")
    assert entry["bytes"] > 2**26


def test_a_typed_repository_joins_the_list(page: Page, hub: FakeHub) -> None:
    hub.bytes_per_second = None
    _type(page, "someone/typed")
    row = page.locator('#models-list [data-source="someone/typed"]')
    expect(row).to_have_attribute("data-state", "absent")
    page.click("#models-download")
    expect(row).to_have_attribute("data-state", "cached")


@pytest.mark.parametrize(
    ("source", "said"),
    [("someone/gated", "grants access on request"), ("someone/nothing", "No such repository")],
)
def test_a_download_that_fails_says_why_and_can_be_tried_again(
    page: Page, hub: FakeHub, source: str, said: str
) -> None:
    _type(page, source)
    expect(page.locator(f'#models-list [data-source="{source}"]')).to_be_visible()
    page.click("#models-download")
    expect(page.locator(TOAST)).to_contain_text(said)
    expect(page.locator("#models-download")).to_be_enabled()
    expect(page.locator("#models-cancel")).to_have_count(0)


def test_what_is_no_model_is_refused(page: Page) -> None:
    _type(page, "/nowhere/model.safetensors")
    expect(page.locator(TOAST)).to_contain_text("owner/name")


def test_bundled_models_need_no_download(page: Page) -> None:
    page.click('#models-list [data-source="mask2former_road"]')
    expect(page.locator("#models-card h1")).to_contain_text("Mask2Former, road scenes")
    expect(page.locator("#models-download")).to_have_count(0)
    expect(page.locator("#models-use-left")).to_be_enabled()
    expect(page.locator("#models-use-right")).to_be_enabled()


def test_two_checkpoints_of_the_hub_are_compared(page: Page, hub: FakeHub) -> None:
    """Typed into the pickers, fetched with what is done and left on the page, then kept."""
    hub.pause()
    open_tab(page, "Compare")
    before = page.get_attribute(".m2k", "data-run")
    open_settings(page)
    for side in ("left", "right"):
        page.fill(f"#{side} input", f"someone/{'kan' if side == 'left' else 'mlp'}")
        page.press(f"#{side} input", "Enter")
    page.get_by_text(re.compile(r"(kan|mlp): .* MB")).first.wait_for()
    hub.resume()
    _until(page, lambda: "someone/kan | someone/mlp" in page.inner_text(".bar-chip"))
    run = wait_ready(page, before)
    asked = len(hub.requests)
    page.locator(".m2k-tile").nth(1).click()
    wait_ready(page, run)
    assert len(hub.requests) == asked
    open_tab(page, "Models")
    _type(page, "someone/kan")
    row = page.locator('#models-list [data-source="someone/kan"]')
    expect(row).to_have_attribute("data-state", "cached")


def test_the_indoor_preset_without_a_model_behind_it_says_why(page: Page, hub: FakeHub) -> None:
    """What the Hub holds under that name here is no checkpoint."""
    open_tab(page, "Compare")
    open_settings(page)
    page.get_by_role("radio", name="Indoor").check()
    assert ADE in failure(page)
