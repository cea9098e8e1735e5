"""Every way a picture gets in, and the ways back to it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright

from tests.browser.steps import (
    EXAMPLES,
    explain,
    failure,
    move,
    open_example,
    pick_model,
    read,
    set_layers,
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
    set_layers(page, "photo")
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


def test_one_picture_after_another(page: Page) -> None:
    first = page.get_attribute(".m2k", "data-run")
    upload(page, EXAMPLES[0])
    second = wait_ready(page, first)
    assert page.get_attribute(".m2k", "data-example") == ""  # though it is a copy of one
    upload(page, EXAMPLES[1])
    wait_ready(page, second)


def test_the_same_file_again_is_a_choice_too(page: Page) -> None:
    before = page.get_attribute(".m2k", "data-run")
    upload(page, EXAMPLES[0])
    before = wait_ready(page, before)
    upload(page, EXAMPLES[0])
    wait_ready(page, before)


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


def test_drag_and_drop_replaces_the_picture(page: Page) -> None:
    before = open_example(page)
    transfer = _transfer(page, _two_colours())
    for kind in ("dragover", "drop"):
        page.locator(".m2k-surface").first.dispatch_event(kind, {"dataTransfer": transfer})
    wait_ready(page, before)
    assert_red_then_blue(page)


def test_what_is_dropped_and_no_picture_is_said(page: Page) -> None:
    page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File(['x'], 'notes.txt', { type: 'text/plain' }));
          document.querySelector('.m2k')
            .dispatchEvent(new DragEvent('drop', { bubbles: true, dataTransfer: transfer }));
        }"""
    )
    assert "no picture" in page.inner_text(".m2k-notice")
    assert page.get_attribute(".m2k", "data-state") == "ready"


def test_paste_anywhere(browser: Browser, app: App) -> None:
    """A real clipboard, and the keys people press."""
    with visit(browser, app.url, permissions=CLIPBOARD) as page:
        before = page.get_attribute(".m2k", "data-run")
        _copy(page, _two_colours())
        page.click("#small-print")
        page.keyboard.press("Control+V")
        wait_ready(page, before)
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
        before = page.get_attribute(".m2k", "data-run")
        page.click("[data-input=camera]")
        page.wait_for_function("document.querySelector('.m2k-camera video')?.currentTime > 0")
        page.click("[data-camera=snap]")
        wait_ready(page, before)
        assert page.locator(".m2k-camera").count() == 0
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


def test_no_camera_is_said(browser: Browser, app: App) -> None:
    with visit(browser, app.url, permissions=[]) as page:
        page.click("[data-input=camera]")
        assert "camera can't be used" in page.inner_text(".m2k-notice")
        assert page.locator(".m2k-camera").count() == 0


def test_examples_of_roads_and_rooms_bring_their_ground_truth(page: Page) -> None:
    for nth in (1, len(EXAMPLES) - 1):
        open_example(page, nth)
        assert read(page, "left", "objects") >= 1
        assert page.is_enabled("[data-layer=truth]")


def test_a_ground_truth_of_ones_own(page: Page, tmp_path: Path) -> None:
    image, mask = tmp_path / "picture.png", tmp_path / "mask.png"
    image.write_bytes(_two_colours())
    white = np.zeros((200, 320), np.uint8)
    white[50:80, 40:90] = 255
    Image.fromarray(white).save(mask)
    before = page.get_attribute(".m2k", "data-run")
    upload(page, image)
    first = wait_ready(page, before)
    assert page.is_disabled("[data-layer=truth]")
    page.set_input_files("#truth-file", str(mask))
    second = wait_ready(page, first)
    move(page, "left", -100)
    assert read(page, "left", "objects") == 0  # 255 is void: there is nothing to find
    page.select_option("#truth-white", "anomaly")
    third = wait_ready(page, second)
    assert read(page, "left", "recall") == 1
    assert read(page, "left", "precision") == pytest.approx(30 * 50 / (200 * 320))
    upload(page, image)  # a picture's truth goes with it
    wait_ready(page, third)
    assert page.is_disabled("[data-layer=truth]")
    assert "found" not in page.inner_text(".m2k-sentence")


