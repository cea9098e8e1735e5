"""How good a checkpoint is on labelled pictures.

    python -m training.evaluate mask2kan_camvid --data camvid --split test
    python -m training.evaluate weights/mask2kan_camvid.safetensors --data road_anomaly

``camvid`` measures the class map (IoU per class, mIoU over the classes that occur, pixel
accuracy); the anomaly data sets (``python -m training.data list``) measure every anomaly score in
one pass (AP, AUROC, FPR95, best F1, by the exact protocol). Pictures are computed at their own size
by the same ``Predictor`` that the command line and the app use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mask2kan.anomaly import SCORES, check_score
from mask2kan.checkpoints import load_model
from mask2kan.classes import CAMVID
from mask2kan.devices import DTYPES
from mask2kan.errors import ConfigError, Mask2KANError, unknown
from mask2kan.predictor import Prediction, Predictor
from training.data.camvid import CamVid
from training.data.folders import find_data
from training.data.registry import ANOMALY_SETS, open_anomaly
from training.metrics import AnomalyEvaluator, SegmentationEvaluator
from training.metrics.pixel import ANOMALY, VOID
from training.side_pictures import SidePictures

SEGMENTATION = ("camvid",)
ANOMALIES = tuple(ANOMALY_SETS)
DATA_SETS = (*SEGMENTATION, *ANOMALIES)
FIGURES = ("ap", "auroc", "fpr95", "best_f1", "best_f1_threshold")

Watcher = Callable[[str, Prediction, NDArray[np.uint8], float], None]


class Pictures(Protocol):
    """What is asked of a data set: names, and picture and label by index."""

    names: list[str]

    def arrays(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The picture (H, W, 3) RGB and its label (H, W)."""
        ...


def open_pictures(data: str, root: str | Path | None = None, split: str = "test") -> Pictures:
    """A data set by name.

    Args:
        data: one of ``DATA_SETS``.
        root: its folder, or one that holds it; None to look in the usual places.
        split: of ``camvid``; the others have one part.

    Raises:
        ConfigError: for an unknown name, or a data set that is not found or incomplete.
    """
    if data == "camvid":
        return CamVid(find_data("camvid", root=root, recognised=CamVid.recognised), split)
    if data in ANOMALY_SETS:
        return open_anomaly(data, root)
    raise ConfigError(unknown("data set", data, DATA_SETS))


