"""Show what a KAN ``mask_embed`` has learned: every edge's function, and an image's activations.

An edge's function phi(x) is drawn from its first knot to its last (``edge_curve``). Beyond
them the spline is 0 and only the base branch remains; between the first knot and knot k, and
between knot G + k and the last, the spline space is incomplete. Where the activations of an image
lie is therefore part of the view.

Legend: Q queries, I inputs, O outputs of a layer, G grid intervals, k spline order.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mask2kan.checks import require
from mask2kan.errors import ConfigError
from mask2kan.inference.kan_activity import spline_share
from mask2kan.modeling.heads import MLP
from mask2kan.modeling.kan.edges import activation_norms, edge_curve, edge_norms
from mask2kan.modeling.kan.layers import KAN, KANLinear

NUM_STRONGEST = 12


@dataclasses.dataclass(frozen=True)
class Edge:
    """One edge and its weight.

    Attributes:
        input: index.
        output: index.
        norm: mean |phi| over the data.
    """

    input: int
    output: int
    norm: float


@dataclasses.dataclass(frozen=True, eq=False)
class LayerView:
    """One KAN layer and the activations of an image in it.

    Attributes:
        index: of the layer, from 0.
        in_features: I.
        out_features: O.
        grid_size: G.
        spline_order: k.
        base_activation: of every edge's base branch.
        norms: (O, I) float32, mean |phi| of every edge over the image's activations.
        grid_norms: (O, I) float32, the same over the inner grid, evenly sampled: without data.
        strongest: the edges with the largest ``norms``, largest first.
        outside_inner: share of the image's activations outside the inner grid, knot k to knot
            G + k of their input.
        outside_knots: share beyond the first or last knot, where the spline is 0.
        spline_share: of the layer's variance over the image's queries (``kan_activity``).
    """

    index: int
    in_features: int
    out_features: int
    grid_size: int
    spline_order: int
    base_activation: str
    norms: NDArray[np.float32]
    grid_norms: NDArray[np.float32]
    strongest: tuple[Edge, ...]
    outside_inner: float
    outside_knots: float
    spline_share: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, none rounded; without the two matrices."""
        return {
            "index": self.index,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "grid_size": self.grid_size,
            "spline_order": self.spline_order,
            "base_activation": self.base_activation,
            "strongest": [dataclasses.asdict(edge) for edge in self.strongest],
            "outside_inner": self.outside_inner,
            "outside_knots": self.outside_knots,
            "spline_share": self.spline_share,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class EdgeView:
    """The function on one edge, and the activations of an image on it; float32 arrays.

    Attributes:
        layer: index.
        input: index.
        output: index.
        x: (num_points,) from the first knot to the last.
        base: (num_points,) the base branch, weight included.
        spline: (num_points,) the spline, scaler included.
        total: (num_points,) phi, their sum.
        knots: (G + 2k + 1,).
        inner: knot k and knot G + k, between which the spline space is complete.
        grid_norm: mean |phi| over the inner grid, evenly sampled: without data.
        activations: (Q,) of the image's queries at this input; None without an image,
            as are the following.
        values: (Q,) phi at each of them.
        norm: mean |phi| over them.
        outside_inner: share of them outside the inner grid.
        outside_knots: share of them beyond the first or last knot, where the spline is 0.
    """

    layer: int
    input: int
    output: int
    x: NDArray[np.float32]
    base: NDArray[np.float32]
    spline: NDArray[np.float32]
    total: NDArray[np.float32]
    knots: NDArray[np.float32]
    inner: tuple[float, float]
    grid_norm: float
    activations: NDArray[np.float32] | None = None
    values: NDArray[np.float32] | None = None
    norm: float | None = None
    outside_inner: float | None = None
    outside_knots: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values under the attributes' names, none rounded."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }
        return {**plain, "inner": list(self.inner)}


def kan_head(model: nn.Module) -> KAN:
    """The KAN of a model.

    Raises:
        ConfigError: when its ``mask_embed`` is none.
    """
    head = getattr(getattr(model, "transformer_decoder", None), "mask_embed", None)
    return _checked(head)


@torch.no_grad()
def layer_views(
    kan: nn.Module, inputs: Tensor, *, num_strongest: int = NUM_STRONGEST
) -> list[LayerView]:
    """Every layer of a KAN on one image's queries.

    Args:
        kan: ``mask_embed`` of a model.
        inputs: (Q, I) inputs of the first layer, from ``head_inputs``; any device and dtype.
        num_strongest: how many edges are listed, at most.

    Raises:
        ConfigError: when the head is no KAN, or the inputs or the number do not fit it.
    """
    require("num_strongest", num_strongest, 1)
    layers = _layers(_checked(kan))
    rows = _checked_inputs(layers[0], inputs)
    views = []
    for index, layer in enumerate(layers):
        norms = activation_norms(layer, rows).float().cpu()
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
                grid_norms=edge_norms(layer).float().cpu().numpy(),
                strongest=_strongest(norms, num_strongest),
                outside_inner=outside_inner,
                outside_knots=outside_knots,
                spline_share=spline_share(layer, rows) if len(rows) > 1 else 0.0,
            )
        )
        rows = layer(rows)
    return views


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
    """One edge's function, and one image's activations on it.

    Args:
        kan: ``mask_embed`` of a model.
        layer: index, from 0.
        input: index of the layer's input.
        output: index of the layer's output.
        inputs: (Q, I) inputs of the first layer, from ``head_inputs``; None for the curve alone.
        num_points: of the curve.

    Raises:
        ConfigError: when the head is no KAN, the layer or edge does not exist, the inputs do not
            fit, or there are fewer than two points.
    """
    layers = _layers(_checked(kan))
    if not 0 <= layer < len(layers):
        raise ConfigError(
            f"Layer {layer} does not exist; this KAN has {len(layers)} layers, 0 to "
            f"{len(layers) - 1}."
        )
    chosen = layers[layer]
    curve = edge_curve(chosen, input, output, num_points)
    order = chosen.spline_order
    view = EdgeView(
        layer=layer,
        input=input,
        output=output,
        x=curve.x,
        base=curve.base,
        spline=curve.spline,
        total=curve.total,
        knots=curve.knots,
        inner=(float(curve.knots[order]), float(curve.knots[-1 - order])),
        grid_norm=float(edge_norms(chosen)[output, input]),
    )
    if inputs is None:
        return view
    rows = _checked_inputs(layers[0], inputs)
    for before in layers[:layer]:
        rows = before(rows)
    return _with_image(view, chosen, rows)


