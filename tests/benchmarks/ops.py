"""How long multi-scale deformable attention takes: the cpu backend against the reference.

    PYTHONPATH=. python tests/benchmarks/ops.py
    PYTHONPATH=. python tests/benchmarks/ops.py --repeats 10 --threads 1 --json ops.json

Both backends run by turns on the same tensors, so that whatever else the machine does falls on
both; the table holds the median of each and the median of their ratios. Locations scatter a few
pixels around each query's own place, as a trained pixel decoder's do.
"""

from __future__ import annotations

import functools
import statistics

import measure
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


def call_of(setting, backend, backward):
    """One call, or one call and its gradients."""
    inputs = make_inputs(*SETTINGS[setting])

    def call():
        with torch.set_grad_enabled(backward):
            output = ms_deform_attn(*inputs, backend=backend)
            if backward:
                torch.autograd.grad(output, (inputs[0], *inputs[2:]), torch.ones_like(output))

    return call


def bytes_moved(setting, backward):
    """What no implementation gets around: every tensor read or written once."""
    value, _, locations, weights = make_inputs(*SETTINGS[setting])
    touched = 2 * value.numel() + locations.numel() + weights.numel()  # the output is like value
    return 4 * touched * (3 if backward else 1)


def row(setting, backward, repeats, rate):
    """Times, memory and floor of both backends."""
    calls = {backend: call_of(setting, backend, backward) for backend in BACKENDS}
    times = measure.by_turns(calls, repeats)
    peaks = {
        backend: measure.peak_megabytes(functools.partial(call_of, setting, backend, backward))
        for backend in BACKENDS
    }
    return {
        "setting": setting,
        "pass": "forward+backward" if backward else "forward",
        **{f"{backend} ms": 1e3 * statistics.median(times[backend]) for backend in BACKENDS},
        "speed-up": measure.ratio(times["reference"], times["cpu"]),
        "floor ms": 1e3 * bytes_moved(setting, backward) / rate,
        **{f"{backend} call MB": peaks[backend]["call_mb"] for backend in BACKENDS},
    }


def main():
    """Print the table; write it as JSON where asked."""
    arguments = measure.parser(__doc__, 7).parse_args()
    torch.set_num_threads(arguments.threads)
    facts = measure.about(arguments.threads)
    rate = measure.copy_rate()
    rows = [
        row(setting, backward, arguments.repeats, rate)
        for setting in SETTINGS
        for backward in (False, True)
    ]
    measure.show(rows, facts)
    measure.write({"rows": rows}, facts, arguments.json)


if __name__ == "__main__":
    main()
