"""Show what a KAN ``mask_embed`` has learned: every edge's function, and an image's activations.

An edge's function phi(x) is drawn from its first knot to its last. Beyond them the spline is 0;
outside the inner grid, knots k to G + k, the spline space is incomplete. So the view also tells
where an image's activations lie.

Legend: Q queries, I inputs, O outputs of a layer, G grid intervals, k spline order.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mask2kan.checks import require
from mask2kan.errors import ConfigError
from mask2kan.inference.kan_activity import spline_share
from mask2kan.modeling.heads import MLP
from mask2kan.modeling.kan.edges import EdgeNorms, edge_curve, edge_norms, norms_by_part
from mask2kan.modeling.kan.layers import KAN, KANLinear

NUM_STRONGEST = 12


@dataclasses.dataclass(frozen=True)
class Edge:
    """One edge, by indices, and the norm it is ranked by."""

    input: int
    output: int
    norm: float


@dataclasses.dataclass(frozen=True, eq=False)
class LayerView:
    """One KAN layer and the activations of an image in it."""

    index: int  # from 0
    in_features: int
    out_features: int
    grid_size: int
    spline_order: int
    base_activation: str
    norms: NDArray[np.float32]  # (O, I) mean |phi| of every edge over the image's activations
    spline_norms: NDArray[np.float32]  # the same of the splines alone: how far they move the image
    grid_norms: NDArray[np.float32]  # the same over the inner grid, evenly sampled: without data
    strongest: tuple[Edge, ...]  # those with the largest norms, largest first
    strongest_by_spline: tuple[Edge, ...]  # those with the largest spline_norms
    outside_inner: float  # share of the image's activations outside the inner grid
    outside_knots: float  # share beyond the first or last knot
    spline_share: float  # of the layer's variance over the image's queries (``kan_activity``)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, none rounded; without the matrices."""
        values = dataclasses.asdict(self)
        for name in ("norms", "spline_norms", "grid_norms"):
            del values[name]
        return {
            **values,
            "strongest": list(values["strongest"]),
            "strongest_by_spline": list(values["strongest_by_spline"]),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class EdgeView:
    """The function on one edge (see ``EdgeCurve``), and an image's activations on it, if any."""

    layer: int
    input: int
    output: int
    x: NDArray[np.float32]
    base: NDArray[np.float32]
    spline: NDArray[np.float32]
    total: NDArray[np.float32]
    knots: NDArray[np.float32]
    inner: tuple[float, float]  # knots k and G + k, between which the spline space is complete
    grid_norm: float  # mean |phi| over the inner grid, evenly sampled: without data
    activations: NDArray[np.float32] | None = None  # (Q,) of the image's queries
    values: NDArray[np.float32] | None = None  # (Q,) phi at the activations
    norm: float | None = None  # mean |phi| over them
    spline_norm: float | None = None  # mean |spline| over them
    outside_inner: float | None = None  # share of them outside the inner grid
    outside_knots: float | None = None  # share of them beyond the first or last knot

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the attributes' names, none rounded."""
        values = dataclasses.asdict(self)
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }
        return {**plain, "inner": list(self.inner)}


def kan_head(model: nn.Module) -> KAN:
    """Return the KAN of a model; ConfigError when its ``mask_embed`` is none."""
    head = getattr(getattr(model, "transformer_decoder", None), "mask_embed", None)
    return _checked(head)


@torch.no_grad()
def layer_views(
    kan: nn.Module, inputs: Tensor, *, num_strongest: int = NUM_STRONGEST
) -> list[LayerView]:
    """View every layer of a ``mask_embed`` on one image's (Q, I) queries.

    Raises:
        ConfigError: when the head is no KAN, or the inputs or the number do not fit it.
    """
    require("num_strongest", num_strongest, 1)
    layers = _layers(_checked(kan))
    rows = _checked_inputs(layers[0], inputs)
    views = []
    for index, layer in enumerate(layers):
        norms, spline_norms = (part.float().cpu() for part in norms_by_part(layer, rows))
        outside_inner, outside_knots = _outside(rows, layer.grid, layer.spline_order)
        views.append(
            LayerView(
                index=index,
                in_features=layer.in_features,
                out_features=layer.out_features,
                grid_size=layer.grid_size,
                spline_order=layer.spline_order,
                base_activation=layer.base_activation,
                norms=norms.numpy(),
                spline_norms=spline_norms.numpy(),
                grid_norms=edge_norms(layer).float().cpu().numpy(),
                strongest=_strongest(norms, num_strongest),
                strongest_by_spline=_strongest(spline_norms, num_strongest),
                outside_inner=outside_inner,
                outside_knots=outside_knots,
                spline_share=spline_share(layer, rows) if len(rows) > 1 else 0.0,
            )
        )
        rows = layer(rows)
    return views


