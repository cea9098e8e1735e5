"""AdamW as Mask2Former sets it up: which parameters decay, which learn slower, and when.

Departs from it: a short linear warm-up, because runs here take a few thousand steps, not ninety
thousand; splines may learn faster and without decay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
UNDECAYED_NAMES = ("relative_position_bias_table", "absolute_pos_embed")
SPLINE_NAMES = ("spline_weight", "spline_scaler")


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    backbone_factor: float,
    weight_decay: float,
    spline_factor: float = 1.0,
    decay_splines: bool = True,
) -> list[dict[str, Any]]:
    """Group trainable parameters by learning rate and decay, with a ``name`` each.

    Norms, embeddings and relative-position tables do not decay; the pixel decoder's ``level_embed``
    is no embedding and does, as there.
    """
    factors = {"backbone": backbone_factor, "head": 1.0, "splines": spline_factor}
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            part = "head"
            if "backbone" in name.split("."):
                part = "backbone"
            elif name.endswith(SPLINE_NAMES) and (spline_factor != 1.0 or not decay_splines):
                part = "splines"
            undecayed = isinstance(module, (*NORMS, nn.Embedding)) or name.endswith(UNDECAYED_NAMES)
            decayed = not undecayed and (part != "splines" or decay_splines)
            groups.setdefault((part, decayed), []).append(parameter)
    return [
        {
            "name": f"{part}{'' if decayed else '_undecayed'}",
            "params": groups[part, decayed],
            "lr": lr * factors[part],
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for part in ("head", "splines", "backbone")
        for decayed in (False, True)
        if (part, decayed) in groups
    ]


def build_optimizer(model: nn.Module, *, lr: float, **options: Any) -> AdamW:
    """Build AdamW over ``parameter_groups``, which takes the options."""
    return AdamW(parameter_groups(model, lr=lr, **options), lr=lr, fused=True)


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return ``lr`` and, where the backbone's differs, ``lr_backbone``."""
    rates = {group["name"].partition("_")[0]: group["lr"] for group in optimizer.param_groups}
    base, backbone = rates["head"], rates.get("backbone", rates["head"])
    return {"lr": base} if backbone == base else {"lr": base, "lr_backbone": backbone}


def rate_factor(
    kind: str, step: int, *, steps: int, warmup_steps: int, power: float = 0.9
) -> float:
    """Return the share of the full learning rate at a step: linear up, then by schedule.

    ``poly`` is ``(1 - progress) ** power``, ``falling`` ``1 - progress``, ``constant`` 1.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min((step - warmup_steps) / max(1, steps - warmup_steps), 1.0)
    return float({"poly": (1.0 - progress) ** power, "falling": 1.0 - progress}.get(kind, 1.0))


def build_schedule(
    optimizer: torch.optim.Optimizer, kind: str, *, steps: int, warmup_steps: int
) -> LambdaLR:
    """Apply ``rate_factor`` to every group's learning rate."""
    return LambdaLR(
        optimizer, lambda step: rate_factor(kind, step, steps=steps, warmup_steps=warmup_steps)
    )
