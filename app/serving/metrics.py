"""Count for Prometheus, on a port of its own; nothing is counted where that is not switched on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Metrics:
    """What is counted; ``prometheus_client`` is imported by ``serve`` alone."""

    def __init__(self) -> None:
        self._requests: Any = None
        self._refusals: Any = None
        self._jobs: Any = None

    def serve(self, port: int, host: str, queue_length: Callable[[], float]) -> None:
        """Count from now on, and answer at ``http://host:port/metrics``.

        Raises:
            OSError: where the port is taken.
        """
        import prometheus_client as prometheus

        prometheus.start_http_server(port, host)
        self._requests = prometheus.Counter(
            "mask2kan_requests", "Requests answered.", ["route", "status"]
        )
        self._refusals = prometheus.Counter(
            "mask2kan_refusals", "Requests refused before Gradio saw them.", ["reason"]
        )
        self._jobs = prometheus.Histogram(
            "mask2kan_job_seconds",
            "Seconds a job computed.",
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100),
        )
        prometheus.Gauge("mask2kan_queue_length", "Jobs that run or wait.").set_function(
            queue_length
        )

    def answered(self, route: str, status: int) -> None:
        """Count a request by the template of its route."""
        if self._requests is not None:
            self._requests.labels(route, str(status)).inc()

    def refused(self, reason: str) -> None:
        """Count a refusal by its reason."""
        if self._refusals is not None:
            self._refusals.labels(reason).inc()

    def job(self, seconds: float) -> None:
        """Count a job."""
        if self._jobs is not None:
            self._jobs.observe(seconds)


METRICS = Metrics()
