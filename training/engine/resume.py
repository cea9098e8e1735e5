"""A run's model and optimizer state, whole on one process.

Stored unsharded under the parameters' names, so a run may continue on another number of processes,
with or without FSDP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from mask2kan.errors import CheckpointError

from ..config.train_config import TrainConfig
from ..data.label_space import require_classes

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def collect(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Return ``model`` and ``optimizer``, complete on the main process; a collective."""
    model, optimizer_state = get_state_dict(module, optimizer, options=WHOLE)
    return {"model": model, "optimizer": optimizer_state}


def restore(
    module: nn.Module, optimizer: Optimizer, state: dict[str, Any], *, own_rates: bool = False
) -> None:
    """Continue from ``collect()``, whole on every process.

    ``own_rates`` keeps the optimizer's learning rates and decay and restores its moments alone.
    """
    # set_state_dict overwrites the groups' options; their parameters stay their own
    groups = [{**group, "params": None} for group in optimizer.param_groups]
    set_state_dict(
        module,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=WHOLE,
    )
    if own_rates:
        for group, own in zip(optimizer.param_groups, groups, strict=True):
            group.update(own | {"params": group["params"]})


def tensors_in(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a nested state, with the keys that lead to it."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, (dict, list, tuple)):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from tensors_in(value, f"{name} {key}".lstrip())


def same_classes(state: dict[str, Any], class_names: tuple[str, ...], config: TrainConfig) -> None:
    """Refuse to go on with data of other classes.

    Raises:
        ConfigError: naming what differs.
    """
    before = tuple(state.get("class_names", class_names))  # of states of 0.1 none are known
    if before == class_names:
        return
    advice = "Give the run's own data with --data, or start anew in another folder (--out)."
    require_classes(
        before,
        class_names,
        holder="the run so far",
        data=config.data,
        advice=advice,
        finer=False,
    )


@contextlib.contextmanager
def must_fit(folder: Path) -> Iterator[None]:
    """Name the run whose state cannot be restored.

    Raises:
        CheckpointError: when it is of another model or version.
    """
    try:
        yield
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"Cannot continue from {folder / 'state.pt'}, which is of another model or version: "
            f"{reason} Choose another folder with --out to start anew."
        ) from error
