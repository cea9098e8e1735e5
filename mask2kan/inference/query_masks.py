"""List the queries whose masks matter in an image: class, area and a thumbnail of each mask.

A query claims a pixel with the probability of its best class (other than "no object") times its
mask probability there; its weight is the mean of that over the image. The largest size computed
counts alone, unflipped: those are the queries that ``Prediction.queries`` holds.

Legend: Q queries, K classes, h' w' thumbnail size.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from mask2kan.checks import require
from mask2kan.inference.explain import Label, best_label, class_color, mask_thumbnails
from mask2kan.inference.postprocess import MASK_STRIDE, class_probabilities
from mask2kan.inference.prediction import Prediction

_SURE = 0.5  # mask probability from which a pixel belongs to a query's area


@dataclasses.dataclass(frozen=True, eq=False)
class QueryMask:
    """One query and where it is in the image."""

    query: int
    label: Label  # its most probable class
    color: tuple[int, int, int] | None  # of that class; None for "no object"
    weight: float  # mean claim over the image, in [0, 1]
    area: float  # share of the image with a mask probability of at least one half
    mask: NDArray[np.uint8]  # (h', w') thumbnail of the mask, 255 times its probability


def query_masks(prediction: Prediction, *, count: int) -> tuple[QueryMask, ...]:
    """List at most ``count`` queries, the largest weights first.

    Raises:
        ConfigError: for a count below 1.
    """
    require("count", count, 1)
    view = prediction.views[0]
    height, width = view.computed or prediction.compute_size
    with torch.inference_mode():
        probabilities = class_probabilities(view.pred_logits).cpu().double().numpy()  # (Q, K+1)
        # Without the padding, but for the part of a mask pixel that reaches into it.
        rows, columns = -(-height // MASK_STRIDE), -(-width // MASK_STRIDE)
        masks = view.pred_masks[:, :rows, :columns].float().sigmoid().cpu().numpy()
    weights = probabilities[:, :-1].max(axis=1) * masks.mean(axis=(1, 2), dtype=np.float64)
    areas = (masks >= _SURE).mean(axis=(1, 2))
    order = np.argsort(-weights, kind="stable")[:count]
    thumbnails = mask_thumbnails((view,), prediction.compute_size, order)
    listed = []
    for query, thumbnail in zip(order.tolist(), thumbnails, strict=True):
        label = best_label(probabilities[query], prediction.class_names)
        listed.append(
            QueryMask(
                query=query,
                label=label,
                color=None if label.index is None else class_color(prediction.palette[label.index]),
                weight=float(weights[query]),
                area=float(areas[query]),
                mask=thumbnail,
            )
        )
    return tuple(listed)
