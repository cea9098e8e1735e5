"""How long multi-scale deformable attention takes: the cpu backend against the reference.

    PYTHONPATH=. python tests/benchmarks/ops.py
    PYTHONPATH=. python tests/benchmarks/ops.py --repeats 10 --threads 1 --json ops.json

Both backends run by turns on the same tensors, so that whatever else the machine does falls on
both; the table holds the median of each and the median of their ratios. Locations scatter a few
pixels around each query's own place, as a trained pixel decoder's do.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from mask2kan.ops import ms_deform_attn

BACKENDS = ("reference", "cpu")
# The three levels of the pixel decoder (1/32, 1/16, 1/8), batch, heads, channels of a head.
SETTINGS = {
    "512x1024, batch 1": ([(16, 32), (32, 64), (64, 128)], 1, 8, 32),
    "256x320, batch 8": ([(8, 10), (16, 20), (32, 40)], 8, 8, 16),
}
POINTS = 4


def make_inputs(shapes, batch, heads, channels):
    """One query per position, with gradients wanted for all three tensors."""
    torch.manual_seed(0)
    centres = [
        torch.stack(
            torch.meshgrid(
                (torch.arange(width) + 0.5) / width,
                (torch.arange(height) + 0.5) / height,
                indexing="xy",
            ),
            dim=-1,
        ).flatten(0, 1)
        for height, width in shapes
    ]
    place = torch.cat(centres)[None, :, None, None, None]
    extent = torch.tensor([[width, height] for height, width in shapes])[:, None]
    queries, levels = place.shape[1], len(shapes)
    value = torch.randn(batch, queries, heads, channels, requires_grad=True)
    offsets = 2 * torch.randn(batch, queries, heads, levels, POINTS, 2) / extent
    weights = torch.randn(batch, queries, heads, levels * POINTS).softmax(-1)
    weights = weights.unflatten(-1, (levels, POINTS)).requires_grad_()
    return value, shapes, (place + offsets).requires_grad_(), weights


def seconds(inputs, backend, backward):
    """Of one call, or of one call and its gradients."""
    start = time.perf_counter()
    with torch.set_grad_enabled(backward):
        output = ms_deform_attn(*inputs, backend=backend)
        if backward:
            torch.autograd.grad(output, (inputs[0], *inputs[2:]), torch.ones_like(output))
    return time.perf_counter() - start


def measure(name, repeats):
    """One row per (forward, forward and backward), in milliseconds."""
    inputs = make_inputs(*SETTINGS[name])
    for backward in (False, True):
        times = {backend: [] for backend in BACKENDS}
        for repeat in range(repeats + 1):
            for backend in BACKENDS:
                took = seconds(inputs, backend, backward)
                if repeat:  # the first one warms up
                    times[backend].append(1e3 * took)
        ratios = [old / new for old, new in zip(*times.values(), strict=True)]
        yield {
            "setting": name,
            "pass": "forward+backward" if backward else "forward",
            **{f"{backend}_ms": round(statistics.median(times[backend]), 1) for backend in times},
            "speedup": round(statistics.median(ratios), 2),
        }


def main():
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    torch.set_num_threads(arguments.threads)

    print(f"{'setting':20}{'pass':18}{'reference ms':>13}{'cpu ms':>9}{'speed-up':>10}")
    rows = []
    for name in SETTINGS:
        for row in measure(name, arguments.repeats):
            rows.append(row)
            print(
                f"{row['setting']:20}{row['pass']:18}{row['reference_ms']:13.1f}"
                f"{row['cpu_ms']:9.1f}{row['speedup']:9.2f}x"
            )
    if arguments.json:
        about = {
            "torch": torch.__version__,
            "threads": arguments.threads,
            "machine": platform.machine(),
        }
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
