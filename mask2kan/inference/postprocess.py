"""Turn queries into class scores, the semantic map and anomaly scores, in strips of rows.

The arithmetic is the originals' (mask logits resized to the padded size, cropped, resized to the
image's size, each bilinear with align_corners=False; then sigmoid and the sum over queries), but
strip by strip instead of on (100, H, W) floats at once. Anomaly scores are computed inside the
strip, without class scores (K, H, W) at full size.

Legend: Q queries, K classes, h w mask size, H W image size, n rows of a strip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mask2kan.inference.scores import REFINE_MASK, SCORES, check_score, refining_queries

MASK_STRIDE = 4  # pixels of the padded image per pixel of a mask
# Floats of a strip's masks: 8 MiB stay in a CPU's cache, a GPU wants large pieces.
STRIP_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 25}


class Geometry(NamedTuple):
    """The two image sizes between queries and pixels, both (H, W)."""

    computed: tuple[int, int]  # what the model saw, without padding
    size: tuple[int, int]  # of the maps


@dataclasses.dataclass(frozen=True)
class View:
    """The queries of an image at one size, flipped or not."""

    pred_logits: Tensor  # (Q, K+1)
    pred_masks: Tensor  # (Q, h, w) logits at a quarter of the padded computed size
    mirrored: bool = False  # the image was flipped left-right before the model saw it
    computed: tuple[int, int] | None = None  # (H, W) the model saw; None for the geometry's
    queries: Tensor | None = None  # (Q, C), as the heads read them; None where not needed

    def geometry(self, geometry: Geometry) -> Geometry:
        """Return the view's own sizes, of an image of this geometry."""
        return Geometry(self.computed or geometry.computed, geometry.size)


Labels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclasses.dataclass
class Pixels:
    """Maps (H, W) made in one pass over the strips; ``anomaly`` by score name."""

    semantic: Labels
    anomaly: dict[str, NDArray[np.float32]]


def no_labels(size: tuple[int, int], num_classes: int) -> Labels:
    """Make an empty class map (H, W); its 255 stays free for void while that is possible."""
    if num_classes <= 255:
        return np.empty(size, dtype=np.uint8)
    return np.empty(size, dtype=np.uint16)


def class_probabilities(pred_logits: Tensor) -> Tensor:
    """Apply softmax over K+1 classes: (..., K+1)."""
    return pred_logits.float().softmax(dim=-1)


