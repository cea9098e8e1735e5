"""The page as a person uses it, in a real Chromium."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright

if TYPE_CHECKING:
    from tests.browser.conftest import App

ROOT = Path(__file__).resolve().parents[2]
READY = ".m2k[data-state=ready]"
WAIT = 60_000
EXAMPLES = sorted((ROOT / "examples").glob("*.webp"))


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#picture input[type=file]", str(path))


def wait_ready(page: Page) -> str:
    page.wait_for_selector(READY, timeout=WAIT)
    return str(page.get_attribute(".m2k", "data-run"))


def share(page: Page, side: str) -> float:
    """Area above the threshold, as the page shows it."""
    return float(
        page.get_attribute(f'figure[data-side={side}][data-kind="regions"]', "data-share") or "nan"
    )


def error_text(page: Page) -> str:
    page.wait_for_selector("[data-testid=toast-body]", timeout=WAIT)
    return page.inner_text("[data-testid=toast-body]")


def close_error(page: Page) -> None:
    page.click("[data-testid=toast-close]")
    page.wait_for_selector("[data-testid=toast-body]", state="detached")


def move(page: Page, slider: str, value: float) -> None:
    page.fill(f"#{slider} input[type=range]", str(value))
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")


def test_one_click_on_an_example_shows_both_models(page: Page) -> None:
    page.click("#examples img >> nth=0")
    wait_ready(page)
    assert page.locator(".m2k-name").all_inner_texts() == [
        "tiny_kan.safetensors",
        "tiny_mlp.safetensors",
    ]
    assert page.locator(".m2k-figure > canvas").count() == 6
    facts = page.locator(".m2k-facts").all_inner_texts()
    assert "KAN head" in facts[0]
    assert "MLP head" in facts[1]
    assert all("parameters" in text and text.endswith("s") for text in facts)
    assert all(page.locator(".m2k-legend").nth(i).locator("li").count() >= 1 for i in (0, 1))


def test_an_uncalibrated_model_says_so_and_a_calibrated_one_names_its_data(page: Page) -> None:
    page.click("#examples img >> nth=0")
    wait_ready(page)
    ranges = page.locator(".m2k-range").all_inner_texts()
    assert ranges[0].startswith("Calibrated range")
    assert "one example" in ranges[0]
    assert ranges[1].startswith("Uncalibrated")
    ticks = page.locator(".m2k-ticks").all_inner_texts()
    assert ticks[0].split() != ["0.000", "0.500", "1.000"]
    assert ticks[1].split() == ["0.000", "0.500", "1.000"]


def test_upload_then_another_upload(page: Page) -> None:
    upload(page, EXAMPLES[0])
    first = wait_ready(page)
    page.click("#picture button[aria-label='Remove Image']")
    page.wait_for_selector(".m2k[data-state=empty]")
    upload(page, EXAMPLES[1])
    assert wait_ready(page) != first


def test_moving_a_threshold_runs_no_model_and_asks_the_server_nothing(page: Page, app: App) -> None:
    page.click("#examples img >> nth=0")
    wait_ready(page)
    page.wait_for_load_state("networkidle")
    runs, requests = app.model_runs(), []
    page.on("request", lambda request: requests.append(request.url))
    left, right = share(page, "left"), share(page, "right")

    move(page, "threshold-left", 0.0)
    assert share(page, "left") > left
    assert share(page, "right") == right

    move(page, "threshold-both", 1.0)
    high = share(page, "left"), share(page, "right")
    move(page, "threshold-both", 0.1)
    low = share(page, "left"), share(page, "right")
    assert low[0] > high[0]
    assert low[1] >= high[1]
    for side in ("left", "right"):
        assert page.input_value(f"#threshold-{side} input[type=range]") == "0.1"

    before = int(page.get_attribute(".m2k", "data-redraws") or 0)
    page.focus("#threshold-right input[type=range]")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(50)
    assert int(page.get_attribute(".m2k", "data-redraws") or 0) > before
    assert requests == []
    assert app.model_runs() == runs


def test_the_region_drawn_is_the_one_the_model_computed(page: Page, app: App) -> None:
    """The page's share at the default threshold is the predictor's, to the 16-bit step."""
    from mask2kan.checkpoints import load_model
    from mask2kan.predictor import Predictor

    page.click("#examples img >> nth=0")
    wait_ready(page)
    name = str(page.get_attribute("#examples img >> nth=0", "src")).rsplit("/", 1)[-1]
    model = load_model(str(app.models[0]), device="cpu")
    prediction = Predictor(model, device="cpu")(ROOT / "examples" / name)
    threshold, _ = prediction.default_threshold("msp")
    expected = float((prediction.anomaly("msp") >= threshold).mean())
    assert 0.01 < expected < 0.99
    assert share(page, "left") == pytest.approx(expected, abs=2e-4)


def test_another_score_is_shown_without_running_the_models_again(page: Page, app: App) -> None:
    page.click("#examples img >> nth=0")
    first = wait_ready(page)
    runs = app.model_runs()
    page.click("#score input")
    page.get_by_role("option", name="Entropy").click()
    page.wait_for_function(f"document.querySelector('.m2k').dataset.run !== '{first}'")
    wait_ready(page)
    assert "Entropy" in page.locator(".m2k-score").first.inner_text()
    assert app.model_runs() == runs


def test_bad_pictures_get_one_clear_message_and_the_app_keeps_serving(
    page: Page, tmp_path: Path
) -> None:
    text = tmp_path / "text.png"
    text.write_text("this is not a picture", encoding="utf-8")
    upload(page, text)
    assert "Can't read this image" in error_text(page)
    close_error(page)

    page.click("#picture button[aria-label='Remove Image']")
    huge = tmp_path / "huge.png"
    Image.new("1", (10_000, 6_000)).save(huge)
    upload(page, huge)
    assert "40" in error_text(page)
    close_error(page)

    page.click("#examples img >> nth=0")
    wait_ready(page)


def test_a_24_megapixel_picture_is_computed_smaller_and_says_so(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.fromarray(np.full((4000, 6000, 3), 127, np.uint8)).save(path)
    upload(page, path)
    page.wait_for_selector(READY, timeout=4 * WAIT)
    notes = page.locator(".m2k-notes").all_inner_texts()
    assert all("2048" in note for note in notes)
    assert page.evaluate("document.querySelector('.m2k-figure canvas').width") == 2048


def test_a_missing_checkpoint_is_named_and_the_app_keeps_serving(page: Page) -> None:
    page.fill("#left input", "/nowhere/model.safetensors")
    page.keyboard.press("Enter")
    page.click("#examples img >> nth=0")
    assert "/nowhere/model.safetensors" in error_text(page)
    page.wait_for_selector(".m2k[data-state=failed]")
    close_error(page)
    page.click("#left input")
    page.get_by_role("option", name="tiny_kan.safetensors").click()
    page.click("#compare")
    wait_ready(page)


def test_the_indoor_preset_names_the_ade20k_model_and_the_network(page: Page) -> None:
    assert "network" in page.inner_text("#preset")
    assert "roads" in page.inner_text("#preset")
    page.get_by_label("Indoor (needs the network)").check()
    page.wait_for_function(
        "document.querySelector('#left input').value"
        " === 'facebook/mask2former-swin-tiny-ade-semantic'"
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 768, 390])
def test_the_page_fits_its_window(
    browser: Browser, app: App, tmp_path: Path, width: int, theme: str
) -> None:
    """No sideways scrolling; screenshots are kept in MASK2KAN_SCREENSHOTS when it is set."""
    folder = Path(os.environ.get("MASK2KAN_SCREENSHOTS", tmp_path))
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(f"{app.url}/?__theme={theme}")
    page.wait_for_selector("#examples img")
    page.click("#examples img >> nth=0")
    wait_ready(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (theme == "dark")
    tops = [box["y"] for box in map(_box, page.locator('[data-kind="classes"]').all())]
    assert (tops[0] == tops[1]) == (width > 640)
    page.screenshot(path=folder / f"page_{width}_{theme}.png", full_page=True)
    context.close()


def _box(locator: object) -> dict[str, float]:
    return locator.bounding_box()  # type: ignore[attr-defined, no-any-return]


def test_a_webcam_snapshot_is_not_mirrored(
    playwright: Playwright, chromium: str, app: App, tmp_path: Path
) -> None:
    """A fake camera shows red on the left and blue on the right; so must the picture."""
    film = tmp_path / "camera.y4m"
    _write_film(film, 640, 480)
    browser = playwright.chromium.launch(
        executable_path=chromium,
        headless=True,
        args=[
            "--no-sandbox",
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={film}",
        ],
    )
    context = browser.new_context(permissions=["camera"])
    page = context.new_page()
    page.goto(app.url)
    page.click('#picture button[aria-label="Capture from camera"]')
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video')?.videoWidth > 0", timeout=WAIT)
    page.wait_for_timeout(500)
    page.click('#picture button[aria-label="capture photo"]')
    wait_ready(page)
    left, right = page.evaluate(
        """async () => {
          const image = document.querySelector('#picture img');
          await image.decode();
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext('2d');
          context.drawImage(image, 0, 0);
          const y = canvas.height >> 1;
          const at = (x) => [...context.getImageData(Math.round(x * canvas.width), y, 1, 1).data];
          return [at(0.25), at(0.75)];
        }"""
    )
    browser.close()
    assert left[0] > 180
    assert left[2] < 80
    assert right[2] > 180
    assert right[0] < 80


def _write_film(path: Path, width: int, height: int) -> None:
    """Ten frames of YUV 4:2:0: red on the left half, blue on the right half."""
    frame = b"FRAME\n"
    for plane, (red, blue) in enumerate(((82, 41), (90, 240), (240, 110))):
        rows, half = (height, width // 2) if plane == 0 else (height // 2, width // 4)
        frame += (bytes([red]) * half + bytes([blue]) * half) * rows
    header = f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode()
    path.write_bytes(header + frame * 10)
