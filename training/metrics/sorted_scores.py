"""Sort any number of scores in bounded memory, for exact ranking metrics.

Sorted runs in a temporary file, four bytes per score, are merged block by block; blocks shrink as
the runs become many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .spill_file import SpillFile

Floats = npt.NDArray[np.float32]
RUN_LENGTH = 1 << 21
BLOCK_LENGTH = 1 << 16
MERGE_LENGTH = 1 << 18
_ITEM = np.dtype(np.float32).itemsize


class SortedScores:
    """Values added in any order and amount, read back in descending order.

    Args:
        folder: of the temporary file; None for the system's.
        run_length: values sorted at once.
        block_length: most values per run in memory while merging, ``MERGE_LENGTH`` in all.
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
        self._runs: list[tuple[int, int]] = []  # start and stop in the file, in values
        self._pending: list[Floats] = []
        self._pending_count = 0
        self._written = 0

    def __len__(self) -> int:
        return self._written + self._pending_count

    def add(self, values: Floats) -> None:
        """Copy a 1-D array of finite values.

        Raises:
            Mask2KANError: when the disk is full.
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
        self._runs.append((self._written, self._written + len(run)))
        self._written += len(run)
        self._pending, self._pending_count = [], 0

    def _sorted_pending(self) -> Floats:
        return np.sort(np.concatenate(self._pending))[::-1]

    def _readers(self) -> list[_Reader]:
        # All blocks together stay within a fixed memory
        share = MERGE_LENGTH // max(len(self._runs), 1)
        length = max(1, min(self._block_length, share))
        readers = [_Reader(self._file, run, length) for run in self._runs]
        if self._pending_count:
            readers.append(_Reader(self._file, (0, 0), length, self._sorted_pending()))
        return readers


class _Reader:
    """One run, read from its largest value on."""

    def __init__(
        self, file: SpillFile, run: tuple[int, int], length: int, block: Floats | None = None
    ) -> None:
        self._file, self._length = file, length
        self._next, self._stop = run
        self.block = np.empty(0, np.float32) if block is None else block
        self.refill()

    def refill(self) -> None:
        if not len(self.block) and self._next < self._stop:
            end = min(self._next + self._length, self._stop)
            self.block = self._file.read(self._next * _ITEM, end - self._next, np.float32)
            self._next = end

    @property
    def exhausted(self) -> bool:
        """Whether no values lie beyond the current block."""
        return self._next >= self._stop

    def take(self, cut: np.float32) -> Floats:
        """Remove and return the block's values of at least ``cut``."""
        count = len(self.block) - int(np.searchsorted(self.block[::-1], cut, side="left"))
        taken, self.block = self.block[:count], self.block[count:]
        self.refill()
        return taken


def merged_blocks(stores: Sequence[SortedScores]) -> Iterator[list[Floats]]:
    """Walk N stores together, from the largest value down.

    Yields:
        N descending arrays, some perhaps empty. Later values are never larger, but may be equal.
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
