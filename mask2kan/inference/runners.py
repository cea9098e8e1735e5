"""How a model is run: call by call, compiled, or replayed as CUDA graphs.

Called plainly, a forward pass is a few thousand kernels, each handed to the GPU by Python. At small
image sizes the GPU waits for them. ``torch.compile`` fuses many into few; a CUDA graph hands over
all of them at once, as recorded for one image size. The forward pass is made for both: it reads
nothing back from the GPU and copies nothing to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mask2kan.modeling.pixel_decoder import Features
from mask2kan.modeling.transformer_decoder import DecoderOutput

Stage = Callable[[str], contextlib.AbstractContextManager[None]]

_GRAPHS_KEPT = 8  # two per image size
_WARM_UP_CALLS = 3


def untimed(name: str) -> contextlib.AbstractContextManager[None]:
    """A stage that nobody measures."""
    return contextlib.nullcontext()


class Run(Protocol):
    """How a predictor has its model run."""

    kind: str
    """Runs of one kind give equal results, bit for bit."""

    def trunk(self, images: Tensor, stage: Stage = untimed) -> Features:
        """(B, 3, H, W) images to features; ``stage`` is entered around each part, where it ends."""

    def decode(self, features: Features) -> DecoderOutput:
        """Features to the last layer's output."""

    def release(self) -> None:
        """Let go of memory that only makes the next call faster."""


class Sharing(Protocol):
    """Where a predictor gets features from that others may have computed; see ``Comparison``."""

    taken: tuple[str, ...]
    """The parts of the trunk that were taken, not computed, in the last call."""

    def __call__(self, run: Run, images: Tensor, look: Hashable, stage: Stage) -> Features:
        """``run.trunk(images, stage)``; equal looks mean equal images."""


class PlainRun:
    """Call the model."""

    kind = "plain"

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    def trunk(self, images: Tensor, stage: Stage = untimed) -> Features:
        """See ``Run``; the parts are ``backbone`` and ``pixel_decoder``."""
        with stage("backbone"):
            maps = self.model.backbone_maps(images)
        with stage("pixel_decoder"):
            features: Features = self.model.pixel_decoder(maps)
        return features

    def decode(self, features: Features) -> DecoderOutput:
        """See ``Run``."""
        output: DecoderOutput = self.model.decode(features, with_aux=False)
        return output

    def release(self) -> None:
        """Nothing is kept."""


class CompiledRun(PlainRun):
    """Run a model through ``torch.compile``: the first call per image size takes long.

    Args:
        model: to run.
        options: of ``torch.compile``, e.g. ``backend``.
    """

    kind = "compiled"

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model)
        options = {"fullgraph": True, "dynamic": False, **options}
        self._trunk = torch.compile(self.model.trunk, **options)
        self._decode = torch.compile(self.model.decode, **options)

    def trunk(self, images: Tensor, stage: Stage = untimed) -> Features:
        """See ``Run``; parts have no ends in fused code."""
        features: Features = self._trunk(images)
        return features

    def decode(self, features: Features) -> DecoderOutput:
        """See ``Run``."""
        output: DecoderOutput = self._decode(features, with_aux=False)
        return output


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """A graph, where it reads and where it writes."""

    graph: Any
    inputs: Any
    output: Any


class GraphRun:
    """Record CUDA graphs per image size and replay them; those of the last few sizes are kept.

    A recording holds the addresses of weights: they may be changed in place, and where they were
    moved a new graph is recorded. Every result is a copy, so it outlives the next call.

    Args:
        run: what is recorded.
    """

    def __init__(self, run: PlainRun) -> None:
        self._run = run
        self.kind = f"graph of {run.kind}"
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._pool: Any = None

    def trunk(self, images: Tensor, stage: Stage = untimed) -> Features:
        """See ``Run``; parts have no ends in a graph."""
        features: Features = self._replay(self._run.trunk, images)
        return features

    def decode(self, features: Features) -> DecoderOutput:
        """See ``Run``."""
        output: DecoderOutput = self._replay(self._run.decode, features)
        return output

    def release(self) -> None:
        """Let go of every graph and its memory."""
        self._recorded.clear()
        self._pool = None

    def _replay(self, function: Callable[[Any], Any], inputs: Any) -> Any:
        layout = tuple((one.shape, one.stride(), one.dtype) for one in _tensors(inputs))
        autocast = _autocast_of(next(_tensors(inputs)))
        key = (function.__name__, layout, autocast, _addresses(self._run.model))
        if key not in self._recorded:
            while len(self._recorded) >= _GRAPHS_KEPT:
                self._recorded.popitem(last=False)
            self._recorded[key] = self._record(function, inputs)
        self._recorded.move_to_end(key)
        recorded = self._recorded[key]
        for static, given in zip(_tensors(recorded.inputs), _tensors(inputs), strict=True):
            static.copy_(given)
        recorded.graph.replay()
        return _cloned(recorded.output)

    def _record(self, function: Callable[[Any], Any], inputs: Any) -> _Recorded:
        static = _cloned(inputs)
        device = next(_tensors(static)).device
        before = torch.is_autocast_cache_enabled()
        # A cached cast of a weight would live in the caller's memory, not in the graph's.
        torch.set_autocast_cache_enabled(False)
        try:
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_CALLS):  # libraries set themselves up, kernels are compiled
                    function(static)
            torch.cuda.current_stream(device).wait_stream(stream)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # other threads may go on using the GPU meanwhile
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = function(static)
        finally:
            torch.set_autocast_cache_enabled(before)
        return _Recorded(graph, static, output)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a tensor, of features or of a decoder's output, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    else:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _cloned(part) for name, part in value.items()}
    parts = [_cloned(part) for part in value]
    return Features(*parts) if isinstance(value, Features) else parts


def _autocast_of(images: Tensor) -> torch.dtype | None:
    device = images.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _addresses(model: nn.Module) -> int:
    return hash(tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())))
