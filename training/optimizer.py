"""AdamW as Mask2Former sets it up: which parameters decay, which learn slower, and when.

Departs from the original: a short linear warm-up before the polynomial decay, because runs here
are a few thousand steps instead of ninety thousand; and Mask2KAN's spline grids need no rule,
they are buffers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
UNDECAYED_NAMES = ("relative_position_bias_table", "absolute_pos_embed")


def parameter_groups(
    model: nn.Module, *, lr: float, backbone_factor: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and decay.

    Args:
        model: parameters under ``backbone.`` get ``lr * backbone_factor``.
        lr: of everything else.
        backbone_factor: see ``model``.
        weight_decay: of weights; norms, embeddings and relative-position tables get none (the
            pixel decoder's ``level_embed`` is no embedding and decays, as there).

    Returns:
        Groups for an optimizer, each with a ``name``; only parameters that require gradients.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            undecayed = isinstance(module, (*NORMS, nn.Embedding)) or name.endswith(UNDECAYED_NAMES)
            groups.setdefault((name.startswith("backbone."), not undecayed), []).append(parameter)
    return [
        {
            "name": f"{'backbone' if backbone else 'head'}{'' if decayed else '_undecayed'}",
            "params": parameters,
            "lr": lr * (backbone_factor if backbone else 1.0),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (backbone, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_optimizer(
    model: nn.Module, *, lr: float, backbone_factor: float, weight_decay: float
) -> AdamW:
    """AdamW over ``parameter_groups``; on a card, one kernel for all of them."""
    groups = parameter_groups(
        model, lr=lr, backbone_factor=backbone_factor, weight_decay=weight_decay
    )
    on_card = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return AdamW(groups, lr=lr, fused=True) if on_card else AdamW(groups, lr=lr, foreach=True)


def poly_factor(step: int, *, steps: int, warmup_steps: int, power: float = 0.9) -> float:
    """Share of the full learning rate at a step: linear up, then ``(1 - progress) ** power``."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return float((1.0 - min(progress, 1.0)) ** power)


def build_schedule(
    optimizer: torch.optim.Optimizer, *, steps: int, warmup_steps: int, power: float = 0.9
) -> LambdaLR:
    """``poly_factor`` on every group's learning rate, advanced once per step."""
    return LambdaLR(
        optimizer,
        lambda step: poly_factor(step, steps=steps, warmup_steps=warmup_steps, power=power),
    )
