"""How long multi-scale deformable attention takes: the CPU's backends against the reference.

    PYTHONPATH=. python tests/benchmarks/ops.py
    PYTHONPATH=. python tests/benchmarks/ops.py --repeats 10 --threads 1 --json ops.json

All run by turns on the same tensors, so that whatever else the machine does falls on all; the table
holds the median of each and the median of their ratios. Locations scatter a few pixels around each
query's own place, as a trained pixel decoder's do. A second table has batch norm with ReLU6 in
training, numba's kernels against PyTorch's.
"""

from __future__ import annotations

import functools
import statistics

import measure
import torch
from torch.nn import functional as F

from mask2kan.ops import ms_deform_attn
from mask2kan.ops.batch_norm import batch_norm
from mask2kan.runtime.memory import keep_freed_memory

BACKENDS = ("reference", "cpu", "fused")
# The three levels of the pixel decoder (1/32, 1/16, 1/8), batch, heads, channels of a head.
SETTINGS = {
    "512x1024, batch 1": ([(16, 32), (32, 64), (64, 128)], 1, 8, 32),
    "256x320, batch 8": ([(8, 10), (16, 20), (32, 40)], 8, 8, 16),
    "256x512, batch 8": ([(8, 16), (16, 32), (32, 64)], 8, 4, 32),
}
# Maps of MobileNetV2 at 256x512, batch 8: channels, height, width.
MAPS = ((96, 128, 256), (144, 64, 128), (576, 16, 32))
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
    """Times, memory and floor of the backends."""
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
        "cpu times as fast": measure.ratio(times["reference"], times["cpu"]),
        "fused over cpu": measure.ratio(times["cpu"], times["fused"]),
        "floor ms": 1e3 * bytes_moved(setting, backward) / rate,
        **{f"{backend} call MB": peaks[backend]["call_mb"] for backend in BACKENDS},
    }


def norm_row(shape, repeats):
    """Batch norm with ReLU6, forward and backward."""
    torch.manual_seed(0)
    x = torch.randn(8, *shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.ones(shape[0]).requires_grad_(), torch.ones(shape[0]).requires_grad_()
    grad = torch.randn(8, *shape).contiguous(memory_format=torch.channels_last)

    def theirs():
        y = F.relu6(F.batch_norm(x, None, None, weight, bias, training=True))
        torch.autograd.grad(y, (x, weight, bias), grad)

    def ours():
        y, _, _ = batch_norm(x, weight, bias, epsilon=1e-5, high=6.0)
        torch.autograd.grad(y, (x, weight, bias), grad)

    times = measure.by_turns({"torch": theirs, "fused": ours}, repeats)
    return {
        "map": "8x{}x{}x{}".format(*shape),
        **{f"{name} ms": 1e3 * statistics.median(spent) for name, spent in times.items()},
        "times as fast": measure.ratio(times["torch"], times["fused"]),
    }


def main():
    """Print the table; write it as JSON where asked."""
    arguments = measure.parser(__doc__, 7).parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the trainer has it
    facts = measure.about(arguments.threads)
    rate = measure.copy_rate()
    rows = [
        row(setting, backward, arguments.repeats, rate)
        for setting in SETTINGS
        for backward in (False, True)
    ]
    norms = [norm_row(shape, arguments.repeats) for shape in MAPS]
    measure.show(rows, facts)
    measure.show(norms, facts)
    measure.write({"rows": rows, "batch norm": norms}, facts, arguments.json)


if __name__ == "__main__":
    main()
