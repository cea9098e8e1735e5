"""Measure ranges and thresholds of every anomaly score and write them into a checkpoint.

    python -m training.calibrate weights/mask2kan_road.safetensors --data fishyscapes_static

From an anomaly data set that was not trained on, per score: ``range``, the 0.5th and 99.5th
percentile over all valid pixels, which pictures of the score map to [0, 1]; and thresholds,
"anomalous if score >= t": ``fpr05`` flags at most 5 % of the known pixels, ``tpr95`` at least 95 %
of the anomalous ones, ``best_f1`` balances the two. All are exact: every pixel of every picture is
ranked, of the map that thresholds are applied to: at the checkpoint's sizes, and smoothed as its
settings say (see ``mask2kan.modeling.settings``).

Elsewhere the same threshold flags another share of the pixels; a threshold is a starting point, not
a promise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mask2kan.checkpoints import load_model, save_again
from mask2kan.checkpoints.native import METADATA_KEY
from mask2kan.checks import require
from mask2kan.errors import CheckpointError, Mask2KANError
from mask2kan.inference.predictor import Predictor
from mask2kan.media.records import read_record
from mask2kan.modeling.settings import InferenceSettings

from .data import ANOMALY_SETS, open_anomaly
from .evaluation.measure import Pictures, collect_anomaly_scores

DATA = "camvid_anomaly"
IN_WORDS = {
    "camvid_anomaly": "CamVid val, OtherMoving, Child and CartLuggagePram",
    "fishyscapes_static": "Fishyscapes Static validation",
}


def calibration_of(
    predictor: Predictor, pictures: Pictures, data: str, *, limit: int | None = None
) -> dict[str, dict[str, Any]]:
    """Ranges and thresholds of every score.

    Args:
        predictor: of the model to calibrate.
        pictures: with labels 0 known, 1 anomaly, 255 void.
        data: what they are, in words, for the checkpoint.
        limit: use only that many pictures, evenly spread.

    Returns:
        Score to ``{"range": [low, high], "fpr05": t, "tpr95": t, "best_f1": t, "data": words}``.

    Raises:
        ConfigError: when the pictures hold no anomaly, or nothing else.
    """
    evaluators, about = collect_anomaly_scores(predictor, pictures, limit=limit, smoothed=True)
    words = f"{data}, {about['pictures']} pictures"
    return {
        score: {**evaluator.operating_points(), "data": words}
        for score, evaluator in evaluators.items()
    }


def calibrate(
    checkpoint: Path,
    out: Path | None = None,
    *,
    data: str = DATA,
    root: str | Path | None = None,
    settings: InferenceSettings | None = None,
    limit: int | None = None,
    device: str = "auto",
) -> dict[str, dict[str, Any]]:
    """Calibrate a checkpoint of this project and write it back.

    Args:
        checkpoint: a ``.safetensors`` file; one not written by ``save_model`` needs ``out``.
        out: where to; the checkpoint itself when None. Replaced in one step.
        data: an anomaly data set.
        root: its folder; None to look in the usual places.
        settings: to write as well; None for the checkpoint's own.
        limit: use only that many pictures, evenly spread.
        device: of the predictor.

    Returns:
        The calibration written.

    Raises:
        Mask2KANError: for anything that cannot be loaded, measured or written.
    """
    if checkpoint.suffix != ".safetensors":
        raise CheckpointError(
            f"{checkpoint} is not a .safetensors file; calibration is stored in one. Convert it "
            "first: python -m mask2kan convert."
        )
    pictures = open_anomaly(data, root)
    model = load_model(str(checkpoint), device=device)
    model.settings = settings or model.settings
    stored = stored_dtype(checkpoint)
    if out is None:
        _require_native(checkpoint)
    words = IN_WORDS.get(data, ANOMALY_SETS[data].title)
    found = calibration_of(Predictor(model, device, "float32"), pictures, words, limit=limit)
    model.calibration = found
    save_again(model, out or checkpoint, stored)
    return found


def stored_dtype(checkpoint: Path) -> torch.dtype | None:
    """The small type a file's weights are stored in, or None for float32."""
    with safe_open(checkpoint, framework="pt") as file:
        found = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    if "F16" in found:
        return torch.float16
    return torch.bfloat16 if "BF16" in found else None


def _require_native(checkpoint: Path) -> None:
    with safe_open(checkpoint, framework="pt") as file:
        if METADATA_KEY in (file.metadata() or {}):
            return
    raise CheckpointError(
        f"{checkpoint} is not in this project's format and will not be overwritten; pass --out "
        "with a new file."
    )


def table(calibration: dict[str, dict[str, Any]]) -> str:
    """The calibration as lines to read."""
    lines = [f"{'score':<10}{'low':>9}{'high':>9}{'fpr05':>9}{'tpr95':>9}{'best F1':>9}"]
    for score, one in calibration.items():
        low, high = one["range"]
        lines.append(
            f"{score:<10}{low:>9.4f}{high:>9.4f}{one['fpr05']:>9.4f}{one['tpr95']:>9.4f}"
            f"{one['best_f1']:>9.4f}"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate",
        description="Write ranges and thresholds of every anomaly score into a checkpoint.",
        epilog="example: python -m training.calibrate weights/mask2kan_road.safetensors",
    )
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file of this project")
    parser.add_argument("--out", type=Path, help="write there instead of into the checkpoint")
    parser.add_argument("--data", default=DATA, help="anomaly data set (default: %(default)s)")
    parser.add_argument(
        "--root",
        type=Path,
        help="its folder (default: looked for in $MASK2KAN_DATA, data and ../shared/data)",
    )
    parser.add_argument("--settings", type=Path, help="JSON file of InferenceSettings to write too")
    parser.add_argument("--limit", type=int, metavar="N", help="only N pictures, evenly spread")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def _settings(path: Path | None) -> InferenceSettings | None:
    return None if path is None else InferenceSettings.from_dict(read_record(path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.limit is not None:
            require("--limit", options.limit, 1)
        found = calibrate(
            options.checkpoint,
            options.out,
            data=options.data,
            root=options.root,
            settings=_settings(options.settings),
            limit=options.limit,
            device=options.device,
        )
    except (Mask2KANError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
