"""Any number of scores, in order, in a bounded amount of memory.

Exact ranking metrics need every score sorted. A hundred 2048x1024 images are 0.8 GB of float32
per score, so the values are kept as sorted runs in a temporary file and merged block by block when
they are read. Four bytes of disk per score; memory is one run plus the blocks, which shrink as the
runs become many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .spill_file import SpillFile

Floats = npt.NDArray[np.float32]
RUN_LENGTH = 1 << 21
BLOCK_LENGTH = 1 << 16
MERGE_LENGTH = 1 << 18
_ITEM = np.dtype(np.float32).itemsize


class _Run(NamedTuple):
    """A sorted piece of the temporary file, in values."""

    start: int
    stop: int


class SortedScores:
    """Values added in any order and amount, read back in descending order.

    Args:
        folder: where the temporary file lies; the system's temporary folder when None.
        run_length: values sorted at once, which bounds the memory.
        block_length: values of each run held while merging, at most; all blocks together are at
            most ``MERGE_LENGTH``.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        run_length: int = RUN_LENGTH,
        block_length: int = BLOCK_LENGTH,
    ) -> None:
        self._file = SpillFile(folder)
        self._run_length = run_length
        self._block_length = block_length
        self._runs: list[_Run] = []
        self._pending: list[Floats] = []
        self._pending_count = 0
        self._written = 0

    def __len__(self) -> int:
        """How many values were added."""
        return self._written + self._pending_count

    def add(self, values: Floats) -> None:
        """Take a 1-D array of finite values; it is copied.

        Raises:
            Mask2KANError: when the disk has no room for the temporary file.
        """
        for start in range(0, len(values), self._run_length):
            piece = values[start : start + self._run_length]
            if self._pending_count + len(piece) > self._run_length:
                self._spill()
            self._pending.append(piece.astype(np.float32, copy=True))
            self._pending_count += len(piece)

    def _spill(self) -> None:
        run = self._sorted_pending()
        self._file.append(run)
        self._runs.append(_Run(self._written, self._written + len(run)))
        self._written += len(run)
        self._pending, self._pending_count = [], 0

    def _sorted_pending(self) -> Floats:
        if not self._pending:
            return np.empty(0, np.float32)
        return np.sort(np.concatenate(self._pending))[::-1]

    def _read(self, start: int, stop: int) -> Floats:
        return self._file.read(start * _ITEM, stop - start, np.float32)

    def _readers(self) -> list[_Reader]:
        share = MERGE_LENGTH // max(len(self._runs), 1)
        length = max(1, min(self._block_length, share))
        readers = [_Reader(self, run, length) for run in self._runs]
        if self._pending_count:
            readers.append(_Reader(self, _Run(0, 0), length, self._sorted_pending()))
        return readers


class _Reader:
    """One run being read from its largest value on."""

    def __init__(
        self, store: SortedScores, run: _Run, length: int, block: Floats | None = None
    ) -> None:
        self._store, self._length = store, length
        self._next, self._stop = run
        self.block = np.empty(0, np.float32) if block is None else block
        self.refill()

    def refill(self) -> None:
        if not len(self.block) and self._next < self._stop:
            end = min(self._next + self._length, self._stop)
            self.block = self._store._read(self._next, end)
            self._next = end

    @property
    def exhausted(self) -> bool:
        """No values beyond the block at hand."""
        return self._next >= self._stop

    def take(self, cut: np.float32) -> Floats:
        """Remove and return the values of the block that are at least ``cut``."""
        count = len(self.block) - int(np.searchsorted(self.block[::-1], cut, side="left"))
        taken, self.block = self.block[:count], self.block[count:]
        self.refill()
        return taken


def merged_blocks(stores: Sequence[SortedScores]) -> Iterator[list[Floats]]:
    """Walk several stores together, from the largest value down.

    Args:
        stores: N collections.

    Yields:
        N arrays, each descending: all values of one span, one array per store (some may be
        empty). Every value of a later piece is at most as large as those of an earlier one;
        equal values may be split between two pieces.
    """
    readers = [store._readers() for store in stores]
    while True:
        every = [reader for group in readers for reader in group if len(reader.block)]
        if not every:
            return
        # What lies beyond a block is at most its last value, so down to the largest of those
        # lasts nothing unseen can come in between. A run wholly in memory sets no limit.
        open_ends = [reader.block[-1] for reader in every if not reader.exhausted]
        cut = max(open_ends) if open_ends else min(reader.block[-1] for reader in every)
        yield [
            np.sort(np.concatenate([np.empty(0, np.float32), *(r.take(cut) for r in group)]))[::-1]
            for group in readers
        ]
