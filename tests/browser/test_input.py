"""Every way a picture gets in, and the ways back to it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright

from tests.browser.steps import (
    EXAMPLES,
    TOAST,
    close_error,
    error_text,
    move,
    open_example,
    read,
    set_view,
    settle,
    upload,
    visit,
    wait_ready,
)

if TYPE_CHECKING:
    from tests.serving import App

CLIPBOARD = ["clipboard-read", "clipboard-write"]


def _two_colours(width: int = 320, height: int = 200) -> bytes:
    """A PNG, red on the left and blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def photo_of(page: Page) -> tuple[np.ndarray, np.ndarray]:
    """Colours the viewer shows in the middle of the left and of the right half, layers off."""
    for layer in ("classes", "outline"):
        page.evaluate(
            """(layer) => { const s = document.querySelector('#layer-' + layer); s.value = 0;
              s.dispatchEvent(new Event('input')); }""",
            layer,
        )
    settle(page)
    colours = page.evaluate(
        """() => {
          const canvas = document.querySelector('.m2k-surface canvas');
          const context = canvas.getContext('2d');
          return [0.25, 0.75].map((x) => [...context.getImageData(
            Math.round(x * canvas.width), canvas.height >> 1, 1, 1).data]);
        }"""
    )
    return np.array(colours[0][:3]), np.array(colours[1][:3])


def assert_red_then_blue(page: Page) -> None:
    left, right = photo_of(page)
    assert left[0] > 180 > 90 > left[2]
    assert right[2] > 180 > 90 > right[0]


def test_upload_then_remove_then_another(page: Page) -> None:
    upload(page, EXAMPLES[0])
    first = wait_ready(page)
    page.click("#picture button[aria-label='Remove Image']")
    page.wait_for_selector(".m2k[data-state=empty]", state="attached")
    upload(page, EXAMPLES[1])
    assert wait_ready(page, first) != first


