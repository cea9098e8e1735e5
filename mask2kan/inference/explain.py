"""Explain an anomaly score of one pixel: the classes and queries that lead to it.

Every score is a function of p_qc, the probability of class c for query q, and m_q, the query's mask
probability at the pixel (see ``inference.scores``). Float32 parts are summed in float64: about 1e-6
from the maps' values. Contributions are averaged over the views (sizes, flips), as class scores
are. Mask2Anomaly's refinement is not explained, only the plain score.

Legend: Q queries, K classes, V views, H W image size.
"""

from __future__ import annotations

import base64
import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mask2kan.checks import require
from mask2kan.errors import ConfigError
from mask2kan.inference.postprocess import MASK_STRIDE, View, class_probabilities, mask_row
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.scores import SCORES, PixelClaims, check_score

NO_OBJECT = "no object"
THUMBNAIL_SIDE = 96  # pixels of a mask's thumbnail along its longer side, at most


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """A class and its score S_c at the pixel, averaged over the views."""

    index: int
    name: str
    color: tuple[int, int, int]
    score: float


@dataclasses.dataclass(frozen=True)
class Label:
    """The most probable class of a query; ``index`` is None for "no object"."""

    index: int | None
    name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class QueryView:
    """One query in one view; the probabilities' product is its part in that view's class score."""

    mirrored: bool  # of the left-right flipped image
    class_probability: float  # p_qc for the pixel's strongest class
    mask_probability: float  # m_q at the pixel
    label: Label


