"""Run a model call by call, compiled, or replayed as CUDA graphs.

Called plainly, Python hands a few thousand kernels to the GPU, which waits for them at small image
sizes. ``torch.compile`` fuses them; a CUDA graph hands over all at once, as recorded for one size.
The forward pass suits both: it neither reads from the GPU nor copies to it.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from mask2kan.modeling.pixel_decoder import Features
from mask2kan.modeling.transformer_decoder import DecoderOutput

StageTimer = Callable[[str], contextlib.AbstractContextManager[None]]  # measures a named part

# Trunk and decoder of four image sizes; each holds its inputs and outputs in GPU memory.
_GRAPHS_KEPT = 8
_WARM_UP_CALLS = 3  # as in PyTorch's own examples


def untimed(name: str) -> contextlib.AbstractContextManager[None]:
    """Measure nothing."""
    return contextlib.nullcontext()


class Run(Protocol):
    """A way to run a model."""

    kind: str  # on equal weights and device, runs of one kind agree bit for bit

    def trunk(self, images: Tensor, stage: StageTimer = untimed) -> Features:
        """Turn (B, 3, H, W) images into features.

        ``stage(name)`` is entered around each part that can be measured by itself. Compiled code
        and graphs have no such parts and never call it.
        """

    def decode(self, features: Features) -> DecoderOutput:
        """Turn features into the last layer's output."""

    def release(self) -> None:
        """Free memory that only makes the next call faster."""


class Sharing(Protocol):
    """A source of features that other predictors may have computed; see ``Comparison``."""

    reused: tuple[str, ...]  # parts of the trunk that the last call did not have to compute

    def __call__(self, run: Run, images: Tensor, view_key: Hashable, stage: StageTimer) -> Features:
        """Return ``run.trunk(images, stage)``, now or from before; equal keys mean equal images."""


class PlainRun:
    """Call the model."""

    kind = "plain"

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    def trunk(self, images: Tensor, stage: StageTimer = untimed) -> Features:
        """See ``Run``; the parts are ``backbone`` and ``pixel_decoder``."""
        with stage("backbone"):
            maps = self.model.backbone_maps(images)
        with stage("pixel_decoder"):
            return cast(Features, self.model.pixel_decoder(maps))

    def decode(self, features: Features) -> DecoderOutput:
        """See ``Run``."""
        return cast(DecoderOutput, self.model.decode(features, with_aux=False))

    def release(self) -> None:
        """Do nothing: no memory is kept between calls."""


class CompiledRun(PlainRun):
    """Run a model through ``torch.compile``; slow at the first call per image size."""

    kind = "compiled"

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model)
        options = {"fullgraph": True, "dynamic": False, **options}
        self._trunk = torch.compile(self.model.trunk, **options)
        self._decode = torch.compile(self.model.decode, **options)

    def trunk(self, images: Tensor, stage: StageTimer = untimed) -> Features:
        """See ``Run``; fused code has no parts."""
        return cast(Features, self._trunk(images))

    def decode(self, features: Features) -> DecoderOutput:
        """See ``Run``."""
        return cast(DecoderOutput, self._decode(features, with_aux=False))


class _Recorded(NamedTuple):
    """A graph, and the tensors it reads and writes."""

    graph: Any
    inputs: Any
    output: Any


class GraphRun:
    """Record a run as CUDA graphs per image size, keep the last few, and replay them.

    A graph reads weights at fixed addresses: changes in place are seen, and where a weight has
    moved a new graph is recorded. Call it in inference mode and from one thread at a time, as
    ``Predictor`` does.
    """

    def __init__(self, run: PlainRun) -> None:
        self._run = run
        self.kind = f"graph of {run.kind}"
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._pool: Any = None

    def trunk(self, images: Tensor, stage: StageTimer = untimed) -> Features:
        """See ``Run``; a graph has no parts."""
        return cast(Features, self._replay(self._run.trunk, images))

    def decode(self, features: Features) -> DecoderOutput:
        """See ``Run``."""
        return cast(DecoderOutput, self._replay(self._run.decode, features))

    def release(self) -> None:
        """Free every graph and its memory."""
        self._recorded.clear()
        self._pool = None

    def _replay(self, function: Callable[[Any], Any], inputs: Any) -> Any:
        layout = tuple((part.shape, part.stride(), part.dtype) for part in _tensors(inputs))
        device = next(_tensors(inputs)).device.type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        key = (function.__name__, layout, autocast, _addresses(self._run.model))
        if key not in self._recorded:
            while len(self._recorded) >= _GRAPHS_KEPT:
                self._recorded.popitem(last=False)
            self._recorded[key] = self._record(function, inputs)
        self._recorded.move_to_end(key)
        recorded = self._recorded[key]
        for static, tensor in zip(_tensors(recorded.inputs), _tensors(inputs), strict=True):
            static.copy_(tensor)
        recorded.graph.replay()
        return _cloned(recorded.output)  # the next replay overwrites it

    def _record(self, function: Callable[[Any], Any], inputs: Any) -> _Recorded:
        static = _cloned(inputs)
        device = next(_tensors(static)).device
        before = torch.is_autocast_cache_enabled()
        # A cached cast of a weight would be freed with the caller's autocast block, and the graph
        # would go on reading its memory.
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
            # Captured on a stream of the model's device; other threads may use the GPU meanwhile.
            mode = "thread_local"
            with torch.cuda.graph(graph, self._pool, stream, capture_error_mode=mode):
                output = function(static)
        finally:
            torch.set_autocast_cache_enabled(before)
        return _Recorded(graph, static, output)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tensor, of features or of a decoder's output, in a fixed order."""
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


def _addresses(model: nn.Module) -> int:
    return hash(tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())))
