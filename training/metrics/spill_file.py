"""An unnamed temporary file of arrays, removed by the system even when the program is killed."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mask2kan.errors import WriteError
from mask2kan.media.files import is_full


class SpillFile:
    """Arrays on disk, ``size`` bytes so far, in the system's temporary folder by default."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as self
        weakref.finalize(self, self._file.close)
        self._folder = folder or tempfile.gettempdir()
        self.size = 0

    def append(self, values: npt.NDArray[Any]) -> int:
        """Write an array and return the byte it starts at.

        Raises:
            WriteError: when the disk is full.
        """
        start = self.size
        try:
            self._file.seek(start)
            self._file.write(np.ascontiguousarray(values).data)
            self._file.flush()
        except OSError as error:
            if not is_full(error):
                raise
            raise WriteError(
                f"No room for {values.nbytes} more bytes of scores in {self._folder} after "
                f"{start}; free some, or set TMPDIR to a larger disk."
            ) from error
        self.size += values.nbytes
        return start

    def read(self, start: int, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Read ``count`` values from byte ``start`` on; the array is read-only."""
        self._file.seek(start)
        return np.frombuffer(self._file.read(count * np.dtype(dtype).itemsize), dtype)