@dataclasses.dataclass(frozen=True, eq=False)
class QueryPart:
    """One query's part in the strongest class score, averaged over the views."""

    query: int
    contribution: float  # p_qc times m_q
    class_probability: float  # p_qc
    mask_probability: float  # m_q at the pixel
    label: Label
    views: tuple[QueryView, ...]
    mask: NDArray[np.uint8]  # (h', w') thumbnail of the mask, 255 times its probability

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; the mask as ``height``, ``width`` and base64 ``data``, row by row."""
        height, width = self.mask.shape
        data = base64.b64encode(self.mask.tobytes()).decode("ascii")
        return {
            **dataclasses.asdict(self),
            "views": [dataclasses.asdict(view) for view in self.views],
            "mask": {"height": height, "width": width, "data": data},
        }


@dataclasses.dataclass(frozen=True, eq=False)
class PixelExplanation:
    """An anomaly score of one pixel and where it comes from.

    Attributes:
        x: column, from the left.
        y: row, from the top.
        score: name of the anomaly score.
        value: of the plain (not refined) score.
        classes: largest scores first; the first is the predicted class.
        queries: largest contributions to the first class first.
        rest: sum of the other queries' contributions; with those listed, the first class's score.
        steps: one mapping with ``value``; ``others`` sums the terms that are not listed:

            - msp: ``index``, ``name``, ``largest_class_score``; value = 1 - that.
            - entropy: ``total`` of the class scores, ``terms`` with ``index``, ``name``, ``share``,
              ``surprise`` = -log share, ``term`` = their product, ``others``, ``log_num_classes``;
              value = (sum of terms + others) / log_num_classes, or 1 where the total is 0.
            - energy: ``terms`` with ``index``, ``name``, ``class_score``, ``term`` = exp of it,
              ``others``, ``logsumexp`` = log(sum of terms + others); value = -logsumexp.
            - rba: ``terms`` with ``index``, ``name``, ``class_score``, ``term`` = tanh of it,
              ``others``; value = -(sum of terms + others).
            - eam: ``terms`` with ``query``, its best class other than "no object" as ``index`` and
              ``name``, ``class_probability``, ``mask_probability``, ``term`` = their product,
              ``others``; value = 1 - (sum of terms + others).
        refined: whether the prediction's own map is refined; ``value`` is not.
    """

    x: int
    y: int
    score: str
    value: float
    classes: tuple[ClassScore, ...]
    queries: tuple[QueryPart, ...]
    rest: float
    steps: tuple[dict[str, Any], ...]
    refined: bool
    notes: tuple[str, ...]

    @property
    def predicted(self) -> ClassScore:
        """The pixel's class."""
        return self.classes[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, none rounded."""
        classes = [{**dataclasses.asdict(item), "color": list(item.color)} for item in self.classes]
        return {
            "x": self.x,
            "y": self.y,
            "score": self.score,
            "value": self.value,
            "predicted": classes[0],
            "classes": classes,
            "queries": [query.to_json() for query in self.queries],
            "rest": self.rest,
            "steps": list(self.steps),
            "refined": self.refined,
            "notes": list(self.notes),
        }


def explain_pixel(
    prediction: Prediction,
    x: int,
    y: int,
    score: str | None = None,
    *,
    num_classes: int = 5,
    num_queries: int = 6,
) -> PixelExplanation:
    """Explain the anomaly score of one pixel.

    Args:
        prediction: from a ``Predictor``.
        x: column in the full-size image, from 0 at the left.
        y: row, from 0 at the top.
        score: one of ``inference.scores.SCORES``; None for the prediction's settings'.
        num_classes: the most classes to list.
        num_queries: the most queries to list.

    Raises:
        ConfigError: for a pixel outside the image, an unknown score, or counts below 1.
    """
    score = score or prediction.settings.score
    check_score(score)
    x, y = _checked_pixel(prediction, x, y)
    require("num_classes", num_classes, 1)
    require("num_queries", num_queries, 1)
    samples = _samples(prediction, x, y)
    sums = np.mean([sample.class_scores for sample in samples], axis=0)
    predicted = int(prediction.semantic[y, x])
    # where two classes tie within rounding, the semantic map decides which comes first
    order = sorted(range(len(sums)), key=lambda index: (index != predicted, -sums[index]))
    queries, rest = _query_parts(prediction, samples, predicted, num_queries)
    names = prediction.class_names
    step = _step(score, _mean_claims(samples), names, classes=num_classes, queries=num_queries)
    note = f"The prediction's {score} score is refined; what is explained is the plain score."
    return PixelExplanation(
        x=x,
        y=y,
        score=score,
        value=float(prediction.anomaly(score, refine=False)[y, x]),
        classes=tuple(
            ClassScore(
                index, names[index], class_color(prediction.palette[index]), float(sums[index])
            )
            for index in order[:num_classes]
        ),
        queries=queries,
        rest=rest,
        steps=(step,),
        refined=prediction.refine,
        notes=(note,) if prediction.refine else (),
    )


def _checked_pixel(prediction: Prediction, x: object, y: object) -> tuple[int, int]:
    height, width = prediction.size
    if isinstance(x, numbers.Integral) and isinstance(y, numbers.Integral):
        column, row = int(x), int(y)
        if 0 <= column < width and 0 <= row < height:
            return column, row
    raise ConfigError(
        f"There is no pixel (x {x}, y {y}); the image has {width} × {height} pixels, so x is a "
        f"whole number from 0 to {width - 1} and y one from 0 to {height - 1}."
    )


class _Sample(NamedTuple):
    """One view's float32 numbers at the pixel, as float64."""

    mirrored: bool
    probabilities: NDArray[np.float64]  # (Q, K+1)
    masks: NDArray[np.float64]  # (Q,)

    @property
    def class_scores(self) -> NDArray[np.float64]:
        """(K,)."""
        return cast(NDArray[np.float64], self.probabilities[:, :-1].T @ self.masks)


def _mean_claims(samples: Sequence[_Sample]) -> PixelClaims:
    """Average over the views."""
    classes = torch.tensor(np.array([sample.probabilities[:, :-1] for sample in samples]))  # VQK
    masks = torch.tensor(np.array([sample.masks for sample in samples]))
    certainty = classes.amax(dim=2)
    return PixelClaims(
        torch.tensor(np.mean([sample.class_scores for sample in samples], axis=0)),
        classes.mean(dim=0).argmax(dim=1),
        certainty.mean(dim=0),
        masks.mean(dim=0),
        (certainty * masks).mean(dim=0),
    )


def _step(
    score: str, claims: PixelClaims, class_names: Sequence[str], *, classes: int, queries: int
) -> dict[str, Any]:
    """Turn a score's terms into plain values: the largest listed, the others summed."""
    terms = SCORES[score].terms(claims)
    step: dict[str, Any] = {name: value.item() for name, value in terms.steps.items()}
    if terms.columns:
        of_queries = terms.rows == "queries"
        rank = terms.columns["term"] if of_queries else claims.class_scores
        order = rank.argsort(descending=True, stable=True).tolist()
        count = queries if of_queries else classes
        step["terms"] = [
            {
                "query" if of_queries else "index": index,
                **{name: values[index].item() for name, values in terms.columns.items()},
            }
            for index in order[:count]
        ]
        step["others"] = terms.columns["term"][order[count:]].sum().item()
    for named in (step, *step.get("terms", ())):
        if "index" in named:
            named["name"] = class_names[named["index"]]
    return {**step, "value": terms.value.item()}


def _samples(prediction: Prediction, x: int, y: int) -> list[_Sample]:
    with torch.inference_mode():
        return [
            _Sample(
                view.mirrored,
                class_probabilities(view.pred_logits).cpu().double().numpy(),
                mask_row(view, prediction.geometry, y)[x].cpu().double().numpy(),
            )
            for view in prediction.views
        ]


def _query_parts(
    prediction: Prediction, samples: Sequence[_Sample], of_class: int, count: int
) -> tuple[tuple[QueryPart, ...], float]:
    """List the largest contributions to a class's score, and sum the others."""
    class_probabilities = np.array([sample.probabilities[:, of_class] for sample in samples])
    masks = np.array([sample.masks for sample in samples])  # (V, Q), as above
    contributions = (class_probabilities * masks).mean(axis=0)
    order = np.argsort(-contributions, kind="stable")
    largest, others = order[:count], order[count:]
    labels = np.mean([sample.probabilities for sample in samples], axis=0)
    names = prediction.class_names
    thumbnails = mask_thumbnails(prediction.views, prediction.compute_size, largest)
    parts = tuple(
        QueryPart(
            query=int(query),
            contribution=float(contributions[query]),
            class_probability=float(class_probabilities[:, query].mean()),
            mask_probability=float(masks[:, query].mean()),
            label=best_label(labels[query], names),
            views=tuple(
                QueryView(
                    sample.mirrored,
                    float(sample.probabilities[query, of_class]),
                    float(sample.masks[query]),
                    best_label(sample.probabilities[query], names),
                )
                for sample in samples
            ),
            mask=thumbnail,
        )
        for query, thumbnail in zip(largest, thumbnails, strict=True)
    )
    return parts, float(contributions[others].sum())


def best_label(probabilities: NDArray[np.float64], names: Sequence[str]) -> Label:
    """Name the most probable of K+1 classes."""
    best = int(probabilities.argmax())
    probability = float(probabilities[best])
    if best == len(names):
        return Label(None, NO_OBJECT, probability)
    return Label(best, names[best], probability)


def class_color(rgb: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return a colour of the palette as plain numbers."""
    red, green, blue = (int(value) for value in rgb)
    return red, green, blue


def mask_thumbnails(
    views: Sequence[View], computed: tuple[int, int], queries: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Shrink some queries' masks to (n, h', w'), at most ``THUMBNAIL_SIDE`` and the masks' size.

    A pixel of a thumbnail is the mean mask probability over its part of the image without padding.
    """
    cells = [-(-side // MASK_STRIDE) for side in computed]
    scale = min(1.0, THUMBNAIL_SIDE / max(cells))
    height, width = (max(1, round(side * scale)) for side in cells)
    total = np.zeros((len(queries), height, width))
    for view in views:
        index = torch.from_numpy(queries).to(view.pred_masks.device)
        with torch.inference_mode():
            masks = view.pred_masks[index].float().sigmoid().cpu().double().numpy()
        own = view.computed or computed
        rows = _means_over_parts(own[0], height, masks.shape[1])
        columns = _means_over_parts(own[1], width, masks.shape[2])
        small = rows @ masks @ columns.T
        total += small[:, :, ::-1] if view.mirrored else small
    return np.rint(255 * total / len(views)).astype(np.uint8)


def _means_over_parts(length: int, parts: int, cells: int) -> NDArray[np.float64]:
    """Weigh cells in the means over equal parts of a length: (parts, cells)."""
    edges = np.linspace(0, length, parts + 1)[:, None]
    starts = MASK_STRIDE * np.arange(cells, dtype=np.float64)
    overlap = np.minimum(edges[1:], starts + MASK_STRIDE) - np.maximum(edges[:-1], starts)
    return overlap.clip(min=0) * (parts / length)
