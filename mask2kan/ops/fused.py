"""CPU kernels of multi-scale deformable attention, compiled by numba: the op in two loops.

One image's head is one piece of work. No two pieces write to the same memory, so one parallel loop
suffices (``cpu.py`` has many small ones, which wait for each other on busy cores) and every run
gives the same result. Needs numba (the extra ``[fused]``); half types are computed in float32.

Dimensions: B batch, S positions of all levels, Q queries, M heads, D channels of a head, L levels,
P points.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mask2kan.ops.operator import FUSED_BACKWARD, FUSED_FORWARD

_lock = threading.Lock()  # some of numba's thread pools serve one caller at a time


def installed() -> bool:
    """Tell whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def missing() -> str:
    """Say why the kernels cannot run here; empty where they can."""
    return _import_fault() if installed() else "numba is not installed (pip install numba)"


@functools.cache
def _import_fault() -> str:
    try:
        import numba  # noqa: F401
    except Exception as error:  # mostly a version that does not fit NumPy's
        return f"numba cannot be imported: {' '.join(str(error).split())[:200]}"
    return ""


def _compute_dtype(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _prepared(value: Tensor, spatial_shapes: list[int], *others: Tensor) -> list[Any]:
    """Return levels and places (see ``fused_kernels``), and dense arrays of one dtype."""
    dtype = _compute_dtype(value)
    sizes = np.array(spatial_shapes, dtype=np.int64).reshape(-1, 2)
    # A border of one zero position around every level, so that no corner has to be checked.
    ends = np.cumsum((sizes + 2).prod(1))
    levels = np.column_stack([sizes, np.concatenate([[0], ends[:-1]])])
    places = [
        np.pad(np.ones((height, width), dtype=bool), 1).ravel() for height, width in sizes.tolist()
    ]
    arrays = [tensor.detach().to(dtype).contiguous().numpy() for tensor in (value, *others)]
    return [levels, np.flatnonzero(np.concatenate(places)), *arrays]


def run(kernel: str, *arguments: Any) -> None:
    """Call a loop of ``fused_kernels`` on as many threads as PyTorch has."""
    import numba  # late: it takes a second, and the loops are compiled or read from disk

    from mask2kan.ops import fused_kernels

    config: Any = numba.config
    threads = torch.get_num_threads()
    with _lock:
        numba.set_num_threads(min(threads, config.NUMBA_NUM_THREADS))
        getattr(fused_kernels, kernel)(*arguments)
    # Where both share one OpenMP, numba changes PyTorch's number of threads as it starts its own;
    # sums over another number of threads differ in their last bits.
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@torch.library.impl(FUSED_FORWARD, "cpu")
def _forward(
    value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, channels = value.shape
    arguments = _prepared(value, spatial_shapes, locations, weights)
    shape = (batch, locations.shape[1], heads, channels)
    output = torch.zeros(shape, dtype=_compute_dtype(value))
    if 0 not in (*value.shape, *locations.shape):
        run("attention_forward", *arguments, output.numpy())
    return output.flatten(2).to(value.dtype)


@torch.library.impl(FUSED_BACKWARD, "cpu")
def _backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: list[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = grad_output.unflatten(2, value.shape[2:])
    arguments = _prepared(value, spatial_shapes, locations, weights, grads)
    inputs = (value, locations, weights)
    results = [torch.zeros(like.shape, dtype=_compute_dtype(value)) for like in inputs]
    if 0 not in (*value.shape, *locations.shape):
        run("attention_backward", *arguments, *(result.numpy() for result in results))
    grads = [result.to(like.dtype) for result, like in zip(results, inputs, strict=True)]
    return grads[0], grads[1], grads[2]
