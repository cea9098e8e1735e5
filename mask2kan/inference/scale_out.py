"""Do the same work on many items: here, one after another, or spread with Ray Data.

A worker is made once per process (it loads models), called item by item, and writes files to a
folder that all machines share. ``run_here`` and ``run_actors`` yield the same outcomes, in another
order; sums are equal bit for bit where as many threads share them. Ray (the extra ``[ray]``) is
imported when used; a cluster's machines need this package installed.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from mask2kan.checks import require
from mask2kan.errors import BackendError, Mask2KANError

Item = TypeVar("Item")
Result = TypeVar("Result")

CORES_PER_ACTOR = 4  # beyond these, more actors are faster than more threads
MOST_BLOCKS = 2000  # Ray hands out items by blocks; more cost more than they help


@dataclasses.dataclass(frozen=True)
class Outcome(Generic[Item, Result]):  # a generic NamedTuple needs Python 3.11
    """An item with its result or its error."""

    item: Item
    result: Result | None
    error: Mask2KANError | OSError | None


def run_here(
    make_worker: Callable[[], Callable[[Item], Result]], items: Sequence[Item]
) -> Iterator[Outcome[Item, Result]]:
    """Work on the items one after another in this process."""
    if items:
        worker = make_worker()
        yield from (_outcome(worker, item) for item in items)


def run_actors(
    make_worker: Callable[[], Callable[[Item], Result]],
    items: Sequence[Item],
    *,
    workers: int | None = None,
    address: str | None = None,
) -> Iterator[Outcome[Item, Result]]:
    """Spread the items over Ray actors, in this process's folder; outcomes come as they are ready.

    Args:
        make_worker: called once per actor; it, the items and the results must be picklable.
        items: to work on.
        workers: number of actors; None for one per GPU, or one per four cores without GPUs.
        address: of a cluster (``auto`` for this machine's); None to start Ray here for this call.

    Raises:
        BackendError: when Ray is not installed or the cluster cannot be reached.
        ConfigError: for fewer than one worker.
        Mask2KANError: as ``make_worker``.
        OSError: as ``make_worker``, or when an actor's machine lacks the working folder.
    """
    if workers is not None:
        require("workers", workers, 1)
    if not items:
        return
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        _start(ray, address)
    try:
        yield from _spread(ray, make_worker, items, workers)
    finally:
        if own:
            ray.shutdown()


def _ray() -> Any:
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise BackendError(
            "Ray Data is not installed; pip install 'ray[data]' (the extra [ray]), or leave --ray "
            "out to work on one image after another."
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes are for Ray's developers
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _start(ray: Any, address: str | None) -> None:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        options["include_dashboard"] = False
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": path}}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = "here" if address is None else f"at {address}"
        raise BackendError(f"Can't reach or start Ray {where}: {error}") from error


def _spread(
    ray: Any,
    make_worker: Callable[[], Callable[[Item], Result]],
    items: Sequence[Item],
    workers: int | None,
) -> Iterator[Outcome[Item, Result]]:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    count = min(workers or gpus or max(1, cores // CORES_PER_ACTOR), len(items))
    threads = max(1, cores // count)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # there is one that counts images
    context.execution_options.preserve_order = False
    rows = [{"item": pickle.dumps(item)} for item in items]
    outcomes = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map(
        _Actor,
        fn_constructor_args=(make_worker, threads, str(Path.cwd())),
        compute=ray.data.ActorPoolStrategy(size=count),
        num_gpus=1 if gpus else 0,
        num_cpus=0 if gpus else threads,
    )
    failure: Exception | None = None
    for row in outcomes.iter_rows():
        outcome = pickle.loads(row["outcome"])  # of our own actors, not of strangers
        if isinstance(outcome, Exception):
            failure = outcome  # raised when Ray is done: other machines' actors may do their part
        else:
            yield outcome
    if failure is not None:
        raise failure


class _Actor:
    """A worker in its own process; if it cannot be made, it answers with the error."""

    def __init__(
        self, make_worker: Callable[[], Callable[[Any], Any]], threads: int, folder: str
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._failure: Exception | None = None
        try:
            os.chdir(folder)
            self._worker = make_worker()
        except (Mask2KANError, OSError) as error:
            self._failure = error

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        if self._failure is not None:
            return {"outcome": pickle.dumps(self._failure)}
        return {"outcome": pickle.dumps(_outcome(self._worker, pickle.loads(row["item"])))}


def _outcome(worker: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, worker(item), None)
    except (Mask2KANError, OSError) as error:
        return Outcome(item, None, error)