@torch.no_grad()
def query_norms(kan: nn.Module, layer: int, inputs: Tensor, query: int) -> EdgeNorms:
    """Measure every edge of a layer for one of an image's (Q, I) queries: |phi| and |spline|.

    Raises:
        ConfigError: when the head is no KAN, the layer or query does not exist, or the inputs do
            not fit.
    """
    layers = _layers(_checked(kan))
    kan_layer = _layer(layers, layer)
    rows = _checked_inputs(layers[0], inputs)
    if not 0 <= query < len(rows):
        raise ConfigError(
            f"Query {query} does not exist; this image has {len(rows)} queries, 0 to "
            f"{len(rows) - 1}."
        )
    return norms_by_part(kan_layer, _arriving(layers[:layer], rows)[query])


@torch.no_grad()
def edge_view(
    kan: nn.Module,
    layer: int,
    input: int,
    output: int,
    inputs: Tensor | None = None,
    *,
    num_points: int = 200,
) -> EdgeView:
    """View one edge's function, and one image's activations on it; indices count from 0.

    Args:
        kan: ``mask_embed`` of a model.
        layer: index.
        input: index of the layer's input.
        output: index of the layer's output.
        inputs: an image's (Q, I) queries; None for the curve alone.
        num_points: of the curve.

    Raises:
        ConfigError: when the head is no KAN, the layer or edge does not exist, the inputs do not
            fit, or there are fewer than two points.
    """
    layers = _layers(_checked(kan))
    kan_layer = _layer(layers, layer)
    curve = edge_curve(kan_layer, input, output, num_points)
    order = kan_layer.spline_order
    view = EdgeView(
        layer,
        input,
        output,
        **curve._asdict(),
        inner=(float(curve.knots[order]), float(curve.knots[-1 - order])),
        grid_norm=float(edge_norms(kan_layer)[output, input]),
    )
    if inputs is None:
        return view
    rows = _arriving(layers[:layer], _checked_inputs(layers[0], inputs))
    return _with_image(view, kan_layer, rows)


def _with_image(view: EdgeView, layer: KANLinear, rows: Tensor) -> EdgeView:
    """Add the activations of (Q, I) inputs of the view's layer."""
    values = _edge_values(layer, view.input, view.output, rows)
    inputs = rows[:, view.input]
    base = layer.activate(inputs) * layer.base_weight[view.output, view.input].to(rows.dtype)
    column = slice(view.input, view.input + 1)
    outside_inner, outside_knots = _outside(rows[:, column], layer.grid[column], layer.spline_order)
    return dataclasses.replace(
        view,
        activations=inputs.float().cpu().numpy(),
        values=values.float().cpu().numpy(),
        norm=float(values.abs().mean()),
        spline_norm=float((values - base).abs().mean()),
        outside_inner=outside_inner,
        outside_knots=outside_knots,
    )


def _edge_values(layer: KANLinear, input: int, output: int, rows: Tensor) -> Tensor:
    """Compute (Q,) phi of one edge: the layer with the weights of all other edges left out."""
    weight = layer.edge_weight().unflatten(1, (layer.in_features, -1))
    alone = torch.zeros_like(weight)
    alone[output, input] = weight[output, input]
    return cast(Tensor, layer(rows, alone.flatten(1))[:, output])


def _outside(rows: Tensor, grid: Tensor, order: int) -> tuple[float, float]:
    """Return the shares of (Q, I) activations outside the inner grid and beyond all knots."""
    inner, outer = (
        float(((rows < grid[:, first]) | (rows > grid[:, -1 - first])).double().mean())
        for first in (order, 0)
    )
    return inner, outer


def _strongest(norms: Tensor, count: int) -> tuple[Edge, ...]:
    values, places = norms.flatten().topk(min(count, norms.numel()))
    return tuple(
        Edge(place % norms.shape[1], place // norms.shape[1], value)
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    )


def _checked(head: object) -> KAN:
    if isinstance(head, KAN):
        return head
    kind = "an MLP" if isinstance(head, MLP) else f"of type {type(head).__name__}"
    raise ConfigError(
        f"This model's head (mask_embed) is {'missing' if head is None else kind}: it has no "
        "functions on its edges to show. Choose a model with a KAN head, such as mask2kan_road."
    )


def _layers(kan: KAN) -> list[KANLinear]:
    layers = [layer for layer in kan.layers if isinstance(layer, KANLinear)]
    assert len(layers) == len(kan.layers)
    return layers


def _layer(layers: list[KANLinear], index: int) -> KANLinear:
    if not 0 <= index < len(layers):
        raise ConfigError(
            f"Layer {index} does not exist; this KAN has {len(layers)} layers, 0 to "
            f"{len(layers) - 1}."
        )
    return layers[index]


def _arriving(earlier: list[KANLinear], rows: Tensor) -> Tensor:
    """Return what the layers before make of the head's (Q, I) inputs."""
    for layer in earlier:
        rows = layer(rows)
    return rows


def _checked_inputs(first: KANLinear, inputs: Tensor) -> Tensor:
    """Return the (Q, I) inputs in float32 or better, where the layer is."""
    if inputs.ndim != 2 or inputs.shape[1] != first.in_features or not len(inputs):
        raise ConfigError(
            f"The inputs have shape {tuple(inputs.shape)}; they must be (Q, {first.in_features}), "
            "at least one query."
        )
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    return inputs.detach().to(first.grid.device, dtype)