def test_a_ground_truth_of_another_size_is_refused(page: Page, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(mask)
    before = page.get_attribute(".m2k", "data-run")
    upload(page, EXAMPLES[0])
    before = wait_ready(page, before)
    page.set_input_files("#truth-file", str(mask))
    text = failure(page)
    assert "30×20" in text
    assert "1024×512" in text
    page.click("[data-back]")
    assert page.get_attribute(".m2k", "data-state") == "ready"
    page.click("[data-tool=copy_link]")  # and the refused truth is not asked for again
    pick_model(page, "right", "tiny_kan.safetensors")
    wait_ready(page, before)


def test_the_address_keeps_everything(page: Page, browser: Browser, app: App) -> None:
    """Reload, Back and the link on another machine bring back the full state."""
    open_example(page, 2)
    move(page, "left", 0.31)
    move(page, "right", 0.62)
    for name, step in (("smallest", 6), ("smoothing", 4)):
        page.evaluate(
            """([name, step]) => { const s = document.querySelector('#' + name); s.value = step;
              s.dispatchEvent(new Event('change')); }""",
            [name, step],
        )
    page.wait_for_function("!document.querySelector('.m2k').dataset.smoothing")
    set_layers(page, "classes", "truth")
    set_view(page, "swipe")
    page.evaluate(
        """() => { const s = document.querySelector('#swipe'); s.value = 0.25;
          s.dispatchEvent(new Event('input')); }"""
    )
    page.click("[data-tool=zoom_in]")
    explain(page, 400, 230)
    page.wait_for_function("location.search.includes('pixel=')")

    def state(of: Page) -> dict[str, Any]:
        told: dict[str, Any] = of.evaluate(
            """() => {
              const { dataset } = document.querySelector('.m2k');
              return { example: dataset.example, view: dataset.view, zoom: dataset.zoom,
                at: window.mask2kan.locate(400, 230, 0),
                swipe: document.querySelector('#swipe').value,
                settings: window.mask2kan.settings(),
                layers: [...document.querySelectorAll('[data-layer][aria-pressed=true]')]
                  .map((button) => button.dataset.layer),
                pixel: { ...document.querySelector('.m2k-why').dataset, run: '' } };
            }"""
        )
        told["pixels"] = [read(of, side, "pixels") for side in ("left", "right")]
        return told

    before = state(page)
    assert before["layers"] == ["classes", "truth"]
    link = page.url
    assert link == page.evaluate("() => window.mask2kan.link()")

    def back(of: Page) -> None:
        wait_ready(of)
        of.wait_for_selector(".m2k-why[data-x='400']")
        of.wait_for_function("!document.querySelector('.m2k').dataset.smoothing")
        settle(of)
        after = state(of)
        assert after.pop("at") == pytest.approx(before["at"], abs=1)
        assert float(after.pop("zoom")) == pytest.approx(float(before["zoom"]), abs=1e-3)
        assert after == {key: before[key] for key in after}

    page.reload()
    back(page)
    page.goto("about:blank")
    page.go_back()
    back(page)
    with visit(browser, link, viewport={"width": 1440, "height": 1000}) as other:
        back(other)


def test_what_gets_no_answer_is_said_and_taken_back(page: Page) -> None:
    """What the address, downloads and reasons say stays what is on the stage."""
    share = page.get_attribute("#smoothing", "aria-valuetext")
    explain(page, 100, 100)
    page.route(re.compile("component_server"), lambda route: route.abort())
    page.evaluate(
        """() => { const s = document.querySelector('#smoothing'); s.value = 1;
          s.dispatchEvent(new Event('change')); }"""
    )
    page.wait_for_selector(".m2k-notice")
    page.wait_for_function("!document.querySelector('.m2k').dataset.smoothing")
    assert page.get_attribute("#smoothing", "aria-valuetext") == share
    assert f"{100 * page.evaluate('window.mask2kan.settings().smoothing'):.2g} %" == share
    page.click(".m2k-notice button")
    page.mouse.click(*page.evaluate("Object.values(window.mask2kan.locate(200, 100, 0))"))
    page.wait_for_selector(".m2k-notice")
    assert page.locator(".m2k-why-side").count() == 0


def test_what_a_link_names_in_vain_is_said(browser: Browser, app: App) -> None:
    link = f"{app.url}/?example=../../etc/passwd&score=shine&view=none&tl=x&left=no_such_model"
    with visit(browser, link) as page:
        said = page.inner_text(".m2k-notice")
        for name in ("passwd", "shine", "view=none", "tl=x", "no_such_model"):
            assert name in said
        assert page.get_attribute(".m2k", "data-state") == "ready"


def test_a_picture_of_ones_own_is_not_in_the_address_and_that_is_said(
    page: Page, tmp_path: Path
) -> None:
    image = tmp_path / "own.png"
    image.write_bytes(_two_colours())
    before = page.get_attribute(".m2k", "data-run")
    upload(page, image)
    wait_ready(page, before)
    page.click("[data-tool=zoom_in]")
    move(page, "left", 0.4)
    page.wait_for_function("/picture=own.*[&]tl=0[.]4/.test(location.search)")  # it follows later
    page.reload()
    wait_ready(page)
    assert "somebody's own picture" in page.inner_text(".m2k-notice")
    assert page.get_attribute(".m2k", "data-example") == EXAMPLES[0].stem
    assert page.get_attribute(".m2k", "data-zoom") == "1"  # that was of the other picture
    assert read(page, "left", "threshold") == pytest.approx(0.4)


def test_a_forged_upload_path_is_refused(page: Page) -> None:
    """What the browser says of a file is not believed."""
    page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File(['x'], '../../etc/passwd', { type: 'image/png' }));
          document.querySelector('.m2k')
            .dispatchEvent(new DragEvent('drop', { bubbles: true, dataTransfer: transfer }));
        }"""
    )
    assert "Can't read this image" in failure(page)
