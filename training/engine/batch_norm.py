"""Give batch norms true statistics without changing what the network computes.

Batch norm folded into the convolutions (mean 0, variance 1) would make training normalise
activations that never were. Inputs are measured on real images; scale and shift absorb the change.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def reestimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Set every 2-d batch norm's statistics from data; return how many batch norms saw any."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    sums: dict[int, list[Tensor]] = {}
    hooks = [norm.register_forward_pre_hook(partial(_measure, sums)) for norm in norms]
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    changed = [norm for norm in norms if id(norm) in sums]
    for norm in changed:
        count, total, squares = sums[id(norm)]
        _absorb(norm, total / count, squares / count)
    return len(changed)


def _measure(sums: dict[int, list[Tensor]], norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    x = inputs[0].double()
    here = [
        torch.tensor(float(x.numel() // x.shape[1]), dtype=torch.float64, device=x.device),
        x.sum((0, 2, 3)),
        x.square().sum((0, 2, 3)),
    ]
    before = sums.get(id(norm))
    sums[id(norm)] = here if before is None else [a + b for a, b in zip(before, here, strict=True)]


def _absorb(norm: nn.BatchNorm2d, mean: Tensor, mean_square: Tensor) -> None:
    """Set new running statistics, and the scale and shift that undo them."""
    old_mean, old_variance = norm.running_mean, norm.running_var
    assert old_mean is not None
    assert old_variance is not None
    variance = (mean_square - mean.square()).clamp(min=0.0)
    scale = norm.weight.double() / (old_variance.double() + norm.eps).sqrt()
    shift = norm.bias.double() - old_mean.double() * scale
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift + mean * scale)
    old_mean.copy_(mean)
    old_variance.copy_(variance)
