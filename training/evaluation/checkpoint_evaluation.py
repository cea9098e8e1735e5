"""All figures of one checkpoint on one data set, ready for JSON."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mask2kan.checkpoints import load_model
from mask2kan.checkpoints.files.opened import sha256_of
from mask2kan.checkpoints.load import BEST
from mask2kan.checks import require
from mask2kan.errors import ConfigError, unknown
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import check_score
from mask2kan.media.files import write_record
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.outputs.summary import MIN_REGION_PIXELS

from ..data import AnomalyImages, LabelledImages, open_split
from ..data.label_space import require_classes
from ..data.registry import (
    ANOMALY_SETS,
    SEGMENTATION_SETS,
    SYNTHETIC_SETS,
    AnomalyChoice,
    choose_anomaly,
    classes_instead,
    find_set,
    is_anomaly_data,
    name_of,
    open_anomaly,
    require_folder,
    usual_split,
)
from ..data.sets.cityscapes import Cityscapes
from ..metrics import CityscapesEvaluator
from ..metrics.regions import RegionCounter
from ..reporting.evaluation import AT_THRESHOLD, CITYSCAPES_FIGURES
from ..reporting.plots import draw_confusion
from ..reporting.side_images import SideImages
from .measure import (
    Extremes,
    Images,
    Meter,
    Sample,
    class_meter,
    evenly_spread,
    measure,
    measure_scores,
    own_ap,
    predictions_of,
)


def open_labelled(
    data: str, root: str | Path | None = None, split: str | None = None
) -> tuple[LabelledImages, str, str]:
    """Open a split of a labelled data set; return it and both names.

    Args:
        data: a name, a folder or ``name=folder``.
        root: where a named set is, or what holds it; None for the usual places.
        split: None for the one usually reported: CamVid's test, others' val.

    Raises:
        ConfigError: for an unknown name, or a data set that is missing or incomplete.
    """
    if root is not None and data in SEGMENTATION_SETS:
        data = f"{data}={find_set(data, root)}"
    is_path = "/" in data or "=" in data or Path(data).is_dir()
    known = (*SEGMENTATION_SETS, *SYNTHETIC_SETS, *ANOMALY_SETS)
    if not is_path and data not in known:
        raise ConfigError(unknown("data set", data, known))
    split = usual_split(data) if split is None else split
    return open_split(data, split), name_of(data), split


def evaluate(
    weights: str,
    data: str,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    settings: str = "checkpoint",
    images_to: Path | None = None,
    score: str = "msp",
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint on labelled images (see ``open_labelled``) or an anomaly set, for JSON.

    A folder that may be either is measured on the model's classes where they are the folder's.
    The dtype is not ``auto`` by default, so that figures do not depend on the machine.
    ``images_to`` takes side-by-side images with the anomaly ``score``; ``out`` takes
    ``evaluation.json``, the confusion matrix and the best and worst images, by default beside
    weights in a run folder.

    Raises:
        Mask2KANError: for anything that cannot be loaded or does not fit.
    """
    if limit is not None:
        require("limit", limit, 1)
    check_score(score)
    require_folder(data)
    labelled: LabelledImages | None = None
    choice: AnomalyChoice | None = None
    model: Mask2KAN | None = None
    anomalous = is_anomaly_data(data)
    if anomalous and (classes := classes_instead(data)):  # the model tells what it was trained on
        model = load_model(weights, device=device)
        anomalous = tuple(model.class_names) != classes
    if anomalous:
        choice, anomalies = choose_anomaly(data, root), open_anomaly(data, root)
        images: Images = anomalies
        data = choice.name
    else:
        labelled, data, split = open_labelled(data, root, split)
        images = labelled
    model = model or load_model(weights, device=device)
    result: dict[str, Any] = {**describe_weights(weights), "data": data}
    if choice is not None and choice.own:
        result["set"] = choice.kind
    if labelled is not None:
        advice = (
            "Measure it on an anomaly data set, or use a checkpoint trained on these classes "
            "(python -m training.train finetune --init <checkpoint> --data <data>)."
        )
        names = tuple(labelled.class_names)
        require_classes(model.class_names, names, holder=weights, data=data, advice=advice)
        result["split"] = split
    predictor = Predictor(model, device, dtype, settings=settings)
    if settings == "native":
        result["native"] = True
    folder = _folder(weights, result, out)
    palette = None if labelled is None else labelled.palette
    side = functools.partial(SideImages, score=score, anomalies=not labelled, palette=palette)
    draw = side(images_to) if images_to else None
    start = time.perf_counter()
    confusion = None
    if labelled is None:
        figures, extremes = _measure_scores(predictor, anomalies, limit, score, draw)
    else:
        figures, extremes, confusion = _measure_classes(predictor, labelled, limit, draw)
    result |= {
        **figures,
        "seconds": round(time.perf_counter() - start, 1),
        "device": str(predictor.device),
        "dtype": str(predictor.dtype).removeprefix("torch."),
    }
    if folder is not None:
        extremes.show(images, predictor, side(folder / "best_and_worst"))
        if labelled is not None and confusion is not None:
            title = f"{result['weights']} on {data} {split}"
            names = tuple(labelled.class_names)
            draw_confusion(confusion, names, title, folder / "confusion.png")
        write_record(folder / "evaluation.json", result)
    return result


