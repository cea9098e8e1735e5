"""How good a model is while it trains: mIoU on a few pictures of the validation split.

A quick figure for choosing the best weights; ``training.evaluate`` computes the one to report, from
the predictor people use.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.model import STRIDE, Mask2KAN
from training.data import LabelledPictures
from training.metrics import SegmentationEvaluator


@torch.no_grad()
def semantic_map(model: Mask2KAN, image: Tensor) -> Tensor:
    """Class of every pixel.

    Args:
        model: in evaluation mode.
        image: (3, H, W) float32 RGB in [0, 1].

    Returns:
        (H, W) int64.
    """
    height, width = image.shape[-2:]
    padded = (math.ceil(height / STRIDE) * STRIDE, math.ceil(width / STRIDE) * STRIDE)
    output = model(image[None], with_aux=False)
    masks = F.interpolate(
        output["pred_masks"].float(), size=padded, mode="bilinear", align_corners=False
    )
    classes = output["pred_logits"][0].float().softmax(-1)[:, :-1]
    scores = torch.einsum("qk,qhw->khw", classes, masks[0, :, :height, :width].sigmoid())
    return scores.argmax(0)


def validate(
    model: Mask2KAN, pictures: LabelledPictures, limit: int = 0
) -> tuple[dict[str, float], NDArray[np.uint8]]:
    """Measure a model.

    Args:
        model: evaluated in the mode it is in, which should be evaluation mode.
        pictures: labelled pictures.
        limit: how many of them, evenly spread; 0 for all.

    Returns:
        ``miou``, ``pixel_accuracy`` and ``iou/<class>``; and the first picture with its
        prediction and ground truth below it, (3 H, W, 3).
    """
    count = min(limit or len(pictures), len(pictures))
    evaluator = SegmentationEvaluator(pictures.num_classes)
    shown = np.zeros((0, 0, 3), np.uint8)
    for index in np.linspace(0, len(pictures) - 1, count).round().astype(int).tolist():
        image, label = pictures[index]
        prediction = semantic_map(model, image.to(model.device)).cpu().numpy().astype(np.uint8)
        evaluator.update(prediction, label.numpy())
        if not shown.size:
            shown = _picture(pictures.arrays(index)[0], prediction, label.numpy(), model.palette)
    result = evaluator.compute()
    values = {"miou": float(result["miou"]), "pixel_accuracy": float(result["pixel_accuracy"])}
    for name, iou in zip(model.class_names, result["iou"], strict=True):
        if math.isfinite(iou):
            values[f"iou/{name}"] = float(iou)
    return values, shown


def _picture(
    picture: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    label: NDArray[np.int64],
    palette: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    return np.concatenate([picture, colours[prediction], colours[label]])
