"""Everything a run needs to continue, whole on one process, however the model is spread.

Weights and optimizer are written under the parameters' names and unsharded, so a run may go on
with another number of processes, or with FSDP where it began without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from mask2kan.errors import CheckpointError

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def collect(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Weights and optimizer; all processes must call it together.

    Returns:
        ``model`` and ``optimizer``; complete on the main process.
    """
    model, optimizer_state = get_state_dict(module, optimizer, options=WHOLE)
    return {"model": model, "optimizer": optimizer_state}


def restore(
    module: nn.Module, optimizer: Optimizer, state: dict[str, Any], *, own_rates: bool = False
) -> None:
    """Continue from ``collect()``.

    Args:
        module: that learns.
        optimizer: of its parameters.
        state: the whole of it, on every process.
        own_rates: keep the optimizer's learning rates and decay, and restore its moments alone.
    """
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


@contextlib.contextmanager
def must_fit(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while a run's state is put back into one message.

    Raises:
        CheckpointError: when the state is of another model or version.
    """
    try:
        yield
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"Cannot continue from {folder / 'state.pt'}, which is of another model or version: "
            f"{reason} Choose another folder with --out to start anew."
        ) from error
