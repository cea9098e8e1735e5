"""The rows of a batch: the numbers of each picture, their orders and their CSV file."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mask2kan.checks import require_choice
from mask2kan.outputs.summary import Analysis

from .catalog import title
from .models import SIDES, Answer

_NO_SCORE = float("-inf")
# Formulas, also in full width and after spaces; tabs and line ends, after which one may begin.
_RUN_BY_SPREADSHEETS = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")


@dataclasses.dataclass(frozen=True)
class ModelNumbers:
    """One model's results on a picture.

    Attributes:
        anomalous_share: of the picture, 0 to 1; every pixel at the threshold.
        regions_share: of the picture, 0 to 1; of the regions alone.
        regions: how many that are large enough.
        largest_region: in pixels; 0 where there is none.
        percentile99: of the scores.
        milliseconds: decoded picture to maps.
        position: of the highest score on the score's range: 0 is its lower end, 1 its upper one.
    """

    title: str
    anomalous_share: float
    regions_share: float
    regions: int
    largest_region: int
    highest_score: float
    percentile99: float
    threshold: float
    milliseconds: float
    position: float


@dataclasses.dataclass(frozen=True)
class BatchRow:
    """The results of one picture.

    Attributes:
        number: its place in the batch, from 1.
        seconds: into the video; None for a picture.
        size: (height, width); None where it could not be read.
        models: numbers of the left and the right model; empty after an error.
        error: empty where all went well.
        thumbnail: both models' regions outlined on the picture; None where there are none or none
            was asked for.
        heat: both models' scores inside their regions; likewise.
    """

    number: int
    name: str
    seconds: float | None = None
    size: tuple[int, int] | None = None
    models: tuple[ModelNumbers, ...] = ()
    error: str = ""
    thumbnail: Path | None = None
    heat: Path | None = None

    @property
    def label(self) -> str:
        """Its name, and for a frame its time."""
        return self.name if self.seconds is None else f"{self.name} · {self.seconds:.1f} s"


# Sort keys of rows with numbers of both models; the largest comes first.
ORDERS: dict[str, Callable[[BatchRow], float]] = {
    "anomalous area": lambda row: max(model.regions_share for model in row.models),
    "highest score": lambda row: max(model.position for model in row.models),
    "models disagree": lambda row: abs(row.models[0].regions_share - row.models[1].regions_share),
    "order given": lambda row: -row.number,
}


def check_order(order: str) -> None:
    """Raise ``ConfigError`` for an order that does not exist."""
    require_choice("order", order, ORDERS)


def ordered(rows: Iterable[BatchRow], order: str) -> list[BatchRow]:
    """Sort the rows by one of ``ORDERS``; except as given, those without numbers come last.

    Raises:
        ConfigError: for an unknown order.
    """
    check_order(order)
    value = ORDERS[order]
    if order == "order given":
        return sorted(rows, key=value, reverse=True)
    return sorted(rows, key=lambda row: value(row) if row.models else _NO_SCORE, reverse=True)


def numbers_of(answer: Answer, analysis: Analysis) -> ModelNumbers:
    """Summarise one model's results in a row of numbers."""
    highest = float(analysis.values.max())
    low, high = analysis.range
    return ModelNumbers(
        title=title(answer.source),
        anomalous_share=float(analysis.mask.mean()),
        regions_share=float(analysis.outlined.mean()),
        regions=len(analysis.regions),
        largest_region=analysis.regions[0].pixels if analysis.regions else 0,
        highest_score=highest,
        percentile99=float(np.percentile(analysis.values, 99)),
        threshold=analysis.threshold,
        milliseconds=round(answer.milliseconds, 2),
        position=(highest - low) / (high - low) if high > low else 0.0,
    )


def record(row: BatchRow) -> dict[str, Any]:
    """Turn a row into plain values for the CSV file and the endpoint; None where it is unknown."""
    height, width = row.size or (None, None)
    seconds = None if row.seconds is None else round(row.seconds, 3)
    values = {"name": row.name, "seconds": seconds, "width": width, "height": height}
    columns = [field.name for field in dataclasses.fields(ModelNumbers) if field.name != "position"]
    for index, side in enumerate(SIDES):
        for column in columns:
            value = getattr(row.models[index], column) if row.models else None
            values[f"{side}_{'model' if column == 'title' else column}"] = value
    return {**values, "error": row.error}


def write_csv(rows: Iterable[BatchRow]) -> bytes:
    """Write a CSV file with a header, in UTF-8; unknown values are left empty.

    Text that a spreadsheet would run begins with an apostrophe, as one types it there.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(record(BatchRow(0, ""))))
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _inert(value) for key, value in record(row).items()})
    return text.getvalue().encode()


def _inert(value: Any) -> Any:
    runs = isinstance(value, str) and _RUN_BY_SPREADSHEETS.match(value)
    return f"'{value}" if runs else value
