"""Processes that are restarted meet apart from those before them."""

from __future__ import annotations

import socket

import pytest
import torch

from training.engine.rendezvous import meeting


@pytest.fixture
def launched(monkeypatch):
    """The environment a launcher gives a process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    return monkeypatch


def _join(attempt, launched):
    launched.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
    how = meeting().to_kwargs()
    return next(torch.distributed.rendezvous(how["init_method"], timeout=how["timeout"]))


def test_a_restart_does_not_read_what_the_dead_have_written(launched):
    first, rank, size = _join(0, launched)
    assert (rank, size) == (0, 1)
    first.set("address", "of a process that dies")
    again, _, _ = _join(0, launched)
    assert again.get("address") == b"of a process that dies"  # it is one store
    restarted, _, _ = _join(1, launched)
    assert not restarted.check(["address"])
