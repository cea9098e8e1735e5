"""Decode and compute, one job at a time for everybody: in this process, or in processes of its own.

A *job* is a function of a module. ``run`` hands it the models of the process it is done in, so that
predictions never travel: what comes back are plain values and names of files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mask2kan.checkpoints.hub import cache_state
from mask2kan.checkpoints.manifest import Address
from mask2kan.errors import CheckpointError, ImageError
from mask2kan.media.images import RGB
from mask2kan.runtime.memory import keep_freed_memory

from ..strings import MODELS, QUEUE
from ..work.limits import Limits, limits_of_environment
from ..work.processes import ProcessEndedError, TimeLimitError, Worker
from ..work.turns import Turns
from .batch_items import BatchItem, ItemReader
from .catalog import Catalog
from .hub_downloads import Fetches, Report
from .models import Models

_R = TypeVar("_R")


class ModelService:
    """Does jobs in this process, one after the other.

    Args:
        device: where models live; ``"auto"`` takes the accelerator if there is one.
        catalog: which models may be asked for; by default the environment's.
        limits: of time and memory, which only a process can be held to; likewise.

    Attributes:
        turns: the queue that every job waits in.
        models: of this process.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        catalog: Catalog | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.catalog = catalog or Catalog.of_environment()
        self.limits = limits or limits_of_environment()
        self.turns = Turns()
        self.models = Models(device=device, catalog=self.catalog)
        self._fetches = Fetches(self.limits.hub_bytes)

    def fetch(self, source: str, progress: Report | None = None) -> None:
        """Download a Hub checkpoint, or its newer version, while others go on computing.

        Args:
            source: a name that the catalog admits; only those of the Hub are fetched.
            progress: called with the share that is here and a sentence. What it raises passes
                through; the download ends when nobody waits for it any more.

        Raises:
            CheckpointError: for a repository that cannot be read, or a model that is not offered.
        """
        model = self.catalog.admit(source)
        if isinstance(model.place, Address):
            ours = self.catalog.proposes(model.name)
            self._fetches.fetch(model.place, progress, is_ours=ours)

    @contextlib.contextmanager
    def turn(
        self,
        sources: Sequence[str | None] = (),
        progress: Report | None = None,
        *,
        goes_on: bool = False,
        fetches: bool = True,
    ) -> Iterator[None]:
        """Take a turn: nobody else decodes or computes anything meanwhile.

        Pictures take much memory and time, so they are read within it, too: ``decode`` and ``run``
        are called within a turn.

        Args:
            sources: fetched before, where they are absent. In public only those that the app
                offers itself: whoever waits for a stranger's download keeps others from computing.
            progress: as in ``fetch``; told the place in the queue, too.
            goes_on: as in ``Turns.take``.
            fetches: False to refuse absent models instead.

        Raises:
            CheckpointError: as ``fetch``; also for an absent model that is not fetched here.
            BusyError: when too many wait already.
        """
        models = [self.catalog.admit(source) for source in sources]
        missing = []
        for model in dict.fromkeys(models):
            if isinstance(model.place, Address) and cache_state(model.place).state == "absent":
                if not fetches or (
                    not self.limits.fetch_any and not self.catalog.proposes(model.name)
                ):
                    raise CheckpointError(MODELS["absent"].format(name=repr(model.name)))
                missing.append(model.name)
        for name in missing:
            self.fetch(name, progress)
        for model in models:
            if isinstance(model.place, Address):
                self._fetches.use(model.place)
        if missing and progress is not None:
            progress(1.0, MODELS["loading"])
        with self.turns.take(progress, goes_on=goes_on):
            yield

    def run(self, job: Callable[..., _R], *args: Any) -> _R:
        """Do a job with the models.

        Args:
            job: a function whose first argument are the ``Models``.
            args: its others, picklable, as is what it returns.

        Raises:
            Mask2KANError: as the job does; also when it takes too long or its process ends.
        """
        return self.models.do(job, *args)

    def decode(self, job: Callable[..., _R], *args: Any) -> _R:
        """Do a job that reads a file from a stranger.

        Raises:
            ImageError: as the job does; also when it takes too long or too much memory.
        """
        return job(*args)

    def item_reader(self) -> ItemReader:
        """Make a reader of a batch's items, to be closed afterwards."""
        return ItemReader()

    def close(self) -> None:
        """End what the service has started."""


class ProcessService(ModelService):
    """Does the same in processes of its own, which can be ended: within limits of time and memory.

    The arguments are those of ``ModelService``.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        catalog: Catalog | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(device=device, catalog=catalog, limits=limits)
        self._computing = Worker(
            "models", _have_models, (device, self.catalog), memory=self.limits.job_bytes
        )
        self._decoding = Worker("decoder", memory=self.limits.decode_bytes)

    def run(self, job: Callable[..., _R], *args: Any) -> _R:
        """Do a job in the models' process; where that had to be ended, a new one is made ready."""
        try:
            done: _R = self._computing.run(self.limits.job_seconds, _with_models, job, args)
        except (TimeLimitError, ProcessEndedError):
            self._computing.start()
            raise
        return done

    def decode(self, job: Callable[..., _R], *args: Any) -> _R:
        """Do a job in the decoder's process."""
        return _decoded(self._decoding, self.limits, job, args)

    def item_reader(self) -> ItemReader:
        """Make a reader with a process of its own: a video stays open between its frames."""
        return _ItemsElsewhere(self.limits)

    def close(self) -> None:
        """End both processes."""
        self._computing.close()
        self._decoding.close()


class _ItemsElsewhere(ItemReader):
    """Reads a batch's items in a process of its own."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits
        self._worker = Worker("batch", memory=limits.decode_bytes)
        self._faults: dict[Path, str] = {}

    def read(self, item: BatchItem) -> tuple[float | None, RGB]:
        """Read the picture; a video that was too much is not tried again for its next frame."""
        if item.path in self._faults:
            raise ImageError(self._faults[item.path])
        try:
            return _decoded(self._worker, self._limits, _read_kept, (item,))
        except _TooMuchError as error:
            self._faults[item.path] = str(error)
            raise

    def close(self) -> None:
        """End the process."""
        self._worker.close()


class _TooMuchError(ImageError):
    """A file whose decoding was ended."""


def _decoded(worker: Worker, limits: Limits, job: Callable[..., _R], args: Sequence[Any]) -> _R:
    try:
        return worker.run(limits.decode_seconds, job, *args)
    except TimeLimitError as error:
        seconds = f"{limits.decode_seconds:g}"
        raise _TooMuchError(QUEUE["decode_too_long"].format(seconds=seconds)) from error
    except ProcessEndedError as error:
        raise _TooMuchError(QUEUE["decode_ended"]) from error


# What the processes have: each imports this module for itself.
_models: Models
_reader = ItemReader()


def _have_models(device: str, catalog: Catalog) -> None:
    global _models  # noqa: PLW0603 - of this process, which does nothing else
    keep_freed_memory()
    _models = Models(device=device, catalog=catalog)
    _models.load(catalog.pair() or ())


def _with_models(job: Callable[..., _R], args: Sequence[Any]) -> _R:
    return _models.do(job, *args)


def _read_kept(item: BatchItem) -> tuple[float | None, RGB]:
    return _reader.read(item)
