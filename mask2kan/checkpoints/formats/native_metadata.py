"""Check what our own files say about calibration and settings, which strangers may have written."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any, cast

from mask2kan.errors import CheckpointError, ConfigError, plain_line
from mask2kan.modeling.settings import InferenceSettings

MAX_CURVE = 1000  # points
_MOST_NESTED = 16


def read_settings(values: Any) -> InferenceSettings | None:
    """Read how a checkpoint's makers want it run; None where they do not say.

    Raises:
        CheckpointError: for settings that cannot be used.
    """
    if values is None:
        return None
    if not isinstance(values, dict):
        raise CheckpointError("Its settings are not an object.")
    try:
        return InferenceSettings.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"Its settings cannot be used: {error}") from error


def read_calibration(table: Any) -> dict[str, dict[str, Any]]:
    """Refuse all but finite ranges and thresholds: a map drawn on a broken range would mislead."""
    if not isinstance(table, dict) or not all(isinstance(row, dict) for row in table.values()):
        raise CheckpointError("Its calibration is not an object of objects.")
    for score, row in table.items():
        title = f"Its calibration of {score!r:.40} has"
        numbers = [row[key] for key in ("fpr05", "tpr95", "best_f1") if row.get(key) is not None]
        limits = row.get("range")
        if limits is not None:
            if not isinstance(limits, list) or len(limits) != 2:
                raise CheckpointError(f"{title} no range of two numbers.")
            numbers += limits
        if not all(map(_is_number, numbers)):
            raise CheckpointError(f"{title} values that are no numbers.")
        if row.get("curve") is not None and not _is_curve(row["curve"]):
            raise CheckpointError(
                f"{title} a curve that is not 1 to {MAX_CURVE} [false-alarm rate, threshold, "
                "recall]: rates rising in (0, 1], thresholds falling, recalls rising in [0, 1]."
            )
    return cast(dict[str, dict[str, Any]], plain_text(table))


def plain_text(value: Any, depth: int = 0) -> Any:
    """Put all text of a stranger's JSON on one line each."""
    if depth > _MOST_NESTED:
        raise CheckpointError("Its metadata is nested too deeply.")
    if isinstance(value, str):
        return plain_line(value)
    if isinstance(value, list):
        return [plain_text(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {plain_line(key): plain_text(item, depth + 1) for key, item in value.items()}
    return value


def _is_number(value: Any) -> bool:
    # Compared, not asked isfinite: JSON's integers may be too long for a float.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_curve(points: Any) -> bool:
    """Whether a false-alarm curve can be walked along: see the calibration command."""
    if not isinstance(points, list) or not 1 <= len(points) <= MAX_CURVE:
        return False
    if not all(isinstance(point, list) and len(point) == 3 for point in points):
        return False
    if not all(_is_number(value) for point in points for value in point):
        return False
    rates, thresholds, recalls = zip(*points, strict=True)
    return (
        all(0 < rate <= 1 for rate in rates)
        and all(0 <= recall <= 1 for recall in recalls)
        and all(before < after for before, after in pairwise(rates))
        and all(before > after for before, after in pairwise(thresholds))
        and all(before <= after for before, after in pairwise(recalls))
    )