def evaluate_segmentation(
    predictor: Predictor,
    pictures: Pictures,
    *,
    limit: int | None = None,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Overlap of the predicted class map with the truth.

    Args:
        predictor: of a model with the data set's classes.
        pictures: with labels in [0, K), 255 = void.
        limit: use only that many pictures, evenly spread.
        watch: called per picture with its name, prediction, label and own mIoU.

    Returns:
        ``pictures`` (how many), ``miou``, ``pixel_accuracy``, ``iou`` by class name (None where
        the class does not occur).
    """
    names: tuple[str, ...] = cast(Any, predictor.model).class_names
    evaluator = SegmentationEvaluator(len(names))
    chosen = _chosen(pictures, limit)
    for index in tqdm(chosen, unit="picture"):
        picture, label = pictures.arrays(index)
        prediction = predictor(picture)
        evaluator.update(prediction.semantic, label)
        if watch is not None:
            alone = SegmentationEvaluator(len(names))
            alone.update(prediction.semantic, label)
            quality = alone.compute()["miou"] if (label != VOID).any() else float("nan")
            watch(pictures.names[index], prediction, label, quality)
    found = evaluator.compute()
    iou = [None if np.isnan(value) else value for value in found["iou"]]
    return {
        "pictures": len(chosen),
        "miou": found["miou"],
        "pixel_accuracy": found["pixel_accuracy"],
        "iou": dict(zip(names, iou, strict=True)),
    }


def collect_anomaly_scores(
    predictor: Predictor,
    pictures: Pictures,
    *,
    limit: int | None = None,
    watch: Watcher | None = None,
    watched_score: str = "msp",
) -> tuple[dict[str, AnomalyEvaluator], dict[str, Any]]:
    """Every anomaly score of every picture, one model run per picture.

    Args:
        predictor: of any model.
        pictures: with labels 0 known, 1 anomaly, 255 void.
        limit: use only that many pictures, evenly spread.
        watch: called per picture with its name, prediction, label and own AP.
        watched_score: the score of that AP.

    Returns:
        One evaluator per score, and ``pictures`` (how many) with ``prevalence``, the share of
        anomalous pixels among the valid ones.
    """
    evaluators = {score: AnomalyEvaluator() for score in SCORES}
    chosen = _chosen(pictures, limit)
    anomalous = valid = 0
    for index in tqdm(chosen, unit="picture"):
        picture, label = pictures.arrays(index)
        prediction = predictor(picture)
        prediction.prepare(SCORES)
        for score, evaluator in evaluators.items():
            evaluator.update(prediction.anomaly(score), label)
        anomalous += int((label == ANOMALY).sum())
        valid += int((label != VOID).sum())
        if watch is not None:
            watch(
                pictures.names[index], prediction, label, _own_ap(prediction, label, watched_score)
            )
    return evaluators, {"pictures": len(chosen), "prevalence": anomalous / max(valid, 1)}


def _chosen(pictures: Pictures, limit: int | None) -> list[int]:
    count = len(pictures.names)
    spread = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    return [int(index) for index in spread]


def _own_ap(prediction: Prediction, label: NDArray[np.uint8], score: str) -> float:
    if not {0, ANOMALY} <= set(np.unique(label).tolist()):
        return float("nan")
    alone = AnomalyEvaluator()
    alone.update(prediction.anomaly(score), label)
    return float(alone.compute()["ap"])


def evaluate(
    weights: str,
    data: str,
    *,
    root: str | Path | None = None,
    split: str = "test",
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    pictures_to: Path | None = None,
    score: str = "msp",
) -> dict[str, Any]:
    """Load a checkpoint and measure it.

    Args:
        weights: anything ``load_model`` takes.
        data: one of ``DATA_SETS``.
        root: the data set's folder; None to look in the usual places.
        split: of ``camvid``.
        limit: use only that many pictures, evenly spread.
        device: of the predictor.
        dtype: of the predictor; not ``auto``, so that figures do not depend on the processor.
        pictures_to: folder for one side-by-side picture per input.
        score: the anomaly score those show.

    Returns:
        What was measured, on what, ready for JSON.

    Raises:
        Mask2KANError: for anything that cannot be loaded or does not fit.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1.")
    check_score(score)
    pictures = open_pictures(data, root, split)
    model = load_model(weights, device=device)
    predictor = Predictor(model, device, dtype)
    watch = None
    if pictures_to is not None:
        watch = SidePictures(pictures_to, score, anomalies=data in ANOMALIES)
    result: dict[str, Any] = {"weights": Path(weights).stem, "data": data}
    if Path(weights).is_file():
        result["sha256"] = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    start = time.perf_counter()
    if data in SEGMENTATION:
        _require_camvid_classes(tuple(model.class_names))
        result["split"] = split
        result |= evaluate_segmentation(predictor, pictures, limit=limit, watch=watch)
    else:
        evaluators, about = collect_anomaly_scores(
            predictor, pictures, limit=limit, watch=watch, watched_score=score
        )
        result |= about
        result["scores"] = {name: one.compute() for name, one in evaluators.items()}
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["device"] = str(predictor.device)
    result["dtype"] = str(predictor.dtype).removeprefix("torch.")
    return result


def _require_camvid_classes(names: tuple[str, ...]) -> None:
    unnamed = tuple(f"class_{index}" for index in range(len(CAMVID)))
    if names not in (tuple(CAMVID), unnamed):
        raise ConfigError(
            f"The checkpoint has {len(names)} classes ({', '.join(names[:3])}, …); CamVid needs "
            f"its own {len(CAMVID)} ({', '.join(list(CAMVID)[:3])}, …). Measure it on "
            f"{' or '.join(ANOMALIES)}, or use a checkpoint trained on CamVid."
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
        return "\n".join(lines)
    lines = [f"{result['data']} {result['split']}: {count}", f"{'class':<16}{'IoU':>8}"]
    for name, value in result["iou"].items():
        lines.append(f"{name:<16}{'absent' if value is None else f'{value:.4f}':>8}")
    lines.append(f"{'mIoU':<16}{result['miou']:>8.4f}")
    lines.append(f"{'pixel accuracy':<16}{result['pixel_accuracy']:>8.4f}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measure a checkpoint on labelled pictures.",
        epilog="example: python -m training.evaluate mask2kan_camvid --data camvid --split test",
    )
    parser.add_argument("weights", help="checkpoint file, bundled name or Hub repository")
    parser.add_argument("--data", required=True, help=", ".join(DATA_SETS))
    parser.add_argument(
        "--root",
        type=Path,
        help="the data set's folder (default: looked for in $MASK2KAN_DATA, data and "
        "../shared/data)",
    )
    parser.add_argument("--split", default="test", help="of camvid: train, val, test")
    parser.add_argument("--limit", type=int, metavar="N", help="only N pictures, evenly spread")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        default="float32",
        help="of the arithmetic (default: %(default)s)",
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
            pictures_to=options.pictures,
            score=options.score,
        )
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    except (Mask2KANError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
