"""Tiny training runs as the commands people type, and what is compared of their states."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from tests.tiny_runs import TINY

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
if torch.accelerator.is_available():
    ENVIRONMENT["ACCELERATE_USE_CPU"] = "true"
SPREAD = [
    "batch_size=4",
    "steps=3",
    "eval_every=3",
    "train_batch_norm=false",  # statistics of half a batch are not those of the whole
]


def train_command(folder, *settings, launcher=("-m", "training.train"), recipe="camvid_kan"):
    """The command people type for a tiny run, which goes on with what is in the folder."""
    chosen = [part for one in [*TINY, *settings] for part in ("--set", one)]
    common = ["--out", str(folder), "--quiet", "--threads", "1", "--resume"]
    return [sys.executable, *launcher, recipe, *chosen, *common]


def finished(command, **environment):
    """Run a command to its end, which has to be a good one."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def torchrun(*options, script=("-m", "training.train")):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ("-m", "torch.distributed.run", "--master-port", str(port), *options, *script)


def saved_state(folder):
    return torch.load(folder / "state.pt", weights_only=True)


def flat_state(value, path=""):
    """Every tensor and number of a nested state, by its path."""
    if isinstance(value, dict):
        items = [(str(key), one) for key, one in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(index), one) for index, one in enumerate(value)]
    else:
        return {path: value}
    return {
        key: leaf for name, one in items for key, leaf in flat_state(one, f"{path}/{name}").items()
    }


def require_equal(found, expected):
    found, expected = flat_state(found), flat_state(expected)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        same = torch.equal(found[key], value) if torch.is_tensor(value) else found[key] == value
        assert same, key


def saved_step(file):
    try:
        return torch.load(file, weights_only=True)["step"]
    except (OSError, RuntimeError, EOFError):
        return 0
