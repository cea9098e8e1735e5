"""The tab of many pictures by itself, with a service that can be made to wait."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import socket
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from app.services.models import Answer, ModelService
from app.tabs.batch import batch_tab
from app.web.theme import CSS, theme
from mask2kan.checkpoints import save_model
from tests.browser.steps import TIMEOUT, close_error, window
from tests.tiny_models import calibrated, tiny

PICTURES = 8
CAPTIONS = "#batch-gallery .caption-label"
ORDER = "#batch-order input"


class Gate(ModelService):
    """A service that stops before the picture it is told to, until it is opened."""

    def __init__(self) -> None:
        super().__init__(device="cpu")
        self.asked = 0
        self.closed_at: int | None = None
        self.opened = threading.Event()

    def close_before(self, number: int) -> None:
        self.asked, self.closed_at = 0, number
        self.opened.clear()

    def open(self) -> None:
        self.closed_at = None
        self.opened.set()

    def answers(
        self, sources: Sequence[str | None], image: Any, score: str, **options: Any
    ) -> list[Answer]:
        self.asked += 1
        if self.asked == self.closed_at:
            assert self.opened.wait(TIMEOUT / 1000)
        return super().answers(sources, image, score, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch")


@pytest.fixture(scope="module")
def images(folder: Path) -> list[Path]:
    """Eight pictures, the sixth broken off in its middle."""
    paths = []
    for seed in range(PICTURES):
        random = np.random.default_rng(seed)
        small = random.integers(0, 256 - 25 * seed, (6, 10, 3), dtype=np.uint8)
        path = folder / f"road_{seed}.png"
        Image.fromarray(small).resize((320, 192), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def models(folder: Path, images: list[Path]) -> tuple[str, str]:
    paths = []
    for seed, family in enumerate(("mask2kan", "mask2former")):
        model = tiny(family, seed=seed, num_classes=11, num_decoder_layers=1)
        path = folder / f"tiny_{family}.safetensors"
        save_model(calibrated(model, images[0], 80), path)
        paths.append(str(path))
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def service() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def tab(
    models: tuple[str, str], service: Gate, folder: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """Where the tab is served."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        with gr.Blocks(analytics_enabled=False, fill_width=True) as demo:
            with gr.Row():
                left, right = (
                    gr.Dropdown(
                        [(Path(model).stem, model) for model in models],
                        value=model,
                        label=side,
                        allow_custom_value=True,
                    )
                    for side, model in zip(("Left", "Right"), models, strict=True)
                )
                score = gr.Dropdown(["msp", "entropy"], value="msp", label="Score")
            with gr.Tabs(), gr.Tab("Many pictures"):
                built = batch_tab(service, left, right, score)
                opened = gr.Textbox(label="Opened", elem_id="opened")
            built.open.click(lambda path: path, built.chosen, opened, api_visibility="private")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        demo.queue()
        # In a thread of its own: Playwright's loop runs in this one.
        starting = threading.Thread(
            target=demo.launch,
            kwargs={
                "server_port": port,
                "theme": theme(),
                "css": CSS,
                "ssr_mode": False,
                "quiet": True,
                "prevent_thread_lock": True,
            },
        )
        starting.start()
        starting.join()
        yield f"http://127.0.0.1:{port}"
        service.open()
        demo.close(verbose=False)


@pytest.fixture
def page(browser: Browser, tab: str, service: Gate) -> Iterator[Page]:
    service.open()
    with window(browser, viewport={"width": 1280, "height": 900}) as opened:
        opened.goto(tab)
        opened.wait_for_selector("#batch-files input[type=file]", state="attached")
        yield opened
        service.open()


def _upload(page: Page, paths: Sequence[Path]) -> None:
    page.set_input_files("#batch-files input[type=file]", [str(path) for path in paths])
    expect(page.locator("#batch-files .file")).to_have_count(len(paths))


def _shares(page: Page) -> list[tuple[float, float]]:
    """Left and right per cent of every caption, in the order of the gallery."""
    pattern = re.compile(r"left ([\d.]+)\s% · right ([\d.]+)\s%")
    found = [pattern.search(text) for text in page.locator(CAPTIONS).all_inner_texts()]
    return [(float(match[1]), float(match[2])) for match in found if match]


def _sort_by(page: Page, name: str) -> None:
    page.click(ORDER)
    page.get_by_role("option", name=name).click()


