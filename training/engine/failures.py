"""Say in words what ended a run from outside: too little memory, or the loss of a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.distributed import DistError

from mask2kan.errors import BackendError, OutOfMemoryError, one_line
from mask2kan.runtime.memory import is_out_of_memory

from ..config.train_config import TrainConfig

_LOADING = "DataLoader worker"  # how torch's message begins when a loading process is gone
_CONNECTION = ("gloo", "NCCL", "closed by peer", "reset by peer")
_RESUME = "what was saved is whole: go on with --resume"


@contextlib.contextmanager
def failures_explained(config: TrainConfig, device: str, processes: int) -> Iterator[None]:
    """Turn errors of torch that name no remedy into ours.

    Raises:
        OutOfMemoryError: where the device or a loading process had too little memory.
        BackendError: where another process of the run is gone.
    """
    try:
        yield
    except (RuntimeError, MemoryError, ConnectionError, EOFError) as error:
        words = _in_words(error, config, device, processes)
        if words is None:
            raise
        raise words from error


def _in_words(
    error: Exception, config: TrainConfig, device: str, processes: int
) -> OutOfMemoryError | BackendError | None:
    if is_out_of_memory(error):
        crops = config.batch_size // processes
        height, width = config.augmentation.crop
        return OutOfMemoryError(
            f"Out of memory on {device}, with {crops} crops of {width}x{height} a process; "
            f"{_RESUME} and --mixed-precision bf16 or more processes, or start anew (--out) with "
            f"--set batch_size={max(1, config.batch_size // 2)} or a smaller augmentation.crop."
        )
    # A batch may be cut off on its way before torch sees that its process is gone.
    if str(error).startswith(_LOADING) or isinstance(error, (ConnectionError, EOFError)):
        return OutOfMemoryError(
            f"A process that loads images ended, mostly for want of memory ({one_line(error)}); "
            f"{_RESUME} and fewer of them (--set workers={config.workers // 2})."
        )
    if isinstance(error, DistError) or (
        processes > 1 and any(word in str(error) for word in _CONNECTION)
    ):
        return BackendError(
            f"Another process of the run is gone ({one_line(error)}); its own message says why. "
            f"Then {_RESUME}; torchrun does so by itself with --max-restarts."
        )
    return None
