"""The viewer: what it shows is what the models computed, and it moves as hands expect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, Request
from scipy import ndimage

from mask2kan.checkpoints import load_model, save_model
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from tests.browser.steps import (
    EXAMPLES,
    card,
    downloaded,
    explain,
    move,
    open_example,
    open_settings,
    pick_model,
    read,
    set_layers,
    set_view,
    settle,
    upload,
    visit,
    wait_ready,
)
from tests.tiny_models import tiny

if TYPE_CHECKING:
    from tests.serving import App

SIDES = ("left", "right")
MARKED = """() => { const c = document.querySelectorAll('.m2k-surface')[0]
  .querySelectorAll('canvas')[1]; const d = c.getContext('2d')
  .getImageData(0, 0, c.width, c.height).data;
  let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"""


@pytest.fixture
def page(viewer: Page) -> Page:
    """One page for all tests here."""
    return viewer


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 2048 × 1024, the largest the viewer shows pixel by pixel."""
    path = tmp_path_factory.mktemp("large") / "large.png"
    with Image.open(EXAMPLES[0]) as opened:
        opened.convert("RGB").resize((2048, 1024)).save(path)
    return path


def predictions(app: App, image: Path) -> list[Prediction]:
    return [Predictor(load_model(str(path), device="cpu"), "cpu")(image) for path in app.models]


def surface(page: Page, pane: int = 0) -> Any:
    page.locator(".m2k-pane").nth(pane).scroll_into_view_if_needed()
    return page.locator(".m2k-surface").nth(pane).bounding_box()


def point_at(page: Page, x: int, y: int, pane: int = 0) -> dict[str, str]:
    """Move the mouse to a pixel of the picture; what the page then says."""
    where = page.evaluate("([x, y, pane]) => window.mask2kan.locate(x, y, pane)", [x, y, pane])
    page.mouse.move(where["x"], where["y"])
    return dict(page.evaluate("() => ({ ...document.querySelector('.m2k-readout').dataset })"))


def test_a_drag_of_sixty_moves_asks_nothing_and_ends_where_the_hand_is(
    page: Page, large: Path
) -> None:
    """While it lasts only what passes is drawn; how fast is measured by ``benchmarks/page.py``."""
    before = page.get_attribute(".m2k", "data-run")
    upload(page, large)
    wait_ready(page, before)
    assert page.get_attribute(".m2k", "data-size") == "1024x2048"
    page.wait_for_function("location.search.includes('score=')")
    requests: list[str] = []

    def keep(request: Request) -> None:
        requests.append(urlsplit(request.url).path)

    page.on("request", keep)
    slider = page.locator("#threshold-both")
    box = slider.bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 12, y)
    page.mouse.down()
    moves: list[float] = []
    for step in range(60):
        page.mouse.move(box["x"] + 12 + (box["width"] - 40) * (step + 1) / 60, y)
        settle(page)
        moves.append(float(page.input_value("#threshold-both")))
    page.mouse.up()
    assert moves == sorted(set(moves))
    for side in SIDES:
        read(page, side, "pixels")  # counted at the last place
        assert card(page, side).get_attribute("data-counted-cut") == card(page, side).get_attribute(
            "data-cut"
        )
    explain(page, 400, 300)  # asks the server, after anything the drag would have asked
    page.remove_listener("request", keep)
    assert requests == ["/gradio_api/component_server/"]


