"""Ranges and thresholds of every anomaly score, measured and written into a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mask2kan.checkpoints import load_model, save_again
from mask2kan.checkpoints.files.opened import open_file
from mask2kan.checkpoints.files.readers import METADATA_KEY
from mask2kan.checkpoints.files.safetensors_files import read_safetensors
from mask2kan.errors import CheckpointError, ConfigError
from mask2kan.inference.predictor import Predictor
from mask2kan.modeling.settings import InferenceSettings

from ..data import open_anomaly
from ..data.registry import OWN_FOLDER, choose_anomaly
from .checkpoint_evaluation import weights_file
from .measure import measure_scores

DATA = "camvid_anomaly"
IN_WORDS = {
    "camvid_anomaly": "CamVid val, OtherMoving, Child and CartLuggagePram",
    "fishyscapes_static": "Fishyscapes Static validation",
}


def calibrate(
    checkpoint: Path,
    out: Path | None = None,
    *,
    data: str | None = None,
    root: str | Path | None = None,
    settings: InferenceSettings | None = None,
    limit: int | None = None,
    device: str = "auto",
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Calibrate a checkpoint on an anomaly data set and write it back.

    Args:
        checkpoint: a ``.safetensors`` file, or a run folder for its best; one not written by
            ``save_model`` needs ``out``.
        out: None to replace the checkpoint, in one step.
        data: an anomaly data set: a name, a folder or name=folder; None for ``DATA``.
        root: its folder; None for the usual places.
        settings: to write as well; None for the checkpoint's own.
        limit: images, evenly spread.
        device: of the predictor.
        say: called with each remark on the data.

    Returns:
        Per score ``{"range": [low, high], "fpr05": t, "tpr95": t, "best_f1": t, "curve":
        [[false-alarm rate, t, recall], ...], "data": words}``.

    Raises:
        Mask2KANError: for anything that cannot be loaded, measured or written.
    """
    checkpoint = weights_file(checkpoint)
    if checkpoint.suffix != ".safetensors":
        raise CheckpointError(
            f"{checkpoint} is not a .safetensors file; calibration is stored in one. Convert it "
            "first: python -m mask2kan convert."
        )
    try:
        choice, images = choose_anomaly(data or DATA, root), open_anomaly(data or DATA, root)
    except ConfigError as error:
        if data is not None:
            raise
        raise ConfigError(
            f"{error} Or calibrate on images and masks of your own: --data <your folder>."
        ) from error
    for remark in images.described().remarks:
        say(f"{choice.name}: {remark}")
    model = load_model(str(checkpoint), device=device)
    model.settings = settings or model.settings
    dtype, metadata = stored(checkpoint)
    if out is None and METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{checkpoint} is not in this project's format and will not be overwritten; pass "
            "--out with a new file."
        )
    predictor = Predictor(model, device, "float32")
    meter = measure_scores(predictor, images, limit=limit, smoothed=True)
    title = choice.name if choice.kind == OWN_FOLDER else images.described().title
    words = IN_WORDS.get(choice.kind, title)
    words = f"{words}, {meter.about()['pictures']} images"
    model.calibration = {
        score: {**evaluator.operating_points(), "data": words}
        for score, evaluator in meter.evaluators.items()
    }
    save_again(model, out or checkpoint, dtype)
    return model.calibration


def stored(checkpoint: Path) -> tuple[torch.dtype | None, dict[str, str]]:
    """Read the half type a file's weights are stored in, None for another; and its metadata."""
    with open_file(checkpoint) as file:
        tensors, metadata, _ = read_safetensors(file)
    dtypes = {tensor.dtype for tensor in tensors.values()}
    halves = (half for half in (torch.float16, torch.bfloat16) if half in dtypes)
    return next(halves, None), metadata