def strip_rows(views: Sequence[View], geometry: Geometry, max_elements: int | None = None) -> int:
    """Choose the rows of a strip, one number for all views."""
    if max_elements is None:
        kind = views[0].pred_masks.device.type
        max_elements = STRIP_ELEMENTS.get(kind, STRIP_ELEMENTS["cpu"])
    width = geometry.size[1]
    largest = max(
        max(width, view.pred_masks.shape[2] * MASK_STRIDE) * view.pred_masks.shape[0]
        for view in views
    )
    step = max(1, max_elements // largest)
    # Whole rows of the masks: each is then resized for one strip, or two at its edge
    return step - step % MASK_STRIDE if step > MASK_STRIDE else step


def mask_strips(
    view: View, geometry: Geometry, *, step: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of ``step`` rows and their (n, W, Q) float32 mask probabilities at full size.

    The receiver may overwrite them.
    """
    step = step or strip_rows([view], geometry)
    geometry = view.geometry(geometry)
    # (h, w, Q): queries last, so the resize is fast on a CPU and the sum over them one product.
    masks = view.pred_masks.float().permute(1, 2, 0).contiguous()
    height = geometry.size[0]
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        probabilities = _strip_logits(masks, geometry, rows).sigmoid_()
        yield rows, probabilities.flip(1) if view.mirrored else probabilities


def mask_row(view: View, geometry: Geometry, row: int) -> Tensor:
    """Return the (W, Q) float32 mask probabilities of one row at full size, as ``mask_strips``."""
    geometry = view.geometry(geometry)
    masks = view.pred_masks.float().permute(1, 2, 0)  # no copy: only a few rows of it are read
    probabilities = _strip_logits(masks, geometry, slice(row, row + 1))[0].sigmoid()
    return probabilities.flip(0) if view.mirrored else probabilities


def _strip_logits(masks: Tensor, geometry: Geometry, rows: slice) -> Tensor:
    """Return (n, W, Q) mask logits of some rows at full size."""
    if geometry.computed == geometry.size:
        return _computed_rows(masks, geometry.computed, rows.start, rows.stop)
    height, width = geometry.size
    above, below, weight = _row_weights(rows, geometry.computed[0], height, masks.device)
    first, last = int(above[0]), int(below[-1])
    computed = _computed_rows(masks, geometry.computed, first, last + 1)
    mixed = torch.lerp(computed[above - first], computed[below - first], weight)
    return _resize(mixed, (mixed.shape[0], width))


def _computed_rows(masks: Tensor, computed: tuple[int, int], start: int, stop: int) -> Tensor:
    """Resize the masks to the padded size and crop them to the computed one, rows start...stop."""
    # one mask row more on either side makes the result the same as resizing everything
    first = max(start // MASK_STRIDE - 1, 0)
    last = min(-(-stop // MASK_STRIDE) + 1, masks.shape[0])
    resized = _resize(
        masks[first:last], ((last - first) * MASK_STRIDE, masks.shape[1] * MASK_STRIDE)
    )
    offset = first * MASK_STRIDE
    return resized[start - offset : stop - offset, : computed[1]]


def _resize(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (n, W, Q), bilinear with align_corners=False."""
    # the batch axis comes first, or torch does not see a channels-last tensor and is 10x slower
    channels_last = rows[None].permute(0, 3, 1, 2)
    resized = F.interpolate(channels_last, size=size, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)[0]


def _row_weights(
    rows: slice, computed: int, height: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the two computed rows of each full-size row, and the share of the lower, (n, 1, 1)."""
    target = torch.arange(rows.start, rows.stop, dtype=torch.float32, device=device)
    position = ((target + 0.5) * (computed / height) - 0.5).clamp(min=0)
    above = position.floor().long().clamp(max=computed - 1)
    below = (above + 1).clamp(max=computed - 1)
    return above, below, (position - above)[:, None, None]


def class_scores(views: Sequence[View], geometry: Geometry) -> NDArray[np.float32]:
    """Sum class times mask probability over queries, average over views: (K, H, W) float32."""
    weights = [class_probabilities(view.pred_logits)[:, :-1].T for view in views]
    result = np.empty((len(weights[0]), *geometry.size), dtype=np.float32)
    for rows, masks in _strips(views, geometry):
        sums = [_sum_over_queries(w, m) for w, m in zip(weights, masks, strict=True)]
        result[:, rows] = _mean(sums).cpu().numpy()
    return result


def _strips(
    views: Sequence[View], geometry: Geometry
) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Yield slices of rows and every view's masks there."""
    step = strip_rows(views, geometry)
    for strips in zip(*(mask_strips(view, geometry, step=step) for view in views), strict=True):
        yield strips[0][0], tuple(masks for _, masks in strips)


def reduce_pixels(
    views: Sequence[View],
    geometry: Geometry,
    scores: Sequence[str],
    refine_with: Sequence[str] | None = None,
) -> Pixels:
    """Compute the semantic map and some anomaly scores in one pass, without full class scores.

    The views' class scores, and the claims ``eam`` reads, are averaged, then scored.

    Args:
        views: one, or more with flip averaging or several sizes.
        geometry: of the image.
        scores: names from ``scores.SCORES``.
        refine_with: class names to apply Mask2Anomaly's refinement with; None for the plain scores.

    Raises:
        ConfigError: for an unknown score, or a label set that cannot be refined.
    """
    for score in scores:
        check_score(score)
    readers = [_Reader(view, refine_with) for view in views]
    result = Pixels(
        no_labels(geometry.size, views[0].pred_logits.shape[-1] - 1),
        {score: np.empty(geometry.size, dtype=np.float32) for score in scores},
    )
    for rows, masks in _strips(views, geometry):
        sums_and_vetoes = [reader.read(m) for reader, m in zip(readers, masks, strict=True)]
        sums = _mean([view_sums for view_sums, _ in sums_and_vetoes])
        class_sums, claims = sums[:-1], sums[-1]
        # max is several times faster than argmax along the first axis
        semantic = class_sums.max(dim=0).indices
        result.semantic[rows] = semantic.to(torch.int32).cpu().numpy()
        vetoes = [vetoed for _, vetoed in sums_and_vetoes if vetoed is not None]
        for score in scores:
            definition = SCORES[score]
            values = definition.compute(claims if definition.reads == "claims" else class_sums)
            if vetoes:
                lowest = torch.full_like(values, definition.nominal_range(len(class_sums))[0])
                values = torch.lerp(values, lowest, _mean(vetoes))
            result.anomaly[score][rows] = values.cpu().numpy()
    return result


class _Reader:
    """Turns strips of one view's masks into class scores."""

    def __init__(self, view: View, refine_with: Sequence[str] | None) -> None:
        probabilities = class_probabilities(view.pred_logits)
        classes = probabilities[:, :-1]
        # one product gives the K class scores and, as its last row, the claims
        self.weights = torch.cat([classes, classes.amax(dim=1, keepdim=True)], dim=1).T
        self.refining = (
            None if refine_with is None else refining_queries(probabilities, refine_with)
        )

    def read(self, masks: Tensor) -> tuple[Tensor, Tensor | None]:
        """Turn (n, W, Q) masks into (K+1, n, W) sums, and (n, W) 1 where the refinement vetoes."""
        sums = _sum_over_queries(self.weights, masks)
        if self.refining is None:
            return sums, None
        queries, certainty = self.refining
        vetoed = (masks[..., queries] * certainty).amax(dim=-1) >= REFINE_MASK
        return sums, vetoed.to(sums.dtype)


def _sum_over_queries(weights: Tensor, masks: Tensor) -> Tensor:
    """Multiply (R, Q) weights with (n, W, Q) masks: (R, n, W)."""
    rows, width, queries = masks.shape
    return (weights @ masks.reshape(-1, queries).T).view(-1, rows, width)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(tuple(values)).mean(dim=0)
