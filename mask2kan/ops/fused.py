"""CPU kernels of multi-scale deformable attention, compiled by numba: the op in two loops.

``cpu.py`` builds the op from PyTorch's own loops, many small products that wait for each other
whenever another program keeps a core busy. Here an image's head is one piece of work from end to
end: every point reads its four corners, adds them up, and in the backward pass adds to the
gradient of ``value`` in place. No two pieces write to the same numbers, so there is one parallel
loop, nothing is gathered or sorted, and the result is the same in every run.

Needs numba (the extra ``[fused]``). Compiled code is kept on disk. Sums may be
reordered and contracted (vector units and fused multiply-adds need that), but no flag lets a NaN
or an infinity vanish. Half types are computed in float32.

Dimensions: B batch, S positions of all levels, Q queries, M heads, D channels of a head, L levels,
P points.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import threading
from typing import Any

import torch
from torch import Tensor

from mask2kan.ops.operator import FUSED_BACKWARD, FUSED_FORWARD

logger = logging.getLogger(__name__)

_lock = threading.Lock()  # some of numba's thread pools take one caller at a time


def installed() -> bool:
    """Whether numba is there at all."""
    return importlib.util.find_spec("numba") is not None


def missing() -> str:
    """Why the kernels cannot run here; empty where they can."""
    if not installed():
        return "numba is not installed (pip install numba)"
    return _import_fault()


@functools.cache
def _import_fault() -> str:
    try:
        import numba  # noqa: F401
    except Exception as error:  # most of the time, its version does not fit NumPy's
        return f"numba cannot be imported: {' '.join(str(error).split())[:200]}"
    return ""


def _prepared(value: Tensor, spatial_shapes: list[int], *others: Tensor) -> list[Any]:
    """What the loops take first: levels, places (see there), and dense arrays in one type."""
    import numpy as np

    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    sizes = np.array(spatial_shapes, dtype=np.int64).reshape(-1, 2)
    ends = np.cumsum((sizes + 2).prod(1))
    levels = np.column_stack([sizes, np.concatenate([[0], ends[:-1]])])
    places = [
        np.pad(np.ones((height, width), dtype=bool), 1).ravel() for height, width in sizes.tolist()
    ]
    arrays = [tensor.detach().to(dtype).contiguous().numpy() for tensor in (value, *others)]
    return [levels, np.flatnonzero(np.concatenate(places)), *arrays]


def run(kernel: str, *arguments: Any) -> None:
    """Call one of the loops in ``fused_kernels``, on as many threads as PyTorch has.

    numba is imported, and the loops are compiled or read, at the first call.
    """
    import numba

    from mask2kan.ops import fused_kernels

    config: Any = numba.config
    threads = torch.get_num_threads()
    with _lock:
        numba.set_num_threads(min(threads, config.NUMBA_NUM_THREADS))
        getattr(fused_kernels, kernel)(*arguments)
    # Starting its threads, numba sets the number of PyTorch's too where both share one OpenMP;
    # sums over another number of threads differ in their last bits.
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@torch.library.impl(FUSED_FORWARD, "cpu")
def _forward(
    value: Tensor, spatial_shapes: list[int], locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, channels = value.shape
    arguments = _prepared(value, spatial_shapes, locations, weights)
    output = torch.zeros(
        (batch, locations.shape[1], heads, channels),
        dtype=torch.float64 if value.dtype == torch.float64 else torch.float32,
    )
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
    results = [torch.zeros(array.shape, dtype=_type_of(array)) for array in arguments[2:5]]
    if 0 not in (*value.shape, *locations.shape):
        run("attention_backward", *arguments, *(result.numpy() for result in results))
    return (
        results[0].to(value.dtype),
        results[1].to(locations.dtype),
        results[2].to(weights.dtype),
    )


def _type_of(array: Any) -> torch.dtype:
    return torch.float64 if array.dtype.itemsize == 8 else torch.float32
