"""How scores are read: thresholds, smallest region and smoothing, as the page's sliders say."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mask2kan.errors import ConfigError
from mask2kan.outputs.summary import Analysis

from .catalog import title
from .models import SIDES, Answer

LARGEST_SHARE = 0.1  # of the picture, for the smallest region and for smoothing
_LARGEST_REGION = 1 << 30  # pixels

_SETTINGS = ("left", "right", "smallest_region", "smoothing", "score", "models")
_LONGEST_SETTINGS = 2_000  # characters


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a score is read: what the page's sliders say. None leaves a value to the model.

    Attributes:
        thresholds: left and right.
        smallest_region: share of the picture's area.
        smoothing: standard deviation as a share of the picture's longer side.
        least: pixels of the smallest region, instead of its share.
    """

    thresholds: tuple[float | None, float | None] = (None, None)
    smallest_region: float | None = None
    smoothing: float | None = None
    least: int | None = None

    def analyses(self, answers: Sequence[Answer], score: str) -> list[Analysis]:
        """Read each side's answer; the smallest region is at least a pixel of the whole picture."""
        return [
            Analysis(
                answer.prediction,
                score,
                threshold,
                min_region_pixels=self._pixels(answer.prediction.size),
                sigma=self.smoothing,
            )
            for answer, threshold in zip(answers, self.thresholds, strict=True)
        ]

    def _pixels(self, size: tuple[int, int]) -> int | None:
        if self.smallest_region is None:
            return self.least
        return max(1, round(self.smallest_region * size[0] * size[1]))


def reading_of(question: Mapping[str, Any]) -> Reading:
    """Read and check thresholds, smallest region and smoothing; null or absent is the model's own.

    Args:
        question: ``thresholds`` (``left`` and ``right``), ``smallest_region`` and ``smoothing``
            (shares), ``least`` (pixels).

    Raises:
        ConfigError: naming what it cannot be.
    """
    limits = question.get("thresholds") or {}
    if not isinstance(limits, Mapping):
        raise ConfigError(
            f"The thresholds are {limits!r:.40}; they must be a number for each side."
        )
    left, right = (_number(limits.get(side), f"the {side} threshold") for side in SIDES)
    least = _number(question.get("least"), "the smallest region")
    if least is not None and not 0 <= least <= _LARGEST_REGION:
        raise ConfigError(f"The smallest region is {least} pixels; it must be 0 or more.")
    return Reading(
        (left, right),
        _share(question.get("smallest_region"), "the smallest region", "area"),
        _share(question.get("smoothing"), "the smoothing", "longer side"),
        None if least is None else int(least),
    )


def _share(value: Any, what: str, whole: str) -> float | None:
    share = _number(value, what)
    if share is not None and not 0 <= share <= LARGEST_SHARE:
        raise ConfigError(
            f"For {what} {share:g} was given; it must be a share of the picture's {whole}, from 0 "
            f"to {LARGEST_SHARE}."
        )
    return share


def _number(value: Any, what: str) -> float | None:
    if value is None:
        return None
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number of hundreds of digits
            number = float(value)
    if not math.isfinite(number):
        raise ConfigError(f"For {what} {value!r:.40} was given; it must be a finite number.")
    return number


def kept_settings(settings: object) -> dict[str, Any] | None:
    """Copy of a viewer's settings what ``chosen_reading`` looks at, and nothing else.

    Raises:
        ConfigError: as ``chosen_reading``; also where it is longer than names and numbers are.
    """
    chosen_reading(settings, ("", ""), "")
    if not isinstance(settings, Mapping):
        return None
    kept = {key: settings[key] for key in _SETTINGS if key in settings}
    if len(repr(kept)) > _LONGEST_SETTINGS:
        raise ConfigError(
            f"The settings have more than {_LONGEST_SETTINGS:,} characters; send those of the page."
        )
    return kept


def chosen_reading(settings: object, models: Sequence[str], score: str) -> Reading:
    """Read what the comparison's viewer says was chosen there, for other pictures.

    A threshold is one of a model's score: where the viewer shows another model or score than is
    asked for now, it says nothing.

    Args:
        settings: ``window.mask2kan.settings()``: ``left`` and ``right`` thresholds,
            ``smallest_region``, ``smoothing``, ``score`` and ``models``; None without a viewer.
        models: of the left and the right side.
        score: asked for now.

    Raises:
        ConfigError: as ``reading_of``.
    """
    if settings is None:
        return Reading()
    if not isinstance(settings, Mapping):
        raise ConfigError(f"The settings are {settings!r:.40}; they must be a table of values.")
    reading = reading_of({**settings, "thresholds": {side: settings.get(side) for side in SIDES}})
    shown = settings.get("models")
    shown = shown if isinstance(shown, Sequence) and len(shown) == len(SIDES) else (None, None)
    thresholds = tuple(
        threshold
        if settings.get("score") in (None, score) and name in (None, model, title(model or ""))
        else None
        for threshold, name, model in zip(reading.thresholds, shown, models, strict=True)
    )
    return dataclasses.replace(reading, thresholds=(thresholds[0], thresholds[1]))
