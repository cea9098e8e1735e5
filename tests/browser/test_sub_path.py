"""The app under a path of a reverse proxy, which ``GRADIO_ROOT_PATH`` names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from gradio_client import Client, handle_file
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
from tests.serving import serving, tiny_models
from tests.web_proxies import SubPath

PATH = "/people/mask2kan"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SubPath]:
    folder = tmp_path_factory.mktemp("sub_path")
    with (
        SubPath(PATH) as proxy,
        serving(folder, tiny_models(folder), GRADIO_ROOT_PATH=f"{PATH}/") as app,
    ):
        proxy.target_port = int(urlsplit(app.url).port or 0)
        yield proxy


def test_the_page_and_its_files_stay_under_the_path(browser: Browser, proxied: SubPath) -> None:
    """The first result, an example, an upload, an explanation, downloads and the other tabs."""
    failed: list[str] = []
    with window(browser, viewport={"width": 1440, "height": 1000}) as page:
        page.on("response", lambda got: failed.append(got.url) if got.status >= 400 else None)
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(f"{proxied.url}/")
        wait_ready(page)
        before = open_example(page, 1)
        upload(page, EXAMPLES[2])
        wait_ready(page, before)
        explain(page, 400, 300)
        assert len(downloaded(page, "masks")) == 4
        open_tab(page, "KAN")
        page.wait_for_selector(".kan[data-state=ready]")
        open_tab(page, "Models")
        page.wait_for_selector("#models-list li")
        assert urlsplit(page.url).path == f"{PATH}/"
    # The first result may not have been there yet, and was asked for.
    assert [address for address in failed if not address.endswith("/first.json")] == []
    assert proxied.strayed == []


def test_programs_and_link_previews_get_addresses_under_the_path(proxied: SubPath) -> None:
    client = Client(f"{proxied.url}/", verbose=False)
    summary, files = client.predict(handle_file(EXAMPLES[0]), api_name="/segment")
    assert summary["model"]["score"] == "msp"
    assert all(Path(file).stat().st_size for file in files)
    page = httpx.get(f"{proxied.url}/").text
    [picture] = [
        part.split('content="')[1].split('"')[0]
        for part in page.split("<meta")
        if 'property="og:image"' in part
    ]
    assert picture.startswith(f"{proxied.url}/gradio_api/file=")
    assert httpx.get(picture).headers["content-type"] == "image/webp"
    assert proxied.strayed == []
