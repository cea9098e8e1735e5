"""Keep the folder of uploads and results from filling the disk.

Gradio deletes what it has served once an hour; not what an upload that broke off has left, what an
earlier run of the app has left, nor anything before its hour is over.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

UNFINISHED_KEPT = 900.0  # of uploads that have not become files: sent in the meantime, or never
YOUNGEST_TAKEN = 120.0  # for the sake of space: what is younger may be on its way to its visitor
_EVERY = 60.0
_LEAST = 65_536  # bytes that a file counts for: disks also run out of files
_UNFINISHED = "tmp"  # what Gradio calls an upload until it is whole


class _File(NamedTuple):
    path: Path
    size: int
    age: float


class Janitor:
    """Sweeps a folder once a minute, in a thread of its own.

    Args:
        folder: of uploads and results, and of nothing else.
        most_bytes: what may lie there; beyond it the oldest files go first.
        keep_seconds: how long anything is kept.
        forget: called with what was removed, as text.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        keep_seconds: float,
        forget: Callable[[set[str]], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._keep_seconds = keep_seconds
        self._forget = forget

    def start(self) -> None:
        """Begin; it ends with the process."""
        threading.Thread(target=self._work, name="janitor", daemon=True).start()

    def sweep(self) -> set[str]:
        """Remove what is too old or too much; return it."""
        files = self._files()
        total = sum(file.size for file in files)
        removed: set[str] = set()
        for file in sorted(files, key=lambda file: -file.age):
            unfinished = file.path.parent == self._folder and file.path.name.startswith(_UNFINISHED)
            old = file.age > min(self._keep_seconds, UNFINISHED_KEPT if unfinished else math.inf)
            in_the_way = total > self._most_bytes and file.age > YOUNGEST_TAKEN
            if not (old or in_the_way):
                continue
            with contextlib.suppress(OSError):
                file.path.unlink()
                removed.add(str(file.path))
                total -= file.size
        self._remove_empty_folders()
        if removed:
            logger.info("Removed %d old files of uploads and results", len(removed))
            self._forget(removed)
        return removed

    def _work(self) -> None:
        while True:
            time.sleep(min(_EVERY, self._keep_seconds / 4))
            try:
                self.sweep()
            except Exception:  # the next sweep may do better; without any the disk fills
                logger.exception("Sweeping uploads failed")

    def _files(self) -> list[_File]:
        now, files = time.time(), []
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    status = path.lstat()
                    size = max(_LEAST, status.st_size)
                    files.append(_File(path, size, now - status.st_mtime))
        return files

    def _remove_empty_folders(self) -> None:
        now = time.time()
        for folder, _, _ in os.walk(self._folder, topdown=False):
            path = Path(folder)
            with contextlib.suppress(OSError):  # not empty
                if path != self._folder and now - path.stat().st_mtime > min(
                    self._keep_seconds, YOUNGEST_TAKEN
                ):
                    path.rmdir()
