"""Tensors that stay in their file until they are read, one at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from mask2kan.checkpoints.files.opened import Extent
from mask2kan.errors import CheckpointError

# Of the numbers between a tensor's first and its last, to its own: reading a few that are spread
# over a large storage, many times, would take for ever.
_MOST_SPREAD = 64
_LITTLE = 1 << 20

LONGEST_KEY = 10_000  # of a tensor, in characters


class Stored(Protocol):
    """A dense tensor of numbers that is not in memory yet."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""

    def read(self) -> Tensor:
        """Read it, into memory of its own, on the CPU.

        Raises:
            CheckpointError: when it is damaged.
            OSError: when the file cannot be read.
        """


@dataclasses.dataclass(eq=False)
class StoredTensor:
    """A view of numbers in a file: ``offset`` and ``strides`` count numbers, as torch's do."""

    extent: Extent
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int = 0
    strides: tuple[int, ...] | None = None  # None: contiguous

    def require_stored(self) -> None:
        """Check that the file can hold it, without reading it.

        Raises:
            CheckpointError: a predicate for its name.
        """
        if self.dtype.is_complex:
            raise CheckpointError("is sparse, complex or quantized")
        held, count = self.extent.size // self.dtype.itemsize, math.prod(self.shape)
        if count > held:
            raise CheckpointError(f"claims shape {self.shape!s:.80}, more than is stored")
        span = self._span()
        if self.offset + span > held:
            raise CheckpointError("reaches beyond what is stored")
        if span > max(_MOST_SPREAD * count, _LITTLE):
            raise CheckpointError("is spread over too much of the file")

    def _span(self) -> int:
        """Count the numbers from its first to its last one."""
        if 0 in self.shape:
            return 0
        if self.strides is None:
            return math.prod(self.shape)
        steps = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in steps)

    def read(self) -> Tensor:
        """Read it, into memory of its own."""
        self.extent.require_whole()
        flat = torch.empty(self._span(), dtype=self.dtype)
        if len(flat):
            buffer: Any = flat.view(torch.uint8).numpy()
            self.extent.read_into(memoryview(buffer), self.offset * self.dtype.itemsize)
        if self.strides is None or 0 in self.shape:
            return flat.view(self.shape)
        view = flat.as_strided(self.shape, self.strides)
        # Several of its numbers may be one in the file
        return view if view.is_contiguous() else view.contiguous()


@dataclasses.dataclass(eq=False)
class Computed:
    """A tensor made of others when it is read."""

    parts: tuple[Stored, ...]
    shape: tuple[int, ...]
    compute: Callable[..., Tensor]

    def read(self) -> Tensor:
        """Read the parts and compute it."""
        return self.compute(*(part.read() for part in self.parts))


@dataclasses.dataclass(eq=False)
class InMemory:
    """A tensor of a model."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(self.value.shape)

    def read(self) -> Tensor:
        """Return it."""
        return self.value
