"""Sixteen people at once, over real HTTP."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Browser

from mask2kan.checkpoints import load_model
from mask2kan.inference.predictor import Predictor
from tests.browser.steps import TIMEOUT, visit, wait_ready

if TYPE_CHECKING:
    from tests.serving import App

PEOPLE = 16
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A picture per person, all different."""
    folder = tmp_path_factory.mktemp("people")
    paths = []
    for person in range(PEOPLE):
        noise = np.random.default_rng(person).integers(0, 256, (96, 160, 3), dtype=np.uint8)
        noise[:, : 10 * person] //= 2
        paths.append(folder / f"person_{person}.png")
        Image.fromarray(noise).save(paths[-1])
    return paths


def server(app: App) -> psutil.Process:
    port = int(app.url.rsplit(":", 1)[-1])
    return next(
        psutil.Process(one.pid)
        for one in psutil.net_connections("tcp")
        if one.pid and one.status == psutil.CONN_LISTEN and one.laddr.port == port
    )


def rush(app: App, images: list[Path]) -> tuple[list[Any], list[int]]:
    """Everybody asks at the same moment; the answers and the places in the queue people saw."""
    places: list[int] = []
    start = threading.Barrier(len(images), timeout=TIMEOUT / 1000)
    patient = {"timeout": TIMEOUT / 1000}

    def visit(person: int) -> Any:
        client = Client(
            app.url,
            download_files=False,
            verbose=False,
            analytics_enabled=False,
            httpx_kwargs=patient,
        )
        start.wait()
        job = client.submit(handle_file(images[person]), api_name="/compare")
        while not job.done():
            rank = job.status().rank
            if rank is not None:
                places.append(rank)
            time.sleep(0.05)
        answer = job.result()
        client.close()
        return answer

    with ThreadPoolExecutor(len(images)) as people:
        return list(people.map(visit, range(len(images)))), places


def test_nobody_sees_anothers_result_and_memory_returns(app: App, images: list[Path]) -> None:
    rush(app, images[:4])  # models are loaded, buffers exist
    process = server(app)
    before = process.memory_info().rss
    answers, places = rush(app, images)
    model = Predictor(load_model(str(app.models[0]), device="cpu"), "cpu")
    for image, (summary, _) in zip(images, answers, strict=True):
        prediction = model(image)
        threshold, _ = prediction.default_threshold("msp")
        share = float((prediction.anomaly("msp") >= threshold).mean())
        assert summary["left"]["anomalous_share"] == pytest.approx(share, abs=1e-3)
    shares = {round(summary["left"]["anomalous_share"], 6) for summary, _ in answers}
    assert len(shares) == PEOPLE
    assert max(places) >= PEOPLE // 2  # people were told how many are before them
    grown = []
    for _ in range(3):
        rush(app, images)
        grown.append(process.memory_info().rss - before)
    assert grown[-1] - grown[0] < 32 * MEGABYTE
    assert grown[-1] < 200 * MEGABYTE


def test_the_page_shows_the_place_in_the_queue(
    browser: Browser, app: App, images: list[Path], tmp_path: Path
) -> None:
    """While others keep being served, a visitor of the page sees where they stand."""
    large = [tmp_path / f"large_{shade}.png" for shade in range(3)]
    for shade, path in enumerate(large):
        Image.fromarray(np.full((1024, 2048, 3), 50 * shade, np.uint8)).save(path)
    served, seen = threading.Event(), threading.Event()

    def ask(path: Path) -> None:
        client = Client(app.url, download_files=False, verbose=False, analytics_enabled=False)
        while not seen.is_set():
            client.predict(handle_file(path), api_name="/compare")
            served.set()
        client.close()

    with visit(browser, app.url) as page, ThreadPoolExecutor(len(large)) as others:
        jobs = [others.submit(ask, path) for path in large]
        try:
            assert served.wait(TIMEOUT / 1000)
            before = page.get_attribute(".m2k", "data-run")
            page.locator(".m2k-tile").nth(1).click()
            page.wait_for_function(
                r"() => /queue: \d+\/\d+/.test(document.querySelector('#viewer').innerText)"
            )
        finally:
            seen.set()
        wait_ready(page, before)
        for job in jobs:
            job.result()
