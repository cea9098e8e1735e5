"""Remember what results were made of, so that later questions about them can be answered.

A page holds its result's number, which nobody can guess; the service keeps what was computed while
it has room, and computes it again after.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

from cachetools import LRUCache

from mask2kan.errors import ConfigError

_KEPT = 1000


@dataclasses.dataclass(frozen=True)
class Run:
    """One comparison.

    Attributes:
        picture: the raw value of the picture component; None where it is empty.
        sources: the models, left first.
        truth: the raw value of the ground truth component, or of the example's; None without one.
        white_is_anomaly: what 255 means in it.
    """

    picture: Mapping[str, Any] | None
    sources: tuple[str, ...]
    score: str
    truth: Mapping[str, Any] | None = None
    white_is_anomaly: bool = False


class Runs:
    """The latest runs by number, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: LRUCache[object, Run] = LRUCache(_KEPT)
        self._lasting: dict[object, Run] = {}

    def add(self, number: str, run: Run) -> None:
        """Remember a run; the least recently used goes when there are too many."""
        with self._lock:
            self._runs[number] = run

    def keep(self, number: str, run: Run) -> None:
        """Remember a run as long as the app lives: one that every visitor has."""
        with self._lock:
            self._lasting[number] = run

    def find(self, number: object) -> Run:
        """Find the run of a number.

        Raises:
            ConfigError: when it is not known (any more).
        """
        with self._lock:
            known = isinstance(number, str)
            run = self._lasting.get(number) or self._runs.get(number) if known else None
        if run is None:
            raise ConfigError(
                "This result is no longer kept on the server: reload the page to compute it again."
            )
        return run
