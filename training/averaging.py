"""A moving average of a model's weights, which is what gets evaluated and saved.

Polyak averaging with an exponential window: smooths the noise of small batches and high learning
rates. The window grows with the step, so early weights are forgotten quickly.
"""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class WeightAverage(Generic[Model]):
    """An averaged copy of a model.

    Args:
        model: whose weights to follow.
        decay: share of the average kept per step, 0 for none (the average is the model).

    Attributes:
        model: the averaged copy, in evaluation mode.
        updates: steps seen.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10.0))
        average, current = self.model.state_dict(), model.state_dict()
        floating = [key for key, value in average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [average[key] for key in floating], [current[key] for key in floating], 1.0 - decay
        )
        for key in average.keys() - set(floating):
            average[key].copy_(current[key])

    @torch.no_grad()
    def restart(self, name: str, module: nn.Module) -> None:
        """Copy one submodule as it is: its weights changed their meaning (a new spline grid)."""
        self.model.get_submodule(name).load_state_dict(module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
