"""Find results by file name anywhere under the given folders.

``evaluation.json`` (Cityscapes)::

    {"recipe": "thesis_swin_t_kan", "data": "cityscapes", "split": "val", "pictures": 500,
     "iou": 0.80, "iiou": 0.63, "category_iou": 0.91, "category_iiou": 0.81, ...}

``benchmark.json``, of the scores only msp, the thesis's::

    {"recipe": "thesis_swin_t_kan", "protocol": "exact", "sets": {"road_anomaly": {
     "pictures": 60, "scores": {"msp": {"ap": 0.43, "auroc": 0.83, "fpr95": 0.70}, ...}}, ...}}

``ablation.json`` of ``training.ablation``. Null was not measured. Several files of one recipe are
several seeds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mask2kan.checks import require, require_choice
from mask2kan.errors import ConfigError
from mask2kan.media.files import read_record

from ...data.registry import ANOMALY_SETS as KNOWN_SETS
from ..kan_ablation.experiments import EXPERIMENTS
from ..published import ANOMALY_METRICS, ANOMALY_SETS, BACKBONES, CITYSCAPES_METRICS, HEADS

THESIS_SCORE = "msp"
_RECIPE = re.compile(rf"thesis_({'|'.join(BACKBONES)})_({'|'.join(HEADS)})")
_SUMMARY_FIGURES = ("mean", "std", "difference", "difference_low", "difference_high", "p", "p_holm")

Model = tuple[str, str]  # backbone and head


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One model on one data set.

    Attributes:
        data: ``cityscapes`` or a set of ``ANOMALY_SETS``.
        images: how many were measured.
        protocol: of the anomaly metrics; ``exact`` on Cityscapes.
        figures: by metric; a share, or None where it was not measured.
    """

    model: Model
    data: str
    images: int
    protocol: str
    figures: Mapping[str, float | None]


@dataclasses.dataclass
class Results:
    """All results of some folders.

    Attributes:
        ablations: contents of ``ablation.json`` by path.
        unused: files that belong to no table, and why.
    """

    measurements: list[Measurement] = dataclasses.field(default_factory=list)
    ablations: dict[Path, dict[str, Any]] = dataclasses.field(default_factory=dict)
    unused: dict[Path, str] = dataclasses.field(default_factory=dict)


def find(folders: Iterable[Path]) -> Results:
    """Read every result under some folders; a file that two of them hold counts once.

    Raises:
        ConfigError: for an absent folder, or a file that is damaged or of another form.
    """
    readers = {
        "evaluation.json": _read_evaluation,
        "benchmark.json": _read_benchmark,
        "ablation.json": _read_ablation,
    }
    paths: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder; pass folders that hold runs.")
        for name in readers:
            paths |= {path.resolve(): path for path in sorted(folder.rglob(name))}
    results = Results()
    for path in sorted(paths.values()):
        fields = _Fields(read_record(path))
        try:
            readers[path.name](path, fields, results)
        except ConfigError as error:
            raise ConfigError(
                f"{path}: {error} Write it again with this version's commands, or move it away."
            ) from error
    return results


class _Fields:
    """A JSON object and where in the file it stands, for messages."""

    def __init__(self, content: Any, place: str = "") -> None:
        if not isinstance(content, dict):
            raise ConfigError(f"{place} is not a JSON object.")
        self.content, self.place = content, place

    def value(self, key: str, kind: type) -> Any:
        value = self.content.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{self._at(key)} is {value!r}; expected {kind.__name__}.")
        return value

    def inside(self, key: str) -> _Fields:
        return _Fields(self.content.get(key), self._at(key))

    def figure(self, key: str, low: float = 0.0, high: float = 1.0) -> float | None:
        """Read a number in [low, high], or None for null."""
        if key not in self.content:
            raise ConfigError(f"{self._at(key)} is missing.")
        value: float | None = self.content[key]
        if value is not None:
            require(self._at(key), value, low, high)
        return value

    def _at(self, key: str) -> str:
        return f"{self.place}.{key}".lstrip(".")


def _model_of(recipe: str) -> Model | None:
    match = _RECIPE.fullmatch(recipe)
    return (match[1], match[2]) if match else None


def _read_evaluation(path: Path, fields: _Fields, results: Results) -> None:
    data, recipe = fields.value("data", str), fields.content.get("recipe")
    if data != "cityscapes":
        results.unused[path] = f"its data are {data!r}, the thesis's Table 3.1 is on cityscapes"
        return
    model = _model_of(fields.value("recipe", str))
    if model is None:
        results.unused[path] = f"the recipe {recipe!r} is none of the thesis's tables"
        return
    if fields.value("split", str) != "val":
        results.unused[path] = f"its split is {fields.content['split']!r}, the thesis's is val"
        return
    figures = {metric: fields.figure(metric) for metric in CITYSCAPES_METRICS}
    images = fields.value("pictures", int)
    results.measurements.append(Measurement(model, data, images, "exact", figures))


def _read_benchmark(path: Path, fields: _Fields, results: Results) -> None:
    if "recipe" not in fields.content:
        results.unused[path] = "it names no recipe: its weights lay in no run folder"
        return
    recipe, protocol = fields.value("recipe", str), fields.value("protocol", str)
    model = _model_of(recipe)
    if model is None:
        results.unused[path] = f"the recipe {recipe!r} is none of the thesis's tables"
        return
    sets = fields.inside("sets")
    for name in sets.content:
        if sets.inside(name).content.get("own") is True:
            continue  # a user's, of any name
        require_choice("data set", name, KNOWN_SETS)
        if name not in ANOMALY_SETS:
            continue  # the thesis does not measure it
        measured = sets.inside(name)
        scores = measured.inside("scores").inside(THESIS_SCORE)
        figures = {metric: scores.figure(metric) for metric in ANOMALY_METRICS}
        images = measured.value("pictures", int)
        results.measurements.append(Measurement(model, name, images, protocol, figures))


def _read_ablation(path: Path, fields: _Fields, results: Results) -> None:
    data = fields.inside("settings").inside("data")
    data.value("name", str)
    data.value("pictures", int)
    protocol = fields.inside("settings").inside("protocol")
    protocol.value("epochs", int)
    protocol.figure("regularization", high=float("inf"))
    entries = fields.value("summary", list)
    if not entries:
        raise ConfigError("It has an empty summary.")
    for number, entry in enumerate(entries):
        experiment = _Fields(entry, f"summary.{number}")
        require_choice("experiment", experiment.value("experiment", str), EXPERIMENTS)
        experiment.value("n", int)
        for figure in _SUMMARY_FIGURES:
            experiment.figure(figure, low=-1000.0)
    results.ablations[path] = fields.content
