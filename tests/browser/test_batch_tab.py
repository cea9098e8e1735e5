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

import cv2
import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from app.services.models import Answer, Models
from app.services.service import ModelService
from app.tabs.batch import batch_tab
from app.web.theme import CSS, theme
from mask2kan.checkpoints import save_model
from tests.browser.steps import TIMEOUT, close_error, window
from tests.tiny_models import calibrated, tiny

PICTURES = 8
CAPTIONS = "#batch-gallery .caption-label"
ORDER = "#batch-order"
HEAD = "#batch-numbers thead th[data-key='{}']"
FRAMES = 6
# The saturation of a tile's two pictures once it is loaded: heat is coloured, gray is not.
SATURATION = """async (image) => {
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext('2d');
  canvas.drawImage(image, 0, 0);
  const { data } = canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
  let gray = 0;
  for (let i = 0; i < data.length; i += 4) {
    const rgb = [...data.subarray(i, i + 3)];
    gray += Math.max(...rgb) - Math.min(...rgb) < 24;
  }
  return 1 - (4 * gray) / data.length;
}"""


class Gate(Models):
    """Models that stop before the picture they are told to, until they are opened."""

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

    def answers(self, sources: Sequence[str | None], image: Any, score: str) -> list[Answer]:
        self.asked += 1
        if self.asked == self.closed_at:
            assert self.opened.wait(TIMEOUT / 1000)
        return super().answers(sources, image, score)


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
        serving = ModelService(device="cpu")
        serving.models = service
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
                built = batch_tab(serving, left, right, score)
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
    found = [pattern.search(text) for text in page.locator(CAPTIONS).all_text_contents()]
    return [(float(match[1]), float(match[2])) for match in found if match]


def _sort_by(page: Page, name: str) -> None:
    page.select_option(ORDER, label=name)


def _names(page: Page) -> list[str]:
    """The pictures' names in the order of the table."""
    return [
        name.split(" · ")[0] for name in page.locator("#batch-numbers tbody th").all_inner_texts()
    ]


def _column(page: Page, key: str) -> list[float]:
    """A column of the table as numbers, without rows of errors."""
    column = page.evaluate(
        """(key) => {
          const heads = [...document.querySelectorAll('#batch-numbers thead th')];
          const place = heads.findIndex((head) => head.dataset.key === key);
          const lines = document.querySelectorAll('#batch-numbers tbody tr:not(:has(.bat-error))');
          return [...lines].map((line) => line.children[place].textContent);
        }""",
        key,
    )
    return [float(re.sub(r"[^\d.\u2212-]", "", text).replace("\u2212", "-")) for text in column]


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
    captions = page.locator(f"{CAPTIONS} b").all_inner_texts()
    assert captions == _names(page) == [path.name for path in images]
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
            round(100 * float(row["left_regions_share"]), 1),
            round(100 * float(row["right_regions_share"]), 1),
        )
        for row in rows
    }
    assert told_shares == set(shares)
    archive = _downloaded(page, "#batch-zip", tmp_path)
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        assert len(file.namelist()) == 5 * PICTURES + 1
        assert file.read("mask2kan_batch.csv") == table.read_bytes()


