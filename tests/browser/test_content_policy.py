"""The page under its content security policy: nothing it does is against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from playwright.sync_api import Browser

from tests.browser.steps import (
    EXAMPLES,
    downloaded,
    explain,
    open_example,
    open_tab,
    upload,
    wait_ready,
    window,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serving import App

_LISTEN = """
addEventListener('securitypolicyviolation', (event) =>
  console.error(`violates ${event.violatedDirective}: ${event.blockedURI}`));
"""
_SCRIPT = b"""<html xmlns="http://www.w3.org/1999/xhtml"><script>
document.title = 'ran'; fetch('/gradio_api/app_id');
</script></html>"""


def test_nothing_on_the_page_is_against_its_policy(browser: Browser, app: App) -> None:
    said: list[str] = []
    with window(browser, viewport={"width": 1440, "height": 1000}) as page:
        page.add_init_script(_LISTEN)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(app.url)
        wait_ready(page)
        before = open_example(page, 1)
        upload(page, EXAMPLES[2])
        wait_ready(page, before)
        explain(page, 400, 300)
        assert len(downloaded(page, "masks")) == 4
        open_tab(page, "Batch")
        page.set_input_files("#batch-files input[type=file]", [str(EXAMPLES[0])])
        page.click("#batch-run")
        page.wait_for_selector("#batch-results tbody tr")
        open_tab(page, "KAN")
        page.wait_for_selector(".kan[data-state=ready]")
        open_tab(page, "Models")
        page.wait_for_selector("#models-list li")
        page.evaluate("fetch('https://elsewhere.invalid/').catch(() => 0)")  # the listener works
        page.wait_for_function("() => true")
    assert [text for text in said if "violates connect-src" in text]
    ours = [text for text in said if "elsewhere.invalid" not in text]
    assert not [text for text in ours if "violates" in text or "Content Security" in text], ours


def test_an_uploaded_page_runs_no_script(browser: Browser, app: App, tmp_path: Path) -> None:
    """Opened in a tab of its own, however it was named."""
    asked: list[str] = []
    with window(browser) as page:
        page.on("request", lambda request: asked.append(request.url))
        for name in ("page.html", "page.svg", "page.xhtml", "page.pdf", "page.png", "page"):
            sent = httpx.post(
                f"{app.url}/gradio_api/upload", files={"files": (name, _SCRIPT)}, trust_env=False
            )
            address = f"{app.url}/gradio_api/file={sent.json()[0]}"
            headers = httpx.get(address, trust_env=False).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in headers["content-security-policy"]
            # A download starts instead of a page for most of these.
            page.evaluate("(address) => { location.href = address; }", address)
            page.wait_for_timeout(300)
            assert page.title() != "ran", name
    assert not [url for url in asked if url.endswith("app_id")]
