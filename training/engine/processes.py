"""How the processes of a run start, agree and stop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator

from mask2kan.errors import ConfigError
from mask2kan.runtime.memory import keep_freed_memory

from .rendezvous import meeting
from .sharding import sharding_asked_for


def join_processes(batch_size: int, mixed_precision: str | None) -> Accelerator:
    """Join the run's other processes, which share ``batch_size`` crops per step.

    Raises:
        ConfigError: when they cannot share them equally.
    """
    # By itself, accelerate takes the processes of torchrun for several runs where there is no GPU
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(
        cpu=several and not torch.accelerator.is_available(),
        mixed_precision=mixed_precision,
        rng_types=[],
        fsdp_plugin=sharding_asked_for(),
        kwargs_handlers=[meeting()],
    )
    processes = accelerator.num_processes
    if batch_size % processes:
        raise ConfigError(
            f"batch_size is {batch_size}; it must be a multiple of the number of "
            f"processes ({processes})."
        )
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


def any_process(accelerator: Accelerator, answer: bool) -> bool:
    """Return whether ``answer`` holds on any process; a collective."""
    if accelerator.num_processes == 1:
        return answer  # without waiting for the device
    if answer:
        accelerator.set_trigger()
    return bool(accelerator.check_trigger())


def main_process(accelerator: Accelerator, answer: bool) -> bool:
    """Return the main process's answer everywhere; a collective."""
    return any_process(accelerator, answer and accelerator.is_main_process)


def step_seed(seed: int, step: int, process: int) -> int:
    """Return a distinct seed for every step of every process."""
    return ((seed * 1_000_003 + step) * 1009 + process) % 2**63


@contextlib.contextmanager
def on_stop_signals(ask: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call ``ask`` instead of ending the process."""
    before = {
        number: signal.signal(number, lambda *_: ask())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
