"""What the KAN panel gets from Python; the same types stand in ``kan_panel/types.js``.

Matrices travel as 16-bit codes over their own largest value: a map of colours and an order need no
more, and three of every layer are a megabyte then instead of two.
"""

from __future__ import annotations

import base64
import io
from typing import Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2kan.inference.kan_view import LayerView
from mask2kan.inference.query_masks import QueryMask
from mask2kan.media.images import RGB

from ..files.kept import served
from .packing import packed

_LARGEST_CODE = 65535
_PHOTO_SIDE = 320  # pixels, the longer side: what a card shows on a fine screen


class Matrix(TypedDict):
    """Sizes of all edges, (O, I) row by row; a code ``c`` is ``c / 65535 · largest``."""

    codes: dict[str, Any]  # a served file of gzipped uint16
    largest: float


class Layer(TypedDict):
    """One layer and its edges' sizes on the picture."""

    in_features: int
    out_features: int
    grid_size: int
    spline_order: int
    base_activation: str
    outside_inner: float
    outside_knots: float
    spline_share: float
    spline: Matrix  # mean |spline| over the picture's queries
    total: Matrix  # mean |phi| over them
    grid: Matrix  # mean |phi| over the inner grid, without the picture


class Mask(TypedDict):
    """A thumbnail of a mask, 255 times its probability."""

    height: int
    width: int
    data: str  # base64, row by row


class Query(TypedDict):
    """A query that matters in the picture."""

    query: int
    name: str
    color: list[int] | None  # of its class; None for "no object"
    probability: float
    weight: float
    area: float
    mask: Mask


class Shown(TypedDict):
    """A KAN head on a picture.

    ``run`` is the comparison whose picture it is, None for the first example: what the panel's
    questions about edges and queries name.
    """

    run: str | None
    model: str
    title: str
    picture: str
    photo: dict[str, Any]  # a served JPEG
    num_queries: int
    spline_share: float  # mean of the layers'
    layers: list[Layer]
    queries: list[Query]


class QuerySizes(TypedDict):
    """Sizes of a layer's edges for one query."""

    spline: Matrix
    total: Matrix


def matrix(values: NDArray[np.floating[Any]], name: str) -> Matrix:
    """Pack sizes, none below 0."""
    largest = float(values.max(initial=0))
    codes = np.rint(values * (_LARGEST_CODE / (largest or 1))).astype(np.uint16)
    return {"codes": packed(codes, f"{name}.gz"), "largest": largest}


def layer(view: LayerView) -> Layer:
    """Pack one layer."""
    return {
        "in_features": view.in_features,
        "out_features": view.out_features,
        "grid_size": view.grid_size,
        "spline_order": view.spline_order,
        "base_activation": view.base_activation,
        "outside_inner": view.outside_inner,
        "outside_knots": view.outside_knots,
        "spline_share": view.spline_share,
        "spline": matrix(view.spline_norms, "spline"),
        "total": matrix(view.norms, "total"),
        "grid": matrix(view.grid_norms, "grid"),
    }


def query(listed: QueryMask) -> Query:
    """Pack one query."""
    height, width = listed.mask.shape
    return {
        "query": listed.query,
        "name": listed.label.name,
        "color": None if listed.color is None else list(listed.color),
        "probability": listed.label.probability,
        "weight": listed.weight,
        "area": listed.area,
        "mask": {
            "height": height,
            "width": width,
            "data": base64.b64encode(listed.mask.tobytes()).decode("ascii"),
        },
    }


def photo(pixels: RGB) -> dict[str, Any]:
    """Serve the picture, small, for masks to be shown on."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _PHOTO_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    buffer = io.BytesIO()
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    Image.fromarray(small).save(buffer, "JPEG", quality=85)
    return served(buffer.getvalue(), "photo.jpg")
