"""How a model is run: call by call, compiled, or replayed as a CUDA graph.

Called plainly, a forward pass is a few thousand kernels, each handed to the card by Python. At
small picture sizes the card waits for them. ``torch.compile`` fuses many into few; a CUDA graph
hands over all of them at once, as recorded for one picture size. The forward pass is made for both:
it reads nothing back from the card and copies nothing to it.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

_GRAPHS_KEPT = 4
_WARM_UP_CALLS = 3


class Run(Protocol):
    """How a predictor has its model run."""

    def __call__(self, model: nn.Module, images: Tensor, *, mirrored: bool) -> Any:
        """(B, 3, H, W) images to the model's output; ``mirrored`` says which look it is."""


def run_plainly(model: nn.Module, images: Tensor, *, mirrored: bool) -> Any:
    """One call of the model."""
    return model(images, with_aux=False)


class CompiledRun:
    """Runs a model through ``torch.compile``: the first call per picture size takes long."""

    def __init__(self, **options: Any) -> None:
        """Keep options of ``torch.compile``, e.g. ``backend``."""
        self._options = {"fullgraph": True, "dynamic": False, **options}
        self._compiled: tuple[nn.Module, Any] | None = None

    def __call__(self, model: nn.Module, images: Tensor, *, mirrored: bool) -> Any:
        """As ``run_plainly``."""
        if self._compiled is None or self._compiled[0] is not model:
            self._compiled = model, torch.compile(model, **self._options)
        return self._compiled[1](images, with_aux=False)


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """A graph, where it reads and where it writes."""

    graph: Any
    images: Tensor
    output: Any


class GraphRun:
    """Records a CUDA graph per picture size and replays it; the last few sizes are kept.

    The recording holds the addresses of weights: they may be changed in place, and where they were
    moved a new graph is recorded. Every result is a copy, so it outlives the next call.

    Args:
        run: what is recorded.
    """

    def __init__(self, run: Run = run_plainly) -> None:
        self._run = run
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._pool: Any = None

    def __call__(self, model: nn.Module, images: Tensor, *, mirrored: bool) -> Any:
        """As ``run_plainly``."""
        key = (images.shape, images.stride(), images.dtype, _autocast_of(images), _addresses(model))
        if key not in self._recorded:
            while len(self._recorded) >= _GRAPHS_KEPT:
                self._recorded.popitem(last=False)
            self._recorded[key] = self._record(model, images)
        self._recorded.move_to_end(key)
        recorded = self._recorded[key]
        recorded.images.copy_(images)
        recorded.graph.replay()
        return {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in recorded.output.items()
        }

    def forget(self) -> None:
        """Let go of every graph and its memory."""
        self._recorded.clear()
        self._pool = None

    def _record(self, model: nn.Module, images: Tensor) -> _Recorded:
        static = images.clone()
        before = torch.is_autocast_cache_enabled()
        # A cached cast of a weight would live in the caller's memory, not in the graph's.
        torch.set_autocast_cache_enabled(False)
        try:
            stream = torch.cuda.Stream(images.device)
            stream.wait_stream(torch.cuda.current_stream(images.device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_CALLS):  # libraries set themselves up, kernels are compiled
                    self._run(model, static, mirrored=False)
            torch.cuda.current_stream(images.device).wait_stream(stream)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # other threads may go on using the card meanwhile
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self._run(model, static, mirrored=False)
        finally:
            torch.set_autocast_cache_enabled(before)
        return _Recorded(graph, static, output)


def _autocast_of(images: Tensor) -> torch.dtype | None:
    device = images.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _addresses(model: nn.Module) -> int:
    return hash(tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())))
