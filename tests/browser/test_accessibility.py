"""axe-core on the whole page in every state, in light and dark.

Nothing serious may be found in our own elements. What Gradio draws by itself breaks a few rules;
those findings are listed by selector in ``GRADIO``, so that a new one is noticed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import axe_playwright_python
import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from tests.browser.steps import (
    EVENTS,
    EXAMPLES,
    open_settings,
    open_tab,
    set_layers,
    set_view,
    settle,
    visit,
)

if TYPE_CHECKING:
    from tests.serving import App

# Half-faded words have half their contrast: what fades in is let come to its end. What runs for
# ever, or counts a notice's seconds down, does not change colours.
SETTLED = """() => Promise.allSettled(
  document.getAnimations()
    .filter((one) => one.effect.getComputedTiming().endTime <= 2000)
    .map((one) => one.finished))"""
# Looking takes seconds on a busy machine: what has gone or begun to fade meanwhile does not count.
VIOLATIONS = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ['violations'] });
  const fading = document.getAnimations()
    .filter((one) => one.effect.getComputedTiming().endTime <= 2000)
    .map((one) => one.effect.target);
  const stays = (node) => {
    const element = document.querySelector(node.target[0]);
    return element && !fading.some((one) => one.contains(element));
  };
  return violations.map((one) => ({ ...one, nodes: one.nodes.filter(stays) }));
}"""
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
# Gradio's own: rule and a pattern of the element's selector.
GRADIO: tuple[tuple[str, str], ...] = (
    ("aria-prohibited-attr", r"^\.empty"),
    ("nested-interactive", r"^\.toast-header"),
    ("nested-interactive", r'^button\[aria-label="common\.upload"\]'),
)


def findings(page: Page) -> list[tuple[str, str, str]]:
    """Serious and critical ones: rule, selector, and the beginning of the element."""
    page.evaluate(AXE)
    page.evaluate(SETTLED)
    return [
        (one["id"], str(node["target"][0]), node["html"][:160])
        for one in page.evaluate(VIOLATIONS)
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]


def check(page: Page, state: str) -> None:
    ours = [
        finding
        for finding in findings(page)
        if not any(
            finding[0] == rule and re.search(selector, finding[1]) for rule, selector in GRADIO
        )
    ]
    assert not ours, f"{state}: {ours}"


def clip(path: Path) -> Path:
    """A video of two frames."""
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 2, (256, 128)
    )
    for value in (60, 160):
        writer.write(np.full((128, 256, 3), value, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_in_any_state_of_the_page(
    browser: Browser, app: App, theme: str, tmp_path: Path
) -> None:
    with visit(
        browser, f"{app.url}/?__theme={theme}", viewport={"width": 1440, "height": 1000}
    ) as page:
        check(page, "first result")
        open_settings(page)
        check(page, "models and score")
        page.keyboard.press("Escape")
        set_layers(page, "photo", "classes", "truth")
        for view in ("swipe", "difference", "one", "pair"):
            set_view(page, view)
            check(page, view)
        page.locator(".m2k-surface").first.press("Enter")
        page.wait_for_selector(".m2k-why[data-x]")
        page.click(".m2k-why summary >> nth=0")
        check(page, "explanation")
        for menu in ("adjust", "download"):
            page.click(f".m2k-menu[data-menu={menu}] summary")
            check(page, f"menu {menu}")
            page.keyboard.press("Escape")
        page.route(EVENTS, lambda route: None)
        page.locator(".m2k-tile").nth(1).click()
        check(page, "waiting")
        page.click("[data-cancel]")
        page.unroute(EVENTS)
        page.route(EVENTS, lambda route: route.fulfill(status=503, json={"detail": "busy"}))
        page.locator(".m2k-tile").nth(1).click()
        page.wait_for_selector(".m2k[data-state=failed]")
        page.wait_for_selector(".toast-body")
        check(page, "failure")
        page.unroute(EVENTS)
        page.click("[data-back]")
        open_tab(page, "Batch")
        check(page, "batch")
        page.set_input_files(
            "#batch-files input[type=file]", [str(clip(tmp_path / "clip.avi")), str(EXAMPLES[0])]
        )
        page.click("#batch-run")
        page.wait_for_selector(".bat-film[data-shown=film]")
        page.wait_for_selector("#batch-zip")
        page.locator("#batch-gallery button").first.click()
        page.wait_for_selector("#batch-open")
        page.click("#batch-numbers thead button >> nth=1")
        check(page, "batch with results")
        open_tab(page, "KAN")
        page.wait_for_selector(".kan[data-state=ready][data-input]")
        check(page, "kan")
        page.locator(".kan-query").first.click()
        page.wait_for_selector(".kan-plot .chosen")
        check(page, "kan, a query")
        page.fill("#kan-input", "5000")
        page.keyboard.press("Enter")
        page.wait_for_selector(".kan-trouble .kan-retry")
        check(page, "kan, a refusal")
        open_tab(page, "Models")
        page.locator("#models-list [data-source]").first.click()
        settle(page)
        check(page, "models")