def _measure_classes(
    predictor: Predictor, images: LabelledImages, limit: int | None, draw: SideImages | None
) -> tuple[dict[str, Any], Extremes[Prediction], NDArray[np.int64]]:
    """Figures of the class map, on Cityscapes also the benchmark's, and the confusion matrix."""
    meter = class_meter(images, predictor.model)
    extremes = Extremes(meter.own_miou, draw)
    meters: list[Meter[Prediction]] = [meter, extremes]
    cityscapes = images if isinstance(images, Cityscapes) else None
    benchmark = CityscapesEvaluator()
    if cityscapes is not None:
        meters.append(
            lambda sample, prediction: benchmark.update(
                prediction.semantic,
                cityscapes.label_ids(sample.index),
                cityscapes.instance_ids(sample.index),
            )
        )
    chosen = evenly_spread(images, limit)
    measure(predictions_of(Comparison(predictor)), images, chosen, [meters])
    figures = {"pictures": len(chosen), **meter.compute()}
    if cityscapes is not None:
        official = benchmark.compute()
        figures |= {name: official[name] for name in CITYSCAPES_FIGURES}
    return figures, extremes, meter.evaluator.confusion


def _measure_scores(
    predictor: Predictor,
    images: AnomalyImages,
    limit: int | None,
    score: str,
    draw: SideImages | None,
) -> tuple[dict[str, Any], Extremes[Prediction]]:
    """Figures of every score and, of a calibrated model, of regions at its threshold."""
    extremes = Extremes[Prediction](
        lambda sample, prediction: own_ap(prediction.anomaly(score), sample.label), draw
    )
    regions = RegionCounter()

    def count_regions(sample: Sample, prediction: Prediction) -> None:
        threshold, _ = prediction.default_threshold(shown)
        smallest = prediction.smallest_region(MIN_REGION_PIXELS)
        regions.update(prediction.anomaly_map(shown) >= threshold, sample.label, smallest)

    shown = predictor.settings.score
    calibrated = bool(getattr(predictor.model, "calibration", {}).get(shown))
    beside: list[Meter[Prediction]] = [extremes, *([count_regions] if calibrated else [])]
    meter = measure_scores(predictor, images, limit=limit, beside=beside)
    figures = {**meter.about(), "settings": predictor.settings.to_dict()}
    if calibrated:
        figures["regions"] = regions.compute()
    evaluators = meter.evaluators.items()
    figures["scores"] = {name: evaluator.compute() for name, evaluator in evaluators}
    figures[AT_THRESHOLD] = {name: own.fpr95_at_threshold() for name, own in evaluators}
    figures["notes"] = images.described().notes(figures["pictures"])
    return figures, extremes


def describe_weights(weights: str) -> dict[str, Any]:
    """Return name, sha256 and, of weights in a run folder, the recipe."""
    path = Path(weights)
    about: dict[str, Any] = {"weights": path.stem if path.suffix else weights}
    path = weights_file(path)
    if path.is_file():
        about["sha256"] = sha256_of(path)
        config = path.with_name("config.json")
        if config.is_file():
            try:
                about["recipe"] = json.loads(config.read_text(encoding="utf-8"))["name"]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{config} is not a run's configuration: {error!r}.") from error
    return about


def _folder(weights: str, result: dict[str, Any], out: Path | None) -> Path | None:
    if out is not None or "recipe" not in result:
        return out
    data = Path(result["data"]).name  # of a plain folder, whose name is its path
    name = "_".join(["evaluation", data, result.get("split", "")]).rstrip("_")
    folder = weights_file(Path(weights)).parent
    return folder / "".join(c if c.isalnum() or c in "_-" else "_" for c in name)


def weights_file(path: Path) -> Path:
    """Return a run folder's best weights, which ``load_model`` takes for it; else the path."""
    return path / BEST if (path / BEST).is_file() else path