@pytest.mark.parametrize("zoomed", [False, True])
def test_the_value_under_the_cursor_is_the_predictors(
    page: Page, app: App, large: Path, zoomed: bool
) -> None:
    before = page.get_attribute(".m2k", "data-run")
    upload(page, large)
    wait_ready(page, before)
    known = predictions(app, large)
    random = np.random.default_rng(7)
    box = surface(page)
    if zoomed:
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.6 * box["height"])
        page.keyboard.down("Control")
        for _ in range(10):
            page.mouse.wheel(0, -120)
        page.keyboard.up("Control")
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.4 * box["height"], steps=4)
        page.mouse.up()
        settle(page)
        assert float(page.get_attribute(".m2k", "data-zoom") or 0) > 4
    seen = set()
    for _ in range(20):
        spot = random.random(2)
        page.mouse.move(box["x"] + spot[0] * box["width"], box["y"] + spot[1] * box["height"])
        told = page.evaluate("() => ({ ...document.querySelector('.m2k-readout').dataset })")
        x, y = int(told["x"]), int(told["y"])
        seen.add((x, y))
        if not zoomed:  # the place, too, is checked independently
            assert x == pytest.approx(spot[0] * 2048, abs=2)
            assert y == pytest.approx(spot[1] * 1024, abs=2)
        for side, prediction in zip(SIDES, known, strict=True):
            scores = prediction.anomaly("msp")
            step = float(scores.max() - scores.min()) / 65535
            assert float(told[side]) == pytest.approx(float(scores[y, x]), abs=step)
            text = page.inner_text(f".m2k-reading[data-side={side}]")
            assert text.startswith(prediction.class_names[prediction.semantic[y, x]])
    assert len(seen) == 20


def test_zoomed_pixels_are_where_they_belong(page: Page, app: App) -> None:
    """After zooming, the colour drawn at a pixel is that of its class."""
    name = _first_example(page)
    open_example(page)
    set_layers(page, "classes")
    _set_opacity(page, "classes", 100)
    known = predictions(app, name)[0]
    box = surface(page)
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.3 * box["height"])
    page.keyboard.down("Control")
    for _ in range(20):
        page.mouse.wheel(0, -120)
    page.keyboard.up("Control")
    settle(page)
    assert float(page.get_attribute(".m2k", "data-zoom") or 0) > 20
    told = page.evaluate("() => ({ ...document.querySelector('.m2k-readout').dataset })")
    x, y = int(told["x"]), int(told["y"])
    drawn = page.evaluate(
        """([x, y]) => {
          const canvas = document.querySelector('.m2k-surface canvas');
          const at = window.mask2kan.locate(x, y, 0);
          const box = canvas.getBoundingClientRect();
          const ratio = canvas.width / box.width;
          const spot = [(at.x - box.left) * ratio, (at.y - box.top) * ratio];
          return [...canvas.getContext('2d').getImageData(...spot.map(Math.floor), 1, 1).data];
        }""",
        [x, y],
    )
    np.testing.assert_allclose(drawn[:3], known.palette[known.semantic[y, x]], atol=2)


def _first_example(page: Page) -> Path:
    name = str(page.get_attribute(".m2k-tile >> nth=0", "data-example"))
    return EXAMPLES[0].with_name(f"{name}.webp")


def _set_opacity(page: Page, name: str, value: int) -> None:
    page.evaluate(
        """([name, value]) => {
          const slider = document.querySelector('#opacity-' + name);
          slider.value = value;
          slider.dispatchEvent(new Event('input', { bubbles: true }));
        }""",
        [name, value],
    )
    settle(page)


def test_zoom_and_pan_move_all_panes_and_reset(page: Page) -> None:
    open_example(page)
    box = surface(page)
    page.mouse.dblclick(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    settle(page)
    places = page.evaluate("() => [0, 1].map((i) => window.mask2kan.locate(300, 150, i))")
    tops = page.evaluate(
        "() => [...document.querySelectorAll('.m2k-surface')].map((s) => {"
        " const b = s.getBoundingClientRect(); return [b.left, b.top]; })"
    )
    within = [(p["x"] - t[0], p["y"] - t[1]) for p, t in zip(places, tops, strict=True)]
    np.testing.assert_allclose(within, [within[0]] * 2, atol=1)
    page.click("[data-tool=zoom_in]")
    settle(page)
    assert float(page.get_attribute(".m2k", "data-zoom") or 0) == pytest.approx(3)
    page.click("[data-tool=zoom_fit]")
    settle(page)
    assert page.get_attribute(".m2k", "data-zoom") == "1"


def test_a_plain_wheel_scrolls_the_page_and_zooms_where_there_is_nothing_to_scroll(
    page: Page,
) -> None:
    open_example(page)
    page.set_viewport_size({"width": 1440, "height": 600})
    box = surface(page)
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    page.wait_for_function("(before) => scrollY > before", arg=before)
    assert page.get_attribute(".m2k", "data-zoom") == "1"
    page.set_viewport_size({"width": 1440, "height": 1400})
    settle(page)
    box = surface(page)
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, -100)
    page.wait_for_function("Number(document.querySelector('.m2k').dataset.zoom) > 1")
    # One notch is a small step.
    assert float(page.get_attribute(".m2k", "data-zoom") or 9) < 1.3


