"""The attention kernels on a card: right, clean, and how fast."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from card import DTYPES, Setting, card_times, copy_rate, short
from ops import make_inputs
from original_op import OriginalOp
from torch import Tensor

from mask2kan.ops import cuda, ms_deform_attn
from tests.attention_cases import Case, errors, make_case

LIMITS = {  # of the largest magnitude of the float64 result: output, gradients
    torch.float32: (1e-5, 1e-4),
    torch.float16: (2e-2, 2e-2),
    torch.bfloat16: (2e-2, 2e-2),
}
STRIDES = (32, 16, 8)  # the encoder's levels
HEADS, HEAD_SIZE = 8, 32

Call = Callable[[int], object]


def random_case(seed: int, dtype: torch.dtype) -> Case:
    """A shape, locations inside, at and beyond the borders; float32 but for the values."""
    draw = np.random.default_rng([seed, 4])
    shapes = [tuple(draw.integers(1, 40, 2).tolist()) for _ in range(draw.integers(1, 6))]
    value, shapes, locations, weights = make_case(
        shapes,
        batch=int(draw.integers(1, 5)),
        queries=int(draw.integers(1, 400)),
        heads=int(draw.integers(1, 9)),
        channels=int(draw.choice(cuda.HEAD_SIZES)),
        points=int(draw.integers(1, 9)),
        seed=seed,
    )
    return value.to(dtype), shapes, locations, weights


def with_gradients(case: Any, backend: str, dtype: torch.dtype | None = None) -> Any:
    """Output and gradients; all in ``dtype`` where one is given."""
    value, shapes, locations, weights = case
    leaves = [t.to(dtype or t.dtype).requires_grad_() for t in (value, locations, weights)]
    output = ms_deform_attn(leaves[0], shapes, *leaves[1:], backend=backend)
    generator = torch.Generator().manual_seed(7)
    grad = torch.randn(output.shape, generator=generator).to(value.dtype)
    grads = torch.autograd.grad(output, leaves, grad.to(output))
    return (output.detach(), *grads)


def correctness(setting: Setting) -> list[measure.Row]:
    """Largest errors over the random shapes, per type."""
    rows: list[measure.Row] = []
    worst = {dtype: [0.0] * 4 for dtype in DTYPES}
    counts = dict.fromkeys(DTYPES, 0)
    for seed in range(setting.random_shapes):
        dtype = DTYPES[seed % len(DTYPES)]
        value, shapes, locations, weights = random_case(seed, dtype)
        value, locations, weights = (t.to(setting.device) for t in (value, locations, weights))
        case = (value, shapes, locations, weights)
        found = with_gradients(case, setting.backend)
        expected = with_gradients(case, "reference", torch.float64)
        worst[dtype] = [
            max(a, b) for a, b in zip(worst[dtype], errors(found, expected), strict=True)
        ]
        counts[dtype] += 1
    for dtype, (most, most_of_gradients) in LIMITS.items():
        output, *grads = worst[dtype]
        rows.append(
            {
                "value": short(dtype),
                "shapes": counts[dtype],
                "forward error": output,
                **dict(zip(("d value", "d locations", "d weights"), grads, strict=True)),
                "within": output <= most and max(grads) <= most_of_gradients,
            }
        )
    return rows


def sanitizer(setting: Setting) -> list[measure.Row]:
    """compute-sanitizer's tools over small cases of every type."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if setting.rehearsal or not Path(tool).exists():
        return [{"tool": "compute-sanitizer", "result": "not here"}]
    rows: list[measure.Row] = []
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": "."}
    for name in ("memcheck", "racecheck", "synccheck"):
        # Calls of the driver may fail and be handled (a library asks for what an old one lacks).
        quiet = ["--report-api-errors", "no"] if name == "memcheck" else []
        command = [tool, "--tool", name, *quiet, "--error-exitcode", "9", sys.executable]
        command += [str(Path(__file__).with_name("gpu_all.py")), "--sanitized"]
        done = subprocess.run(
            command,
            cwd=measure.REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(30, setting.seconds_left()),
        )
        said = re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY.*", done.stdout)
        rows.append({"tool": name, "exit": done.returncode, "result": " ".join(said)[-120:]})
        if done.returncode:
            print(done.stdout[-3000:], done.stderr[-1000:])
    return rows


def sanitized() -> None:
    """What the sanitizer watches."""
    for seed, dtype in enumerate(DTYPES):
        value, shapes, locations, weights = random_case(seed, dtype)
        flat = [size for shape in shapes for size in shape]
        inputs = [t.cuda() for t in (value, locations, weights)]
        output = cuda.forward(inputs[0], flat, *inputs[1:])
        cuda.backward(torch.randn_like(output), inputs[0], flat, *inputs[1:])
    torch.cuda.synchronize()