def test_the_table_sorts_by_its_heads(page: Page, service: Gate, images: list[Path]) -> None:
    """By mouse and by keyboard, either way; the pictures go along; nothing is computed."""
    _upload(page, images)
    page.click("#batch-run")
    expect(page.locator("#batch-note")).to_contain_text(f"{PICTURES} of {PICTURES} pictures in")
    asked = service.asked
    sorted_by = page.locator("#batch-numbers th[aria-sort]")
    expect(sorted_by).to_have_count(0)  # an order of the list, no column's
    for key in ("area:0", "area:1", "regions:0", "largest:1", "highest:0", "disagree"):
        head = page.locator(HEAD.format(key))
        head.locator("button").click()
        expect(head).to_have_attribute("aria-sort", "descending")
        expect(sorted_by).to_have_count(1)
        down = _column(page, key)
        assert len(down) == PICTURES
        assert down == sorted(down, reverse=True)
        assert page.locator(f"{CAPTIONS} b").all_inner_texts() == _names(page)
        page.keyboard.press("Enter")  # the head has the focus
        expect(head).to_have_attribute("aria-sort", "ascending")
        assert _column(page, key) == down[::-1] == sorted(down)
        expect(page.locator(ORDER)).to_have_value("")
    assert len(set(_column(page, "area:0"))) > 3  # or every order would do
    page.locator(f"{HEAD.format('name')} button").focus()
    page.keyboard.press("Space")
    expect(page.locator(HEAD.format("name"))).to_have_attribute("aria-sort", "ascending")
    assert _names(page) == [path.name for path in images]
    assert service.asked == asked


def test_pictures_show_photos_or_heat(page: Page, images: list[Path]) -> None:
    _upload(page, images[:3])
    page.click("#batch-run")
    expect(page.locator("#batch-note")).to_contain_text("3 of 3 pictures in")
    tiles = page.locator("#batch-gallery img")
    photos = [tiles.nth(n).evaluate(SATURATION) for n in range(3)]
    page.click("[data-view=heat]")
    expect(page.locator("[data-view=heat]")).to_have_attribute("aria-pressed", "true")
    heats = [tiles.nth(n).evaluate(SATURATION) for n in range(3)]
    areas = [(left + right) / 200 for left, right in _shares(page)]
    assert max(areas) > 0.03
    for photo, heat, area in zip(photos, heats, areas, strict=True):
        assert heat < photo
        # JPEG lets a little colour out of the regions, and their darkest heat is nearly gray.
        assert heat == pytest.approx(area, abs=0.08)
    page.click("[data-view=photo]")
    assert [tiles.nth(n).evaluate(SATURATION) for n in range(3)] == photos


def test_a_run_uses_what_was_chosen_on_compare(
    page: Page, images: list[Path], models: tuple[str, str]
) -> None:
    _upload(page, images[:2])
    page.click("#batch-run")  # without a viewer the models' own thresholds
    expect(page.locator("#batch-note")).to_contain_text("2 of 2 pictures in")
    own = _shares(page)
    assert all(0 < left < 100 for left, _ in own)
    page.evaluate(
        """(models) => {
          window.mask2kan = { settings: () => ({
            left: -9, right: 9, smallest_region: 0.001, smoothing: null, score: 'msp', models,
          }) };
        }""",
        list(models),
    )
    page.click("#batch-run")
    expect(page.locator(".bat-read")).to_contain_text("-9 on the left, 9 on the right")
    expect(page.locator(".bat-read")).to_contain_text("Regions from 0.1")
    expect(page.locator("#batch-note")).to_contain_text("2 of 2 pictures in")
    assert _shares(page) == [(100, 0), (100, 0)]


@pytest.fixture(scope="module")
def clip(folder: Path, images: list[Path]) -> Path:
    """A film of three seconds of the pictures, with the brightest in its middle."""
    path = folder / "a clip.avi"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 2, (320, 192)
    )
    for number in (3, 4, 0, 1, 2, 4):
        writer.write(cv2.imread(str(images[number])))
    writer.release()
    return path