def test_two_fingers_zoom(browser: Browser, app: App) -> None:
    with visit(
        browser, app.url, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True
    ) as page:
        open_example(page)
        box = surface(page)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        client = page.context.new_cdp_session(page)

        def touch(kind: str, spread: float) -> None:
            points = [{"x": x - spread, "y": y, "id": 1}, {"x": x + spread, "y": y, "id": 2}]
            client.send(
                "Input.dispatchTouchEvent",
                {"type": kind, "touchPoints": [] if kind == "touchEnd" else points},
            )

        touch("touchStart", 10)
        for spread in (20, 30, 40, 50):
            touch("touchMove", spread)
            settle(page)
        touch("touchEnd", 50)
        settle(page)
        assert float(page.get_attribute(".m2k", "data-zoom") or 0) > 2


def test_views_show_one_or_both_models(page: Page) -> None:
    open_example(page)
    assert page.locator(".m2k-pane").count() == 2
    for view in ("swipe", "difference"):
        set_view(page, view)
        assert page.locator(".m2k-pane").count() == 1
    set_view(page, "one")
    assert page.locator(".m2k-pane").get_attribute("data-side") == "left"
    page.click("[data-one=right]")
    assert page.locator(".m2k-pane").get_attribute("data-side") == "right"


def test_a_hundred_percent_is_a_pixel_for_a_pixel(page: Page) -> None:
    """Also of a picture that is shown by every n-th pixel."""
    open_example(page)
    set_view(page, "one")
    page.click("[data-tool=zoom_full]")
    settle(page)
    assert page.inner_text("[data-tool=zoom_full]") == "100 %"
    a, b = page.evaluate("() => [100, 600].map((x) => window.mask2kan.locate(x, 200, 0).x)")
    assert b - a == pytest.approx(500, abs=1)


def _canvas(page: Page, pane: int = 0) -> np.ndarray:
    flat = page.evaluate(
        """(pane) => {
          const canvas = document.querySelectorAll('.m2k-surface')[pane].querySelector('canvas');
          const { width, height } = canvas;
          const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
          return [width, height, btoa(String.fromCharCode(...data.filter((_, i) => i % 4 < 3)
            .filter((_, i) => Math.floor(i / 3) % 97 === 0)))];
        }""",
        pane,
    )
    import base64

    return np.frombuffer(base64.b64decode(flat[2]), np.uint8).reshape(-1, 3)


def test_the_swipe_shows_the_left_model_left_and_the_right_one_right(page: Page) -> None:
    open_example(page)
    set_layers(page, "photo", "classes")
    set_view(page, "swipe")
    all_left = page.evaluate(
        "() => { const s = document.querySelector('#swipe'); s.value = 1;"
        " s.dispatchEvent(new Event('input')); }"
    )
    settle(page)
    all_left = _canvas(page)
    page.evaluate(
        "() => { const s = document.querySelector('#swipe'); s.value = 0;"
        " s.dispatchEvent(new Event('input')); }"
    )
    settle(page)
    all_right = _canvas(page)
    assert (all_left != all_right).any()
    box = surface(page)
    handle = page.locator(".m2k-divider")
    grip = handle.bounding_box()
    assert grip
    page.mouse.move(grip["x"] + 14, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 20, steps=3)
    page.mouse.up()
    settle(page)
    assert float(page.input_value("#swipe")) == pytest.approx(0.4, abs=0.02)
    mixed = _canvas(page)
    width = page.evaluate("document.querySelector('.m2k-surface canvas').width")
    columns = (np.arange(len(mixed)) * 97) % width
    left, right = columns < 0.38 * width, columns > 0.42 * width
    assert np.array_equal(mixed[left], all_left[left])
    assert np.array_equal(mixed[right], all_right[right])


