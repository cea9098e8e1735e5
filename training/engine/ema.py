"""The moving average of a model's weights, which is evaluated and saved.

Polyak averaging with an exponential window that grows with the step. PyTorch's ``AveragedModel``
cannot copy a model that FSDP shards.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..models.pair import Trained
from .sharding import share, share_of, whole


class WeightAverage:
    """An averaged copy of a model, made before anything wraps it.

    Args:
        model: to follow.
        decay: share of the average kept per step; 0 for none.

    Attributes:
        model: whole and in evaluation mode; up to date after ``settle``.
    """

    def __init__(self, model: Trained, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        # Where nothing is sharded these are the copy's own tensors, so ``settle`` is free.
        self._values = self.model.state_dict()
        frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
        changing = {key: value for key, value in self._values.items() if key not in frozen}
        self._averaged = [key for key, value in changing.items() if value.is_floating_point()]
        self._copied = [key for key, value in changing.items() if not value.is_floating_point()]

    @torch.no_grad()
    def follow(self, model: Trained) -> None:
        """Keep only this process's share of the wrapped ``model``, where it is sharded."""
        for key, live in model.state_dict().items():
            part = share_of(self._values[key], live)
            if part is not self._values[key]:
                self._values[key] = part.clone()

    @torch.no_grad()
    def update(self, model: Trained) -> None:
        """Move the average towards the model."""
        self.updates += 1
        if not self.decay:
            return
        decay = min(self.decay, self.updates / (self.updates + 10.0))
        current = {key: share(value) for key, value in model.state_dict().items()}
        get_ema_multi_avg_fn(decay)(
            [self._values[key] for key in self._averaged],
            [current[key] for key in self._averaged],
            self.updates,
        )
        for key in self._copied:
            self._values[key].copy_(current[key])

    @torch.no_grad()
    def restart(self, name: str, model: Trained) -> None:
        """Copy one submodule whose weights changed their meaning (a new spline grid)."""
        for key, value in model.state_dict().items():
            if key.startswith(f"{name}."):
                self._values[key].copy_(share(value))

    @torch.no_grad()
    def settle(self, model: Trained) -> None:
        """Bring ``self.model`` up to date with the wrapped ``model``; a collective."""
        target = self.model.state_dict()
        for key, live in model.state_dict().items():
            value = whole(self._values[key] if self.decay else share(live), live)
            if value is not target[key]:
                target[key].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue, after ``settle``."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``, before ``follow``."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
