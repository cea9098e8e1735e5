"""How the processes of a run find each other, also after some of them died.

torchrun keeps one store for all restarts; a process group made from it may read addresses of dead
processes and fail or hang. Here each restart has its own part.
"""

from __future__ import annotations

import datetime
import functools
import os
from collections.abc import Iterator
from typing import Any

from accelerate import InitProcessGroupKwargs
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

LONGEST_WAIT = datetime.timedelta(hours=1)  # of processes while the main one validates
_SCHEME = "mask2kan-attempt"


def meeting() -> InitProcessGroupKwargs:
    """Return accelerate's arguments for the rendezvous."""
    _register()
    return InitProcessGroupKwargs(init_method=f"{_SCHEME}://", timeout=LONGEST_WAIT)


@functools.cache
def _register() -> None:
    register_rendezvous_handler(_SCHEME, _meet)


def _meet(url: str, **options: Any) -> Iterator[tuple[Store, int, int]]:
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    for store, rank, size in rendezvous(url.replace(_SCHEME, "env", 1), **options):
        yield PrefixStore(f"attempt_{attempt}", store), rank, size