def test_the_difference_of_classes_is_their_share(page: Page, app: App) -> None:
    name = _first_example(page)
    open_example(page)
    set_view(page, "difference")
    page.click(".m2k-menu[data-menu=adjust] summary")
    page.select_option("#difference", "classes")
    page.keyboard.press("Escape")
    settle(page)
    left, right = predictions(app, name)
    share = float((left.semantic != right.semantic).mean())
    assert float(page.get_attribute(".m2k", "data-disagreement") or 0) == pytest.approx(share)
    assert share > 0
    for model, expected in (("tiny_kan", 0), ("tiny_mlp", share)):
        pick_model(page, "right", f"{model}.safetensors")
        page.wait_for_function(
            "(value) => Number(document.querySelector('.m2k').dataset.disagreement) === value",
            arg=expected,
        )


def test_layers_are_switched_and_fade(page: Page) -> None:
    open_example(page)
    set_layers(page)
    grey = _canvas(page)
    assert (grey.max(axis=1) == grey.min(axis=1)).all()
    assert not _marked(page)
    set_layers(page, "photo")
    assert (_canvas(page) != grey).any()
    set_layers(page, "classes")
    faint = _canvas(page)
    _set_opacity(page, "classes", 100)
    assert (_canvas(page) != faint).any()
    set_layers(page, "anomaly")
    assert np.array_equal(_canvas(page), grey)
    assert _marked(page)


def test_the_truth_has_three_colours_of_their_own(page: Page) -> None:
    """Found, missed and false alarm, each where it is; looked at away from the outlines."""
    open_example(page)
    set_layers(page, "truth")
    name = _first_example(page)
    truth = np.asarray(Image.open(name.with_name(f"{name.stem}_anomaly.png")))
    scores = _scores(page)
    threshold = float(np.median(scores))
    move(page, "left", threshold)
    read(page, "left", "pixels")
    settle(page)
    labels, _ = ndimage.label(scores >= threshold, structure=np.ones((3, 3)))
    marked = (np.bincount(labels.ravel()) >= 50)[labels] & (labels > 0)
    for where, colour in (
        (marked & (truth == 1), (0, 190, 120)),
        (~marked & (truth == 1), (70, 160, 255)),
        (marked & (truth == 0), (255, 80, 40)),
    ):
        rows, columns = np.nonzero(ndimage.binary_erosion(where, iterations=6))
        assert len(rows) > 3
        for place in np.linspace(0, len(rows) - 1, 4).astype(int):
            drawn = page.evaluate(
                """([x, y]) => {
                  const canvas = document.querySelectorAll('.m2k-surface canvas')[1];
                  const at = window.mask2kan.locate(x, y, 0);
                  const box = canvas.getBoundingClientRect();
                  return [...canvas.getContext('2d').getImageData(
                    Math.round((at.x - box.left) * canvas.width / box.width),
                    Math.round((at.y - box.top) * canvas.height / box.height), 1, 1).data];
                }""",
                [int(columns[place]), int(rows[place])],
            )
            np.testing.assert_allclose(drawn[:3], colour, atol=6)


def _scores(page: Page) -> np.ndarray:
    """The left model's scores of the first example."""
    name = _first_example(page)
    model = Path(page.evaluate("() => window.mask2kan.settings().models[0]"))
    return Predictor(load_model(str(model), device="cpu"), "cpu")(name).anomaly("msp")


def _marked(page: Page) -> int:
    """Pixels of the first pane on which something is marked."""
    return int(page.evaluate(MARKED))