def _downloaded(page: Page, selector: str, target: Path) -> Path:
    with page.expect_download() as started:
        page.click(selector)
    path = target / started.value.suggested_filename
    started.value.save_as(path)
    return path


def _screenshot(page: Page, name: str) -> None:
    """Kept in MASK2KAN_SCREENSHOTS when it is set."""
    if folder := os.environ.get("MASK2KAN_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"batch_{name}.png", full_page=True)


def test_a_run_shows_progress_sorts_and_delivers(
    page: Page, service: Gate, images: list[Path], tmp_path: Path
) -> None:
    service.close_before(4)
    _upload(page, images)
    page.click("#batch-run")
    told = page.locator("#batch-note [role=progressbar]")
    expect(told).to_have_attribute(
        "aria-label", re.compile(rf"4 of {PICTURES} · about \d+ (s|min) left")
    )
    expect(page.locator("#batch-run")).to_be_disabled()
    expect(page.locator("#batch-cancel")).to_be_visible()
    expect(page.locator(CAPTIONS).first).to_be_visible()
    assert page.locator(CAPTIONS).count() <= 3
    _screenshot(page, "running")
    service.open()
    expect(page.locator("#batch-note")).to_contain_text(
        re.compile(rf"{PICTURES} of {PICTURES} pictures in \d+ (s|min)")
    )
    expect(page.locator(CAPTIONS)).to_have_count(PICTURES)
    expect(page.locator("#batch-run")).to_be_enabled()
    expect(page.locator("#batch-cancel")).to_have_count(0)
    shares = _shares(page)
    assert len(shares) == PICTURES
    assert max(map(max, shares)) > 1
    assert shares == sorted(shares, key=max, reverse=True)

    asked = service.asked
    _sort_by(page, "Order given")
    expect(page.locator(CAPTIONS).first).to_contain_text("road_0.png")
    names = [text.split(" · ")[0] for text in page.locator(CAPTIONS).all_inner_texts()]
    assert names == [path.name for path in images]
    _sort_by(page, "Models disagree")
    expect(page.locator(CAPTIONS).first).not_to_contain_text("road_0.png")
    apart = [abs(left - right) for left, right in _shares(page)]
    # Captions are rounded to a tenth of a per cent, so equal ones may stand either way.
    assert all(after <= before + 0.11 for before, after in itertools.pairwise(apart))
    assert service.asked == asked

    table = _downloaded(page, "#batch-csv", tmp_path)
    rows = list(csv.DictReader(io.StringIO(table.read_text("utf-8"))))
    assert [row["name"] for row in rows] == [path.name for path in images]
    told_shares = {
        (
            round(100 * float(row["left_anomalous_share"]), 1),
            round(100 * float(row["right_anomalous_share"]), 1),
        )
        for row in rows
    }
    assert told_shares == set(shares)
    archive = _downloaded(page, "#batch-zip", tmp_path)
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        assert len(file.namelist()) == 5 * PICTURES + 1
        assert file.read("mask2kan_batch.csv") == table.read_bytes()


def test_the_late_end_of_a_cancelled_run_does_not_end_the_next(
    page: Page, service: Gate, images: list[Path]
) -> None:
    """A picture that was being computed ends after the visitor has started anew."""
    service.close_before(2)
    _upload(page, images)
    page.click("#batch-run")
    expect(page.locator("#batch-note [role=progressbar]")).to_have_attribute(
        "aria-label", re.compile("2 of")
    )
    page.click("#batch-cancel")
    expect(page.locator("#batch-note")).to_contain_text(f"Stopped after 1 of {PICTURES} pictures")
    page.click("#batch-run")
    expect(page.locator("#batch-note")).not_to_contain_text("Stopped")
    service.open()
    expect(page.locator("#batch-note")).to_contain_text(f"{PICTURES} of {PICTURES} pictures in")


def test_cancel_stops_and_a_new_run_works(
    page: Page, service: Gate, images: list[Path], tab: str, browser: Browser, tmp_path: Path
) -> None:
    service.close_before(4)
    _upload(page, images)
    page.click("#batch-run")
    told = page.locator("#batch-note [role=progressbar]")
    expect(told).to_have_attribute("aria-label", re.compile("4 of"))
    page.click("#batch-cancel")
    expect(page.locator("#batch-note")).to_contain_text(f"Stopped after 3 of {PICTURES} pictures")
    expect(page.locator(CAPTIONS)).to_have_count(3)
    table = _downloaded(page, "#batch-csv", tmp_path)
    assert len(table.read_text("utf-8").splitlines()) == 4
    with zipfile.ZipFile(_downloaded(page, "#batch-zip", tmp_path)) as file:
        assert len(file.namelist()) == 5 * 3 + 1
    _screenshot(page, "cancelled")

    with window(browser) as other:
        other.goto(tab)
        other.wait_for_selector("#batch-run")
        expect(other.locator(CAPTIONS)).to_have_count(0)  # nobody sees another's results

    service.open()
    page.click("#batch-run")
    expect(page.locator("#batch-note")).to_contain_text(f"{PICTURES} of {PICTURES} pictures in")
    expect(page.locator(CAPTIONS)).to_have_count(PICTURES)
    # Of the run before, the picture that was being looked at is the last one that was asked for.
    assert service.asked == 4 + PICTURES


def test_a_broken_file_is_told_and_a_picture_can_be_opened(
    page: Page, images: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("this is not a picture", encoding="utf-8")
    _upload(page, [images[0], broken, images[1]])
    page.click("#batch-run")
    expect(page.locator("#batch-note")).to_contain_text("2 of 3 pictures")
    expect(page.locator("#batch-note")).to_contain_text("1 could not be computed")
    expect(page.locator(CAPTIONS)).to_have_count(2)
    expect(page.locator("#batch-table")).to_contain_text("it is a text file")
    name = page.locator(CAPTIONS).nth(1).inner_text().split(" · ")[0]
    page.locator("#batch-gallery button:has(img)").nth(1).click()
    expect(page.locator("#batch-open")).to_have_text(f"Open {name} in Compare")
    page.click("#batch-open")
    expect(page.locator("#opened textarea, #opened input")).to_have_value(
        re.compile(rf"/{re.escape(name)}$")
    )
    _screenshot(page, "broken")


def test_without_files_and_with_a_wrong_model_there_is_one_clear_line(
    page: Page, images: list[Path]
) -> None:
    page.click("#batch-run")
    expect(page.locator(".toast-body")).to_contain_text("add pictures or a video")
    expect(page.locator("#batch-run")).to_be_enabled()
    close_error(page)
    _upload(page, images[:2])
    page.get_by_label("Right").fill("/nowhere/model.safetensors")
    page.keyboard.press("Enter")
    page.click("#batch-run")
    expect(page.locator(".toast-body")).to_contain_text("/nowhere/model")
    expect(page.locator("#batch-run")).to_be_enabled()
    expect(page.locator("#batch-note")).to_contain_text("Stopped before the first")
    expect(page.locator("#batch-csv")).to_have_count(0)


def test_the_endpoint_is_the_only_public_one_and_delivers(
    tab: str, service: Gate, images: list[Path], models: tuple[str, str]
) -> None:
    service.open()
    client = Client(tab, verbose=False)
    told = client.view_api(return_format="dict")["named_endpoints"]
    assert list(told) == ["/batch"]
    assert [parameter["parameter_name"] for parameter in told["/batch"]["parameters"]] == [
        "files",
        "left",
        "right",
        "score",
        "order",
    ]
    rows, table, archive = client.predict(
        files=[handle_file(str(path)) for path in images[:3]],
        order="order given",
        api_name="/batch",
    )
    assert [row["name"] for row in rows] == [path.name for path in images[:3]]
    assert rows[0]["left_model"] == Path(models[0]).name
    assert len(Path(table).read_text("utf-8").splitlines()) == 4
    with zipfile.ZipFile(archive) as file:
        assert len(file.namelist()) == 5 * 3 + 1


@pytest.mark.parametrize("theme_name", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_tab_fits_the_window(
    browser: Browser, tab: str, service: Gate, images: list[Path], width: int, theme_name: str
) -> None:
    service.open()
    with window(browser, viewport={"width": width, "height": 800}) as opened:
        opened.goto(f"{tab}/?__theme={theme_name}")
        opened.wait_for_selector("#batch-run")
        _screenshot(opened, f"empty_{width}_{theme_name}")
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        _upload(opened, images)
        opened.click("#batch-run")
        expect(opened.locator("#batch-note")).to_contain_text(
            f"{PICTURES} of {PICTURES} pictures in"
        )
        opened.locator("#batch-gallery button:has(img)").first.click()
        expect(opened.locator("#batch-open")).to_be_visible()
        _screenshot(opened, f"results_{width}_{theme_name}")
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
