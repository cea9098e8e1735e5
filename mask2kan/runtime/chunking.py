"""Row-wise work in strips that fit the cache.

A feed-forward block widens every row four times: the largest temporary of the forward pass. In
strips it stays in the cache. Only on the CPU without gradients: those keep every temporary anyway,
traced graphs should stay whole, and GPUs want large pieces.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STRIP_ELEMENTS = 1 << 21  # of a strip's largest temporary: 8 MiB of float32


def in_strips(function: Callable[..., Tensor], *inputs: Tensor, widest: int) -> Tensor:
    """Apply a function that treats every item of the first axis by itself.

    Args:
        function: from (n, ...) inputs to (n, ...), for any n.
        inputs: (N, ...) each.
        widest: elements per item in the function's largest temporary.

    Returns:
        ``function(*inputs)``, up to rounding.
    """
    if inputs[0].device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    count = len(inputs[0])
    num_strips = min(count, -(-count * widest // STRIP_ELEMENTS))
    if num_strips <= 1:
        return function(*inputs)
    # Equal strips: a last one of a few rows would be slow for its size.
    strips = zip(*(tensor.tensor_split(num_strips) for tensor in inputs), strict=True)
    first = function(*next(strips))
    # One result to write into: concatenating the strips would hold all of them twice.
    result = first.new_empty(count, *first.shape[1:])
    result[: len(first)] = first
    start = len(first)
    for strip in strips:
        stop = start + len(strip[0])
        result[start:stop] = function(*strip)
        start = stop
    return result