def test_classes_toggle_and_isolate(page: Page, app: App) -> None:
    name = _first_example(page)
    open_example(page)
    left = predictions(app, name)[0]
    shares = np.bincount(left.semantic.ravel(), minlength=11) / left.semantic.size
    for item in page.locator(".m2k-legend li").all():
        index = left.class_names.index(str(item.get_attribute("data-class")))
        text = item.locator("span[data-side=left]").inner_text()
        expected = 100 * shares[index]
        assert float(re.sub(r"[^\d.]", "", text)) == pytest.approx(expected, abs=0.55)
    set_layers(page, "classes")
    largest = left.class_names[int(shares.argmax())]
    first = page.locator(f".m2k-legend li[data-class='{largest}']")
    before = _canvas(page)
    first.locator(".m2k-class").click()
    settle(page)
    assert first.locator(".m2k-class").get_attribute("aria-pressed") == "false"
    assert (_canvas(page) != before).any()
    page.click("[data-tool=all_classes]")
    settle(page)
    assert np.array_equal(_canvas(page), before)
    first.locator(".m2k-only").click()
    settle(page)
    pressed = page.locator(".m2k-class[aria-pressed=true]")
    assert pressed.count() == 1


def test_heat_begins_at_the_threshold_and_takes_other_colours(page: Page) -> None:
    open_example(page)
    facts = page.locator(".m2k-fact").all_text_contents()
    assert "calibrated on one example" in facts[0]
    assert "uncalibrated" in facts[1]
    move(page, "left", 1e6)
    read(page, "left", "pixels")
    settle(page)
    assert not _marked(page)
    move(page, "left", -1e6)
    read(page, "left", "pixels")
    settle(page)
    everything = _marked(page)
    assert everything > 100_000
    before = _overlay(page)
    page.click(".m2k-menu[data-menu=adjust] summary")
    page.select_option("#colours", "cividis")
    page.wait_for_function(
        "(before) => document.querySelectorAll('.m2k-surface canvas')[1].toDataURL() !== before",
        arg=before,
    )


def _overlay(page: Page) -> str:
    return str(
        page.evaluate("() => document.querySelectorAll('.m2k-surface canvas')[1].toDataURL()")
    )