def _with_image(view: EdgeView, layer: KANLinear, rows: Tensor) -> EdgeView:
    """The view with the activations of (Q, I) inputs of its layer."""
    values = _edge_values(layer, view.input, view.output, rows)
    column = slice(view.input, view.input + 1)
    outside_inner, outside_knots = _outside(rows[:, column], layer.grid[column], layer.spline_order)
    return dataclasses.replace(
        view,
        activations=rows[:, view.input].float().cpu().numpy(),
        values=values.float().cpu().numpy(),
        norm=float(values.abs().mean()),
        outside_inner=outside_inner,
        outside_knots=outside_knots,
    )


def _edge_values(layer: KANLinear, input: int, output: int, rows: Tensor) -> Tensor:
    """(Q,) phi of one edge: the layer with the weights of all other edges left out."""
    weight = layer.edge_weight().unflatten(1, (layer.in_features, -1))
    alone = torch.zeros_like(weight)
    alone[output, input] = weight[output, input]
    values: Tensor = layer(rows, alone.flatten(1))[:, output]
    return values


def _outside(rows: Tensor, grid: Tensor, order: int) -> tuple[float, float]:
    """Shares of (Q, I) activations outside the inner grid and beyond all knots of their input."""
    shares = []
    for low, high in ((grid[:, order], grid[:, -1 - order]), (grid[:, 0], grid[:, -1])):
        shares.append(float(((rows < low) | (rows > high)).double().mean()))
    return shares[0], shares[1]


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
    found = "missing" if head is None else kind
    raise ConfigError(
        f"This model's mask_embed is {found}; only a KAN has functions on its edges. Take a model "
        "with mask_embed kan, such as mask2kan_road."
    )


def _layers(kan: KAN) -> list[KANLinear]:
    layers = [layer for layer in kan.layers if isinstance(layer, KANLinear)]
    assert len(layers) == len(kan.layers)
    return layers


def _checked_inputs(first: KANLinear, inputs: Tensor) -> Tensor:
    """(Q, I) in float32 or better, where the layer is."""
    if inputs.ndim != 2 or inputs.shape[1] != first.in_features or not len(inputs):
        raise ConfigError(
            f"The inputs have shape {tuple(inputs.shape)}; they must be (Q, {first.in_features}), "
            "at least one query."
        )
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    return inputs.detach().to(first.grid.device, dtype)
