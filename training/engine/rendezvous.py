"""How the processes of a run find each other, also after some of them died.

torchrun's default rendezvous keeps one store for all its restarts, and a gloo or NCCL group made
from it may read the addresses of processes that are gone: it fails, or waits for ever. Here every
restart meets in a part of the store that is its own.
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
    """What accelerate needs to know to bring the processes together."""
    _register()
    return InitProcessGroupKwargs(init_method=f"{_SCHEME}://", timeout=LONGEST_WAIT)


@functools.cache
def _register() -> None:
    register_rendezvous_handler(_SCHEME, _meet)


def _meet(url: str, **options: Any) -> Iterator[tuple[Store, int, int]]:
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    for store, rank, size in rendezvous(url.replace(_SCHEME, "env", 1), **options):
        yield PrefixStore(f"attempt_{attempt}", store), rank, size
