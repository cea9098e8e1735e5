"""What the benchmarks share: taking turns, floors of the machine, peak memory, tables and JSON.

Times on shared machines wander by half within minutes, so no time is worth anything alone: every
table runs its peer by turns with ours in the same run and reports the median of the ratios.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mask2kan.outputs.tables import Table

Row = dict[str, object]
REPOSITORY = Path(__file__).resolve().parents[2]
PEAK_PROCESSES = 5  # odd, for a median


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """A command line with what all benchmarks take; the description is the module's docstring."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--repeats", type=_positive, default=repeats, help=f"default {repeats}")
    made.add_argument("--threads", type=_positive, default=torch.get_num_threads())
    made.add_argument("--json", type=Path, help="also write the rows to this file")
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def by_turns(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call; the functions run one after another, round by round, after a warm-up.

    The order turns around every round, so that none always runs in the shadow of the same other.
    """
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats):
        names = list(functions) if repeat % 2 == 0 else list(functions)[::-1]
        for name in names:
            start = time.perf_counter()
            functions[name]()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(slower: list[float], faster: list[float]) -> float:
    """Median over the rounds of how many times as long the first took."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def gemm_rate(rows: int = 4096, inner: int = 1024, columns: int = 1024, dtype=torch.float32):
    """Floating point operations per second of a matrix product (a multiply-add counts two)."""
    a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    out = torch.empty(rows, columns, dtype=dtype)
    times = by_turns({"mm": lambda: torch.mm(a, b, out=out)}, 7)["mm"]
    return 2 * rows * inner * columns / statistics.median(times)


def copy_rate(megabytes: int = 256) -> float:
    """Bytes per second of a copy between buffers beyond any cache, read and written bytes both."""
    source = torch.ones(megabytes << 18)
    target = torch.empty_like(source)
    times = by_turns({"copy": lambda: target.copy_(source)}, 5)["copy"]
    return 2 * source.numel() * source.element_size() / statistics.median(times)


def operations(function: Callable[[], object]) -> float:
    """Floating point operations of the matrix products, convolutions and attentions of a call."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return float(counter.get_total_flops())


def peak_megabytes(setup: Callable[[], Callable[[], object]]) -> dict[str, float]:
    """Peak memory of a call in fresh processes: of the one with the median peak.

    One process is no measurement: where the allocator's holes lie moves the peak by some 5 %.

    Args:
        setup: a picklable function that prepares (loads a model, ...) and returns the call.

    Returns:
        ``peak_mb`` of the process's resident memory while the call ran twice, libraries and weights
        included, and ``call_mb``, how much that is above what was there before the call.
    """
    peaks = [_peak_once(setup) for _ in range(PEAK_PROCESSES)]
    return sorted(peaks, key=lambda peak: peak["peak_mb"])[PEAK_PROCESSES // 2]


def _peak_once(setup: Callable[[], Callable[[], object]]) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(setup, torch.get_num_threads(), sender))
    process.start()
    sender.close()
    try:
        found: dict[str, float] = receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(
            f"The process that measures memory ended with {process.exitcode}."
        ) from None
    process.join()
    return found


def _measure_peak(setup, threads, sender) -> None:
    torch.set_num_threads(threads)
    call = setup()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    for _ in range(2):
        call()
    peak = _status("VmHWM")
    sender.send({"peak_mb": peak, "call_mb": peak - before})


def _status(field: str) -> float:
    """Megabytes (10^6) of a line of the process's status; Linux only."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:
        # elsewhere the high-water mark since the start has to do
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    line = next(line for line in lines if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024 / 1e6


def about(threads: int) -> dict[str, object]:
    """What a reader of the figures has to know of the run."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": "python " + " ".join([_relative(sys.argv[0]), *sys.argv[1:]]),
        "commit": _commit(),
        "processor": _processor(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _relative(script: str) -> str:
    path = Path(script).resolve()
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else path.name


def _commit() -> str:
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    found = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({found})"


def show(rows: list[Row], heading: dict[str, object] | None = None) -> None:
    """Print a table whose columns are the rows' keys."""
    for key, value in (heading or {}).items():
        print(f"{key}: {value}")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    print(Table(columns, cells, text_columns=0).text(), end="\n\n", flush=True)


def write(tables: dict[str, list[Row]], facts: dict[str, object], path: Path | None) -> None:
    """Write facts and tables as JSON where a file was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**facts, **tables}, indent=2) + "\n")


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