def kernels(setting: Setting) -> list[measure.Row]:
    """Every size, batch and type, forward and backward."""
    rate = copy_rate(setting)
    print(f"copies move {rate / 1e12:.3g} TB/s")
    original = None
    if setting.original and not setting.rehearsal:
        original = OriginalOp(setting.original, HEAD_SIZE)
    rows: list[measure.Row] = []
    for size in setting.sizes:
        shapes = [(size[0] // stride, size[1] // stride) for stride in STRIDES]
        for batch in setting.batches:
            value, _, locations, weights = make_inputs(shapes, batch, HEADS, HEAD_SIZE)
            first = [t.detach().to(setting.device) for t in (value, locations, weights)]
            # Other values at other places: enough that no call finds its inputs in the cache.
            inputs = [first, [t.flip(1).contiguous() for t in first]]
            for dtype in DTYPES:
                if setting.seconds_left() < 20:
                    return rows
                for row in kernel_rows(setting, shapes, inputs, dtype, rate, original):
                    rows.append({"picture": "{}x{}".format(*size), "batch": batch, **row})
    return rows


def kernel_rows(
    setting: Setting,
    shapes: list[tuple[int, int]],
    inputs: list[list[Tensor]],
    dtype: torch.dtype,
    rate: float,
    original: OriginalOp | None,
) -> list[measure.Row]:
    """Both passes in one type; the original's in float32."""
    rows = []
    for direction, make in (("forward", forward_calls), ("backward", backward_calls)):
        times = card_times(setting, make(inputs, shapes, dtype, original))
        ours = times["ours"]
        floor = 1e3 * _bytes(inputs[0], dtype, direction) / rate
        row: measure.Row = {
            "value": short(dtype),
            "pass": direction,
            "ours ms": statistics.median(ours),
            "share of ceiling": floor / statistics.median(ours),
            "grid sample ms": statistics.median(times["grid sample"]),
            "times as fast": measure.ratio(times["grid sample"], ours),
        }
        if original is not None:
            row["original float32 ms"] = statistics.median(times["original"])
            row["times the original"] = measure.ratio(times["original"], ours)
        rows.append(row)
    return rows


def forward_calls(
    inputs: list[list[Tensor]],
    shapes: list[tuple[int, int]],
    dtype: torch.dtype,
    original: OriginalOp | None,
) -> dict[str, Call]:
    """Each side's forward pass, on inputs chosen by a number."""
    flat = [side for shape in shapes for side in shape]
    typed = [(value.to(dtype), xy, weight) for value, xy, weight in inputs]

    def ours(call: int) -> object:
        value, xy, weight = typed[call % 2]
        return torch.ops.mask2kan.ms_deform_attn(value, flat, xy, weight)

    def grid_sample(call: int) -> object:
        value, xy, weight = typed[call % 2]
        return ms_deform_attn(value, shapes, xy, weight, backend="reference")

    calls: dict[str, Call] = {"ours": ours, "grid sample": grid_sample}
    if original is not None:
        where = _on_card(shapes)
        calls["original"] = lambda call: original.forward(*_with(inputs[call % 2], where))
        _require_same(
            [original.forward(*_with(inputs[0], where))],
            [cuda.forward(inputs[0][0], flat, *inputs[0][1:])],
        )
    return calls


def backward_calls(
    inputs: list[list[Tensor]],
    shapes: list[tuple[int, int]],
    dtype: torch.dtype,
    original: OriginalOp | None,
) -> dict[str, Call]:
    """Each side's backward pass, on inputs chosen by a number."""
    flat = [side for shape in shapes for side in shape]
    typed = [(value.to(dtype), xy, weight) for value, xy, weight in inputs]
    grads = [torch.randn_like(value.flatten(2)) for value, _, _ in inputs]
    typed_grads = [grad.to(dtype) for grad in grads]
    recorded = []
    for tensors in typed:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        output = ms_deform_attn(leaves[0], shapes, *leaves[1:], backend="reference")
        recorded.append((output, leaves))

    def ours(call: int) -> object:
        value, xy, weight = typed[call % 2]
        return torch.ops.mask2kan.ms_deform_attn_backward(
            typed_grads[call % 2], value, flat, xy, weight
        )

    def grid_sample(call: int) -> object:
        output, leaves = recorded[call % 2]
        return torch.autograd.grad(output, leaves, typed_grads[call % 2], retain_graph=True)

    calls: dict[str, Call] = {"ours": ours, "grid sample": grid_sample}
    if original is not None:
        where = _on_card(shapes)
        calls["original"] = lambda call: original.backward(
            grads[call % 2], *_with(inputs[call % 2], where)
        )
        _require_same(
            original.backward(grads[0], *_with(inputs[0], where)),
            cuda.backward(grads[0], inputs[0][0], flat, *inputs[0][1:]),
        )
    return calls


def _on_card(shapes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """The original's spatial_shapes and level_start_index."""
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
    return torch.tensor(shapes, device="cuda"), torch.tensor(starts, device="cuda")


def _with(tensors: list[Tensor], where: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    value, locations, weights = tensors
    return (value, *where, locations, weights)


def _require_same(theirs: Any, ours: Any) -> None:
    apart = errors(tuple(theirs), tuple(ours))
    if max(apart) > 1e-3:
        raise RuntimeError(f"The original's kernels give something else than ours: {apart}")


def _bytes(inputs: list[Tensor], dtype: torch.dtype, direction: str) -> float:
    """Every tensor read or written once; a gradient is like its tensor, the output like value."""
    value, locations, weights = (tensor.numel() for tensor in inputs)
    points = 4 * (locations + weights)
    once = dtype.itemsize * value
    return points + 2 * once if direction == "forward" else 2 * points + 3 * once
