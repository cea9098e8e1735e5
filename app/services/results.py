"""What a result on somebody's page was made of, so that a later question about it can be answered.

A page holds its result's number, which nobody can guess; asking with it brings back the picture and
the models. What they computed is kept by the service while it has room, and computed again after.
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
        score: the anomaly score.
        truth: the raw value of the ground truth component, or of the example's; None without one.
        white_is_anomaly: what 255 means in it.
    """

    picture: Mapping[str, Any] | None
    sources: tuple[str, ...]
    score: str
    truth: Mapping[str, Any] | None = None
    white_is_anomaly: bool = False


class Runs:
    """The latest runs by number; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: LRUCache[object, Run] = LRUCache(_KEPT)

    def add(self, number: str, run: Run) -> None:
        """Remember a run; what nobody asked about for longest goes when there are too many."""
        with self._lock:
            self._runs[number] = run

    def find(self, number: object) -> Run:
        """The run of a number.

        Raises:
            ConfigError: when it is not known (any more).
        """
        with self._lock:
            run = self._runs.get(number) if isinstance(number, str) else None
        if run is None:
            raise ConfigError(
                "This result is no longer kept on the server: press Compare to compute it again."
            )
        return run
