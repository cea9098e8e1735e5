"""How good a checkpoint is on labelled pictures.

    python -m training.evaluate mask2kan_road --data camvid --split test
    python -m training.evaluate runs/thesis_swin_t_kan/best.safetensors --data cityscapes
    python -m training.evaluate weights/mask2kan_road.safetensors --data road_anomaly

A data set to train on measures the class map: IoU per class, mIoU over the classes that occur,
pixel accuracy, and on Cityscapes also that benchmark's IoU and iIoU over classes and categories
(the thesis's Table 3.1). An anomaly data set (``python -m training.data list``) measures every
anomaly score in one pass (AP, AUROC, FPR95, best F1, by the exact protocol);
``training.benchmark`` does so for many sets and checkpoints. Pictures are computed as the
checkpoint's settings say (``--settings native``: at their own size) by the same ``Predictor`` that
the command line and the app use.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from mask2kan.checkpoints import load_model
from mask2kan.checkpoints.readers import sha256_of
from mask2kan.checks import require
from mask2kan.errors import ConfigError, Mask2KANError, unknown
from mask2kan.inference.predictor import SETTINGS, Predictor
from mask2kan.inference.scores import SCORES, check_score
from mask2kan.media.records import write_record
from mask2kan.modeling.classes import meanings_of
from mask2kan.runtime.precision import DTYPES

from .data import LabelledPictures, open_split
from .data.folders import find_data
from .data.registry import (
    ANOMALY_SETS,
    SEGMENTATION_SETS,
    SYNTHETIC_SETS,
    name_of,
    open_anomaly,
    usual_split,
)
from .evaluation.measure import (
    BENCHMARK_FIGURES,
    Extremes,
    Pictures,
    collect_anomaly_scores,
    evaluate_segmentation,
)
from .reporting.plots import draw_confusion
from .reporting.side_images import SidePictures

DATA_SETS = (*SEGMENTATION_SETS, *SYNTHETIC_SETS, *ANOMALY_SETS)
SHOWN = 3  # best and worst pictures shown beside a result


class LabelledSplit(NamedTuple):
    """Pictures, the name of their data set however it was asked for, and their split."""

    pictures: LabelledPictures
    name: str
    split: str


def open_labelled(
    data: str, root: str | Path | None = None, split: str | None = None
) -> LabelledSplit:
    """A split of a data set to train on.

    Args:
        data: a name, a folder or ``name=folder``.
        root: where a named set is, or what holds it; None to look in the usual places.
        split: None for the one that is usually reported: CamVid's test, others' val.

    Returns:
        The pictures, and what they are.

    Raises:
        ConfigError: for an unknown name, or a data set that is not found or incomplete.
    """
    if root is not None and data in SEGMENTATION_SETS:
        entry = SEGMENTATION_SETS[data]
        folder = find_data(
            data, folders=entry.folders, root=root, recognised=entry.pictures.recognised
        )
        data = f"{data}={folder}"
    if "=" not in data and "/" not in data and data not in DATA_SETS:
        raise ConfigError(unknown("data set", data, DATA_SETS))
    if split is None:
        split = usual_split(data)
    return LabelledSplit(open_split(data, split), name_of(data), split)


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
    pictures_to: Path | None = None,
    score: str = "msp",
    out: Path | None = None,
) -> dict[str, Any]:
    """Load a checkpoint and measure it.

    Args:
        weights: anything ``load_model`` takes.
        data: one of ``DATA_SETS``, a folder, or ``name=folder``.
        root: the data set's folder, or one that holds it; None to look in the usual places.
        split: of a data set to train on; None for the usual one.
        limit: use only that many pictures, evenly spread.
        device: of the predictor.
        dtype: of the predictor; not ``auto``, so that figures do not depend on the processor.
        settings: ``checkpoint`` for its own inference settings, ``native`` for one pass at the
            picture's own size.
        pictures_to: folder for one side-by-side picture per input.
        score: the anomaly score those show.
        out: folder for ``evaluation.json``, the confusion matrix and the best and worst pictures;
            by default beside weights that lie in a run folder, nowhere for others.

    Returns:
        What was measured, on what, ready for JSON.

    Raises:
        Mask2KANError: for anything that cannot be loaded or does not fit.
    """
    if limit is not None:
        require("limit", limit, 1)
    check_score(score)
    name, given, folder_given = data.partition("=")
    anomalies = name in ANOMALY_SETS
    pictures: Pictures
    if anomalies:
        data, root = name, folder_given if given else root
        pictures = open_anomaly(data, root)
    else:
        pictures, data, split = open_labelled(data, root, split)
    model = load_model(weights, device=device)
    if not anomalies:
        _require_classes(tuple(model.class_names), cast(LabelledPictures, pictures), data)
    predictor = Predictor(model, device, dtype, settings=settings)
    palette = None if anomalies else cast(LabelledPictures, pictures).palette
    watch = None
    if pictures_to:
        watch = SidePictures(pictures_to, score, anomalies=anomalies, palette=palette)
    result: dict[str, Any] = {**describe_weights(weights), "data": data}
    if not anomalies:
        result["split"] = split
    if settings == "native":
        result["native"] = True
    folder = _folder(weights, result, out)
    extremes = Extremes(watch)
    start = time.perf_counter()
    if anomalies:
        evaluators, about = collect_anomaly_scores(
            predictor, pictures, limit=limit, watch=extremes, watched_score=score
        )
        result |= about
        result["scores"] = {name: one.compute() for name, one in evaluators.items()}
    else:
        labelled = cast(LabelledPictures, pictures)
        found, evaluator = evaluate_segmentation(predictor, labelled, limit=limit, watch=extremes)
        result |= found
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            title = f"{result['weights']} on {data} {split}"
            path = folder / "confusion.png"
            draw_confusion(evaluator.confusion, tuple(labelled.class_names), title, path)
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["device"] = str(predictor.device)
    result["dtype"] = str(predictor.dtype).removeprefix("torch.")
    if folder is not None:
        shown = SidePictures(folder / "best_and_worst", score, anomalies=anomalies, palette=palette)
        by_name = {name: index for index, name in enumerate(pictures.names)}
        for name, quality in extremes.chosen(SHOWN):
            picture, label = pictures.arrays(by_name[name])
            shown(name, predictor(picture), label, quality)
        write_record(folder / "evaluation.json", result)
    return result


def describe_weights(weights: str) -> dict[str, Any]:
    """Name, sha256 and, of weights in a run folder, the recipe: what a result says of them."""
    path = Path(weights)
    about: dict[str, Any] = {"weights": path.stem if path.suffix else weights}
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
    name = "_".join(["evaluation", result["data"], result.get("split", "")]).rstrip("_")
    return Path(weights).parent / "".join(c if c.isalnum() or c in "_-" else "_" for c in name)


def _require_classes(names: tuple[str, ...], pictures: LabelledPictures, data: str) -> None:
    wanted = tuple(pictures.class_names)
    unnamed = tuple(f"class_{index}" for index in range(len(wanted)))
    if names not in (wanted, unnamed) and not meanings_of(wanted, names):
        raise ConfigError(
            f"The checkpoint has {len(names)} classes ({', '.join(names[:3])}, …); {data} needs "
            f"its own {len(wanted)} ({', '.join(wanted[:3])}, …). Measure it on an anomaly data "
            "set, or use a checkpoint trained on these classes."
        )


def _regions_in_words(result: dict[str, Any]) -> str:
    regions = result["regions"]
    return (
        f"at the calibrated threshold of {result['settings']['score']}: {regions['found']} of "
        f"{regions['objects']} objects at least half covered; false regions per picture: median "
        f"{regions['false_median']:g}, mean {regions['false_mean']:.1f}"
    )


def table(result: dict[str, Any]) -> str:
    """The result as lines to read."""
    count = f"{result['pictures']} pictures"
    if "scores" in result:
        head = f"{result['data']}: {count}, {result['prevalence']:.4f} of the area anomalous"
        lines = [head, f"{'score':<10}{'AP':>8}{'AUROC':>8}{'FPR95':>8}{'best F1':>9}{'at':>10}"]
        for name, one in result["scores"].items():
            lines.append(
                f"{name:<10}{one['ap']:>8.4f}{one['auroc']:>8.4f}{one['fpr95']:>8.4f}"
                f"{one['best_f1']:>9.4f}{one['best_f1_threshold']:>10.4f}"
            )
        if "regions" in result:
            lines.append(_regions_in_words(result))
        return "\n".join(lines)
    lines = [f"{result['data']} {result['split']}: {count}", f"{'class':<20}{'IoU':>8}"]
    for name, value in result["iou_per_class"].items():
        lines.append(f"{name:<20}{'absent' if value is None else f'{value:.4f}':>8}")
    lines.append(f"{'mIoU':<20}{result['miou']:>8.4f}")
    lines.append(f"{'pixel accuracy':<20}{result['pixel_accuracy']:>8.4f}")
    for name in BENCHMARK_FIGURES:
        if result.get(name) is not None:
            lines.append(f"{'Cityscapes ' + name:<24}{result[name]:>8.4f}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measure a checkpoint on labelled pictures.",
        epilog="example: python -m training.evaluate mask2kan_road --data camvid --split test",
    )
    parser.add_argument("weights", help="checkpoint file, bundled name or Hub repository")
    parser.add_argument("--data", required=True, help=f"{', '.join(DATA_SETS)}, or a folder")
    parser.add_argument(
        "--root",
        type=Path,
        help="the data set's folder (default: looked for in $MASK2KAN_DATA, data and "
        "../shared/data)",
    )
    parser.add_argument("--split", help="train, val, test (default: camvid's test, others' val)")
    parser.add_argument("--limit", type=int, metavar="N", help="only N pictures, evenly spread")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        default="float32",
        help="of the arithmetic (default: %(default)s)",
    )
    parser.add_argument(
        "--settings",
        choices=SETTINGS,
        default="checkpoint",
        help="native: one pass at the picture's own size (default: the checkpoint's)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="for evaluation.json, confusion matrix, best and worst pictures (default: beside "
        "weights of a run)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="also write a side-by-side picture per input, named so that the worst come first",
    )
    parser.add_argument("--score", default="msp", help=f"shown there: {', '.join(SCORES)}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        result = evaluate(
            options.weights,
            options.data,
            root=options.root,
            split=options.split,
            limit=options.limit,
            device=options.device,
            dtype=options.dtype,
            settings=options.settings,
            pictures_to=options.pictures,
            score=options.score,
            out=options.out,
        )
        if options.json is not None:
            write_record(options.json, result)
    except (Mask2KANError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
