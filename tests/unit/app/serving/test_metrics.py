"""Metrics for Prometheus, asked for over HTTP as it does."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware import Middleware

from app.serving import answers, trace
from app.serving.metrics import Metrics
from tests.serving import free_port

pytest.importorskip("prometheus_client", reason="no prometheus-client: pip install -e .[metrics]")


class Refusing(answers.Layer):
    async def handle(self, scope, receive, send):
        if scope["path"] == "/refused":
            raise answers.RefusedError(429, "Too often.", "rate")
        await self.app(scope, receive, send)


def test_requests_refusals_and_jobs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, port = Metrics(), free_port()
    metrics.job(1.0)  # before it is switched on nothing happens
    for module in (answers, trace):
        monkeypatch.setattr(module, "METRICS", metrics)
    metrics.serve(port, "127.0.0.1", lambda: 3)
    app = FastAPI(
        middleware=[Middleware(trace.Trace), Middleware(answers.Answers), Middleware(Refusing)]
    )

    @app.get("/file={name:path}")
    def file(name: str) -> str:
        return name

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            for path in ("/file=a", "/file=b", "/nowhere", "/refused"):
                await client.get(path)

    # In a thread of its own: beside browser tests, Playwright's loop runs in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(ask())).result()
    metrics.job(2.0)
    told = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    for line in (
        'mask2kan_requests_total{route="/file={name:path}",status="200"} 2.0',
        'mask2kan_requests_total{route="other",status="404"} 1.0',
        'mask2kan_refusals_total{reason="rate"} 1.0',
        "mask2kan_queue_length 3.0",
        "mask2kan_job_seconds_count 1.0",
        'mask2kan_job_seconds_bucket{le="3.0"} 1.0',
    ):
        assert line in told