def _transfer(page: Page, content: bytes) -> Any:
    return page.evaluate_handle(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], 'dropped.png', { type: 'image/png' }));
          return transfer;
        }""",
        base64.b64encode(content).decode(),
    )


def test_drag_and_drop_on_the_picture_field(page: Page) -> None:
    transfer = _transfer(page, _two_colours())
    target = page.locator("#picture button:has-text('Drop')")
    for kind in ("dragenter", "dragover", "drop"):
        target.dispatch_event(kind, {"dataTransfer": transfer})
    wait_ready(page)
    assert_red_then_blue(page)


def test_drag_and_drop_on_the_viewer_replaces_the_picture(page: Page) -> None:
    before = open_example(page)
    transfer = _transfer(page, _two_colours())
    for kind in ("dragover", "drop"):
        page.locator(".m2k-surface").first.dispatch_event(kind, {"dataTransfer": transfer})
    wait_ready(page, before)
    assert_red_then_blue(page)
    page.wait_for_selector("#picture img")


def test_paste_anywhere(browser: Browser, app: App) -> None:
    """A real clipboard, and the keys people press."""
    with visit(browser, app.url, permissions=CLIPBOARD) as page:
        _copy(page, _two_colours())
        page.click("#title")
        page.keyboard.press("Control+V")
        wait_ready(page)
        assert_red_then_blue(page)


def test_paste_with_the_fields_own_button(browser: Browser, app: App) -> None:
    with visit(browser, app.url, permissions=CLIPBOARD) as page:
        _copy(page, _two_colours())
        page.click('#picture button[aria-label="Paste from clipboard"]')
        wait_ready(page)
        assert_red_then_blue(page)


def _copy(page: Page, content: bytes) -> None:
    page.evaluate(
        """async (data) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const blob = new Blob([bytes], { type: 'image/png' });
          await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]);
        }""",
        base64.b64encode(content).decode(),
    )


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
    with visit(browser, app.url, permissions=["camera"]) as page:
        page.click('#picture button[aria-label="Capture from camera"]')
        page.get_by_text("Click to Access Webcam").click()
        page.wait_for_function("document.querySelector('#picture video')?.currentTime > 0")
        page.click('#picture button[aria-label="capture photo"]')
        wait_ready(page)
        assert page.get_attribute(".m2k", "data-size") == "480x640"
        assert_red_then_blue(page)
    browser.close()


def _write_film(path: Path, width: int, height: int) -> None:
    """Ten frames of YUV 4:2:0: red on the left half, blue on the right half."""
    frame = b"FRAME\n"
    for plane, (red, blue) in enumerate(((82, 41), (90, 240), (240, 110))):
        rows, half = (height, width // 2) if plane == 0 else (height // 2, width // 4)
        frame += (bytes([red]) * half + bytes([blue]) * half) * rows
    header = f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode()
    path.write_bytes(header + frame * 10)


def test_examples_of_roads_and_rooms_bring_their_ground_truth(page: Page) -> None:
    open_example(page)
    assert page.locator(".m2k-truth").count() == 2
    before = page.get_attribute(".m2k", "data-run")
    page.click("#scene-indoor")
    page.click("#examples-indoor img >> nth=0")
    wait_ready(page, before)
    assert page.locator(".m2k-truth").count() == 2


def test_a_ground_truth_of_ones_own(page: Page, tmp_path: Path) -> None:
    image, mask = tmp_path / "picture.png", tmp_path / "mask.png"
    image.write_bytes(_two_colours())
    white = np.zeros((200, 320), np.uint8)
    white[50:80, 40:90] = 255
    Image.fromarray(white).save(mask)
    upload(page, image)
    first = wait_ready(page)
    assert page.locator(".m2k-truth").count() == 0
    page.click("#truth-box button")
    page.set_input_files("#truth input[type=file]", str(mask))
    second = wait_ready(page, first)
    move(page, "left", -100)
    assert read(page, "left", "recall") == 0  # 255 is void: there is nothing to find
    page.get_by_label("anomaly", exact=True).check()
    wait_ready(page, second)
    move(page, "left", -100)
    assert read(page, "left", "recall") == 1
    assert read(page, "left", "precision") == pytest.approx(30 * 50 / (200 * 320))


def test_a_ground_truth_of_another_size_is_refused(page: Page, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(mask)
    upload(page, EXAMPLES[0])
    wait_ready(page)
    page.click("#truth-box button")
    page.set_input_files("#truth input[type=file]", str(mask))
    text = error_text(page)
    assert "30×20" in text
    assert "1024×512" in text
    close_error(page)


def test_a_link_restores_example_models_thresholds_and_view(
    page: Page, browser: Browser, app: App
) -> None:
    open_example(page, 2)
    move(page, "left", 0.31)
    move(page, "right", 0.62)
    set_view(page, "swipe")
    link = page.evaluate("() => window.mask2kan.link()")
    asked = parse_qs(urlsplit(link).query)
    assert asked["left"] == [str(app.models[0])]
    shown = {side: read(page, side, "threshold") for side in ("left", "right")}
    size = page.get_attribute(".m2k", "data-size")
    with visit(browser, link, viewport={"width": 1440, "height": 1000}) as other:
        wait_ready(other)
        assert other.get_attribute(".m2k", "data-view") == "swipe"
        assert other.get_attribute(".m2k", "data-size") == size
        for side, value in shown.items():
            assert read(other, side, "threshold") == pytest.approx(value, abs=2e-5)
        again = other.evaluate("() => window.mask2kan.link()")
        assert again.partition("&tl")[0] == link.partition("&tl")[0]


def test_a_link_with_nonsense_is_a_plain_page(browser: Browser, app: App) -> None:
    link = f"{app.url}/?example=../../etc/passwd&score=shine&view=none&tl=x"
    with visit(browser, link) as page:
        page.evaluate(
            """(toast) => {
              window.toasts = 0;
              const look = () => { window.toasts += document.querySelectorAll(toast).length; };
              new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
              look();
            }""",
            TOAST,
        )
        assert page.get_attribute(".m2k", "data-state") == "empty"
        open_example(page)  # waits for the models behind what the link asked for
        assert page.evaluate("window.toasts") == 0


def test_a_forged_upload_path_is_refused(page: Page) -> None:
    """What the browser says of a file is not believed."""
    page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File(['x'], '../../etc/passwd', { type: 'image/png' }));
          document.querySelector('#viewer .m2k')
            .dispatchEvent(new DragEvent('drop', { bubbles: true, dataTransfer: transfer }));
        }"""
    )
    assert "Can't read this image" in error_text(page)
