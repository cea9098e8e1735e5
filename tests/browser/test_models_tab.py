"""The tab of models by itself, against a Hub on this machine that sends as slowly as it is told."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gradio_client import Client
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import save_file

from tests.fake_hub import FakeHub

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 300
WAIT = 30_000  # milliseconds
ADE = "facebook/mask2former-swin-tiny-ade-semantic"
ROW = f'#models-list [data-source="{ADE}"]'
SLOW, STEADY = 4e5, 1.5e6

SCRIPT = """
import sys
import gradio as gr
from app.models_tab import models_tab
from app.service import ModelService
from app.theme import CSS, theme
with gr.Blocks(analytics_enabled=False, fill_width=True) as demo:
    with gr.Tabs(), gr.Tab("Models"):
        models_tab(ModelService(device="cpu"), ["mask2kan_camvid", "mask2former_camvid"])
demo.queue().launch(
    server_port=int(sys.argv[1]), theme=theme(), css=CSS, ssr_mode=False, quiet=True
)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """One repository of 4 MB with a card."""
    folder = tmp_path_factory.mktemp("repository")
    save_file({"x": torch.arange(2**19)}, folder / "model.safetensors")
    (folder / "README.md").write_text(
        "---\nlicense: mit\n---\n# A tiny card\n<script>window.harmed = true</script>\n",
        encoding="utf-8",
    )
    repositories = {ADE: folder, "someone/typed": folder, "someone/gated": folder}
    with FakeHub(repositories, gated=["someone/gated"]) as running:
        yield running


@pytest.fixture(scope="module")
def tab(served: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the tab is served, by a process whose Hub is the one here."""
    folder = tmp_path_factory.mktemp("tab")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "HF_ENDPOINT": served.url,
        "HF_HOME": str(folder / "hub"),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("HF_HUB_OFFLINE", None)
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(port)], env=environment, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((folder / "log.txt").read_text(encoding="utf-8"))
            time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def page(browser: Browser, tab: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.goto(tab)
    opened.wait_for_selector(ROW)
    yield opened
    context.close()


def _type(page: Page, source: str) -> None:
    page.locator("#models-choice input").fill(source)
    page.locator("#models-choice input").press("Enter")


def test_download_cancel_and_download_again(page: Page, served: FakeHub, tab: str) -> None:
    served.bytes_per_second = SLOW
    page.click(ROW)
    expect(page.locator(ROW)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#models-card")).to_contain_text("comes with the download")
    page.click("#models-download")
    told = page.locator("#models-note [role=progressbar]")
    expect(told).to_have_attribute(
        "aria-label",
        re.compile(r"of 4\.2 MB, \d+(\.\d)? kB/s, \d+ s left"),
        timeout=WAIT,
    )
    page.click("#models-cancel")
    expect(page.locator("#models-note")).to_contain_text("was cancelled", timeout=WAIT)
    expect(page.locator("#models-cancel")).to_have_count(0)
    expect(page.locator(ROW)).to_have_attribute("data-state", "absent")

    # Nothing goes on in the background; all of it would take ten seconds.
    page.wait_for_timeout(1500)
    sent = served.sent
    page.wait_for_timeout(1500)
    assert served.sent == sent < 3_000_000

    served.bytes_per_second = STEADY
    page.click("#models-download")
    expect(page.locator("#models-note")).to_contain_text("is here: 4.2 MB", timeout=WAIT)
    expect(page.locator(ROW)).to_have_attribute("data-state", "cached")
    expect(page.locator(ROW)).to_contain_text("Downloaded, 4.2 MB")
    expect(page.locator(ROW)).to_contain_text("mit")
    expect(page.locator("#models-card h1")).to_have_text("A tiny card")
    assert page.evaluate("window.harmed") is None
    expect(page.locator("#models-download")).to_have_text("Update")

    listed = Client(tab, verbose=False).predict(api_name="/models")
    entry = next(one for one in listed if one["source"] == ADE)
    assert (entry["state"], entry["scene"], entry["kind"]) == ("cached", "indoor", "hub")
    assert entry["bytes"] > 4_000_000


def test_a_typed_repository_joins_the_list(page: Page, served: FakeHub) -> None:
    served.bytes_per_second = None
    _type(page, "someone/typed")
    row = page.locator('#models-list [data-source="someone/typed"]')
    expect(row).to_have_attribute("data-state", "absent", timeout=WAIT)
    page.click("#models-download")
    expect(row).to_have_attribute("data-state", "cached", timeout=WAIT)


@pytest.mark.parametrize(
    ("source", "said"),
    [("someone/gated", "grants access on request"), ("someone/nothing", "No such repository")],
)
def test_a_download_that_fails_says_why_and_can_be_tried_again(
    page: Page, served: FakeHub, source: str, said: str
) -> None:
    _type(page, source)
    expect(page.locator(f'#models-list [data-source="{source}"]')).to_be_visible(timeout=WAIT)
    page.click("#models-download")
    expect(page.locator(".toast-body")).to_contain_text(said, timeout=WAIT)
    expect(page.locator("#models-download")).to_be_enabled()
    expect(page.locator("#models-cancel")).to_have_count(0)


def test_what_is_no_model_is_refused(page: Page) -> None:
    _type(page, "/etc/passwd")
    expect(page.locator(".toast-body")).to_contain_text("owner/name", timeout=WAIT)


def test_bundled_models_need_no_download(page: Page) -> None:
    page.click('#models-list [data-source="mask2former_camvid"]')
    expect(page.locator("#models-card h1")).to_contain_text("Mask2Former, CamVid")
    expect(page.locator("#models-download")).to_have_count(0)
    expect(page.locator("#models-use-left")).to_be_enabled()
    expect(page.locator("#models-use-right")).to_be_enabled()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_tab_fits_the_window(browser: Browser, tab: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    opened = context.new_page()
    opened.goto(tab)
    opened.wait_for_selector("#models-card pre")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_only_one_endpoint_is_public(tab: str) -> None:
    told = Client(tab, verbose=False).view_api(return_format="dict")
    assert list(told["named_endpoints"]) == ["/models"]
