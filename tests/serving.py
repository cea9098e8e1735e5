"""``python app.py`` in a process of its own, for tests that talk to it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from mask2kan.checkpoints import save_model
from tests.tiny_models import calibrated, tiny

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "road_sofa.webp"
_PROCESS = re.compile(r"app\.work\.processes \[.*\]: (models|decoder): process (\d+)")
START_SECONDS = 300  # a loaded machine; an idle one needs about ten


@dataclasses.dataclass(frozen=True)
class App:
    """A served app.

    Attributes:
        url: where it answers.
        log: the file its output goes to.
        models: the checkpoints it offers, the KAN first; none for the bundled ones.
        process: that it runs in.
    """

    url: str
    log: Path
    models: tuple[Path, ...]
    process: subprocess.Popen[bytes]

    def processes(self) -> dict[str, psutil.Process]:
        """Find the app's own processes; the last of a name counts."""
        latest = dict(_PROCESS.findall(self.log.read_text(encoding="utf-8")))
        found = {name: psutil.Process(int(pid)) for name, pid in latest.items()}
        return {"app": psutil.Process(self.process.pid), **found}

    def stopped(self) -> psutil.Process:
        """Stop the models' process, as if it hung in the middle of something."""
        process = self.processes()["models"]
        process.suspend()
        return process

    def model_runs(self) -> int:
        """How often a model has looked at a picture so far."""
        return self.log.read_text(encoding="utf-8").count("looked at a picture")


def tiny_models(folder: Path) -> tuple[Path, Path]:
    """A randomly initialised KAN and MLP; the KAN calibrated on one example, the MLP not."""
    paths = folder / "tiny_kan.safetensors", folder / "tiny_mlp.safetensors"
    kan, mlp = (  # seeds with which both see several classes
        tiny(family, seed=seed, num_classes=11, num_queries=12, num_decoder_layers=1)
        for family, seed in (("mask2kan", 18), ("mask2former", 10))
    )
    save_model(calibrated(kan, EXAMPLE, 70, "one example"), paths[0])
    save_model(mlp, paths[1])
    return paths


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_PAST_PROXIES = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _answers(url: str) -> bool:
    try:
        with _PAST_PROXIES.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def serving(
    folder: Path,
    models: tuple[Path, ...] = (),
    *,
    command: Sequence[str] = ("app.py",),
    python: str = sys.executable,
    **environment: str,
) -> Iterator[App]:
    """``python app.py``, offline.

    Args:
        folder: for its log and what it keeps.
        models: offered instead of the bundled ones.
        command: what Python is started with.
        python: which one.
        environment: further variables.
    """
    port = free_port()
    variables = {
        **os.environ,
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "MASK2KAN_MODELS": os.pathsep.join(map(str, models)),
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    log = folder / "log.txt"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [python, *command], cwd=ROOT, env=variables, stdout=output, stderr=output
        )
    running = App(f"http://127.0.0.1:{port}", log, models, process)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(running.url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"app.py did not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        process.wait(timeout=120)