def test_the_keyboard_alone_reads_zooms_and_explains(page: Page) -> None:
    open_example(page)
    page.focus(".m2k-surface >> nth=0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    told = page.evaluate("() => ({ ...document.querySelector('.m2k-readout').dataset })")
    assert (int(told["x"]), int(told["y"])) == (513, 266)
    page.keyboard.press("+")
    settle(page)
    assert float(page.get_attribute(".m2k", "data-zoom") or 0) == pytest.approx(1.5)
    before = read(page, "left", "threshold")
    page.keyboard.press("]")
    settle(page)
    assert read(page, "left", "threshold") != before
    page.keyboard.press("Enter")
    page.wait_for_selector(".m2k-why[data-x='513'][data-y='266']")
    page.keyboard.press("0")
    settle(page)
    assert page.get_attribute(".m2k", "data-zoom") == "1"


def test_everything_is_reached_by_tab(page: Page) -> None:
    """In the order of the page, without a mouse."""
    open_example(page)
    page.focus(".m2k-surface >> nth=0")
    reached = []
    for _ in range(80):
        reached.append(
            page.evaluate(
                """() => { const a = document.activeElement;
                  return a.id || a.dataset.layer || a.dataset.view || a.dataset.tool
                    || a.dataset.preset || a.dataset.example || a.dataset.input
                    || a.parentElement?.dataset.menu || a.className || a.tagName; }"""
            )
        )
        if reached[-1] == "m2k-class":
            break
        page.keyboard.press("Tab")
    wanted = [
        "m2k-surface",
        "threshold-both",
        "default",
        "anomaly",
        "swipe",
        "zoom_in",
        "adjust",
        "download",
        "copy_link",
        EXAMPLES[0].stem,
        "file",
        "camera",
        "m2k-class",
    ]
    places = [next(i for i, at in enumerate(reached) if at == want) for want in wanted]
    assert places == sorted(places)
    page.focus("#threshold-both")
    before = read(page, "left", "threshold")
    page.keyboard.press("ArrowRight")  # to more alarms
    settle(page)
    assert read(page, "left", "threshold") < before


def test_full_screen_and_back(page: Page) -> None:
    open_example(page)
    page.click("[data-tool=fullscreen]")
    page.wait_for_function("document.fullscreenElement?.matches('.m2k-body')")
    page.keyboard.press("Escape")
    page.evaluate("() => document.fullscreenElement && document.exitFullscreen()")
    page.wait_for_function("!document.fullscreenElement")


def test_explaining_a_pixel_adds_up(page: Page, app: App) -> None:
    name = _first_example(page)
    open_example(page)
    explain(page, 400, 300)
    for side, prediction in zip(SIDES, predictions(app, name), strict=True):
        block = page.locator(f".m2k-why-side[data-side={side}]")
        assert block.locator(".m2k-plain").is_visible()  # a sentence first, numbers on demand
        assert not block.locator(".m2k-query").first.is_visible()
        parts = block.locator(".m2k-query").evaluate_all(
            "(nodes) => nodes.map((n) => Number(n.dataset.contribution))"
        )
        assert len(parts) == 6
        told = block.locator("[data-sum=class]")
        rest = float(told.get_attribute("data-rest") or "nan")
        top = float(prediction.class_scores[:, 300, 400].max())
        assert sum(parts) + rest == pytest.approx(top, abs=1e-4)
        assert float(told.get_attribute("data-total") or 0) == pytest.approx(top, abs=1e-4)
        assert block.locator("canvas").count() == 6


def test_a_tapped_value_stays(browser: Browser, app: App) -> None:
    """After a tap the readout keeps the pixel, and its reasons come up from below."""
    with visit(
        browser, app.url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    ) as page:
        where = page.evaluate("() => window.mask2kan.locate(300, 200, 0)")
        page.touchscreen.tap(where["x"], where["y"])
        page.wait_for_selector(".m2k-why[data-x]")
        settle(page)
        assert page.get_attribute(".m2k-readout", "data-x")
        sheet = page.locator(".m2k-panel").bounding_box()
        pane = page.locator(".m2k-pane").bounding_box()
        assert sheet
        assert pane
        assert sheet["y"] + sheet["height"] == pytest.approx(844, abs=2)
        assert sheet["y"] > pane["y"] + pane["height"]
        page.click(".m2k-why .m2k-close")
        page.wait_for_selector(".m2k-about")
        assert not page.get_attribute(".m2k-readout", "data-x")


def test_a_moved_threshold_moves_what_is_marked(page: Page) -> None:
    open_example(page)
    shares = []
    for place in (0.0, 0.5, 1.0):
        move(page, "both", place)
        read(page, "left", "pixels")
        settle(page)
        shares.append(_marked(page))
    assert shares[0] < shares[1] < shares[2]


def test_labels_above_255_are_read_whole(page: Page, tmp_path: Path) -> None:
    """A model of 300 classes whose labels are the largest: colour and name are theirs."""
    model = tiny("mask2former", num_classes=300, num_queries=8)
    with torch.no_grad():
        model.transformer_decoder.class_embed.bias[298:] += torch.tensor([9.0, 9.3, 0.0])
    path = tmp_path / "many.safetensors"
    save_model(model, path)
    before = open_example(page)
    open_settings(page)
    page.locator("#right input").fill(str(path))
    page.locator("#right input").press("Enter")
    wait_ready(page, before)
    prediction = Predictor(load_model(path, device="cpu"))(EXAMPLES[0])
    assert prediction.semantic.min() > 255
    files = downloaded(page, "masks")  # in the order in which they come
    [saved] = [path for path in files if path.name.endswith("_mlp_semantic.png")]
    with Image.open(saved) as labels:
        assert np.array_equal(np.asarray(labels), prediction.semantic)
    point_at(page, 40, 30)
    reading = page.inner_text(".m2k-reading[data-side=right]")
    assert reading.startswith(prediction.class_names[prediction.semantic[30, 40]])
