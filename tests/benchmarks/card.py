"""What the benchmarks of a card share: how large, how long, and how time is taken."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import measure
import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Setting:
    """Where and how large; ``--rehearse`` makes it the processor and small."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.rehearsal = arguments.rehearse
        self.device = torch.device("cpu" if self.rehearsal else "cuda")
        self.sizes = ((64, 128),) if self.rehearsal else ((512, 1024), (1024, 2048))
        self.batches = (1, 2) if self.rehearsal else (1, 8)
        self.random_shapes = 6 if self.rehearsal else 200
        self.rounds = 2 if self.rehearsal else 11
        self.training_size = (64, 128) if self.rehearsal else (512, 1024)
        self.backend = "cpu" if self.rehearsal else "cuda"
        self.compile = arguments.compile
        self.original = arguments.original
        self.deadline = time.monotonic() + 60 * arguments.minutes

    def finish(self) -> None:
        """Wait for the card."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds_left(self) -> float:
        """Of the budget."""
        return self.deadline - time.monotonic()


def copy_rate(setting: Setting) -> float:
    """Bytes per second of a copy on the card, read and written bytes both."""
    if setting.rehearsal:
        return measure.copy_rate(16)
    source = torch.ones(1 << 28, device=setting.device)
    target = torch.empty_like(source)
    [times] = card_times(setting, {"copy": lambda _: target.copy_(source)}).values()
    return 2e3 * source.numel() * source.element_size() / statistics.median(times)


def card_times(
    setting: Setting, functions: dict[str, Callable[[int], object]]
) -> dict[str, list[float]]:
    """Milliseconds per call and round; every call gets another number, to take other inputs."""
    calls = {}
    for name, function in functions.items():
        function(0)
        spent = _milliseconds(setting, function, 1)
        calls[name] = 1 if setting.rehearsal else max(1, min(20, int(4 / max(spent, 1e-3))))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(setting.rounds):
        names = list(functions) if round_ % 2 == 0 else list(functions)[::-1]
        for name in names:
            times[name].append(_milliseconds(setting, functions[name], calls[name]))
    return times


def _milliseconds(setting: Setting, function: Callable[[int], object], calls: int) -> float:
    if setting.device.type == "cpu":
        start = time.perf_counter()
        for call in range(calls):
            function(call)
        return 1e3 * (time.perf_counter() - start) / calls
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for call in range(calls):
        function(call)
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / calls


@contextmanager
def under(setting: Setting, dtype: torch.dtype) -> Iterator[None]:
    """No gradients, and autocast where the type is not float32."""
    kind = setting.device.type
    with torch.inference_mode(), torch.autocast(kind, dtype, enabled=dtype != torch.float32):
        yield


def short(dtype: torch.dtype) -> str:
    """A type's name without its module."""
    return str(dtype).removeprefix("torch.")