def test_a_video_has_a_film_that_plays_and_charts_over_time(
    page: Page, images: list[Path], clip: Path, tmp_path: Path
) -> None:
    _upload(page, [images[0], clip])
    page.click("#batch-run")
    total = 1 + FRAMES
    expect(page.locator("#batch-note")).to_contain_text(f"{total} of {total} pictures in")
    film = page.locator(".bat-film")
    expect(film).to_have_attribute("data-shown", "film")
    expect(film.locator("h3")).to_have_text("a clip.avi")
    played = film.locator("video").evaluate(
        """async (video) => {
          video.loop = false;
          const ended = new Promise((done) => { video.onended = done; });
          await video.play();
          await ended;
          return [video.videoWidth, video.videoHeight, video.duration, video.currentTime];
        }"""
    )
    assert played[:2] == [2 * 320 + 4, 192]
    assert played[2] == pytest.approx(FRAMES / 4, abs=0.3)  # two a second, shown at twice that
    assert played[3] == played[2]
    expect(film).to_have_attribute("data-frame", str(FRAMES - 1))  # the charts went along

    charts = film.locator(".bat-plot")
    expect(charts).to_have_count(2)
    areas = dict(
        zip(page.locator("#batch-numbers tbody th").all_inner_texts(), _column(page, "area:0"),
            strict=True)
    )  # fmt: skip
    over_time = [area for name, area in sorted(areas.items()) if name.startswith("a clip")]
    points = re.findall(
        r"[ML]([\d.]+) ([\d.]+)", str(charts.first.locator("path.line").get_attribute("d"))
    )
    heights = [112 - 22 - float(y) for _, y in points]
    assert len(points) == FRAMES
    highest = float(str(charts.first.get_attribute("data-highest")))
    assert heights == pytest.approx([80 * area / 100 / highest for area in over_time], abs=0.6)
    assert len({round(height) for height in heights}) > 2

    # A click opens the frame there.
    charts.first.click(position={"x": float(points[2][0]) + 2, "y": 40})
    expect(film).to_have_attribute("data-frame", "2")
    expect(film).to_have_attribute("data-shown", "frame")
    shown = film.locator("img")
    expect(shown).to_have_attribute("src", re.compile("004_photo.jpg$"))
    assert shown.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }")
    expect(film.locator(".bat-moment")).to_contain_text("1.0 s")
    page.keyboard.press("ArrowRight")
    expect(film).to_have_attribute("data-frame", "3")
    expect(charts.first).to_have_attribute("aria-valuetext", re.compile(r"^1\.5 s: [\d.]+ % left"))
    page.keyboard.press("Home")
    expect(film).to_have_attribute("data-frame", "0")
    page.keyboard.press("End")
    page.click("[data-view=heat]")
    expect(shown).to_have_attribute("src", re.compile("007_heat.jpg$"))
    page.click(".bat-pick")
    expect(page.locator("#batch-open")).to_have_text("Open a clip.avi · 2.5 s in Compare")
    page.click("#batch-open")
    expect(page.locator("#opened textarea, #opened input")).to_have_value(
        re.compile(r"/frame_007\.png$")
    )
    page.click(".bat-play")
    expect(film).to_have_attribute("data-shown", "film")
    expect(film.locator("video")).to_have_attribute("src", re.compile("heat.webm$"))
    with zipfile.ZipFile(_downloaded(page, "#batch-zip", tmp_path)) as file:
        films = {name for name in file.namelist() if name.endswith(".webm")}
    assert films == {"002_a_clip_photo.webm", "002_a_clip_heat.webm"}


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
    expect(page.locator("#batch-numbers")).to_contain_text("it is a text file")
    assert _names(page)[-1] == "broken.png"  # without numbers it comes last, whichever way
    page.click(f"{HEAD.format('area:0')} button")
    page.click(f"{HEAD.format('area:0')} button")
    assert _names(page)[-1] == "broken.png"
    name = page.locator(f"{CAPTIONS} b").nth(1).inner_text()
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
    page.get_by_label("Right", exact=True).fill("/nowhere/model.safetensors")
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
@pytest.mark.parametrize("width", [360, 768, 1440])
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
        table = opened.locator("#batch-numbers")
        if width >= 1440:
            assert table.evaluate("(box) => box.scrollWidth <= box.clientWidth")
        opened.locator("#batch-gallery button:has(img)").first.click()
        expect(opened.locator("#batch-open")).to_be_in_viewport()
        _screenshot(opened, f"results_{width}_{theme_name}")
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
