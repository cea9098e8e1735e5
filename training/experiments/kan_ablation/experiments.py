"""The nine experiments of the thesis's Table 3.6: the default and single changes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mask2kan.checks import require_choice


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One row of the table; the fields' defaults are the thesis's.

    Attributes:
        grid_size: G, intervals of the grid.
        spline_order: k, degree of the splines.
        base_activation: as ``KANLinear`` names it.
        spline_scaler: whether each spline has a factor of its own.
        grid_updated: whether the grid follows the data; else it stays uniform on [-1, 1].
    """

    name: str
    title: str
    grid_size: int = 5
    spline_order: int = 3
    base_activation: str = "silu"
    spline_scaler: bool = True
    regularized: bool = True
    grid_updated: bool = True


DEFAULT = "default"
EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Experiment(DEFAULT, "Default"),
        Experiment("grid_3", "Grid size 3", grid_size=3),
        Experiment("grid_7", "Grid size 7", grid_size=7),
        Experiment("order_2", "Spline order 2", spline_order=2),
        Experiment("order_4", "Spline order 4", spline_order=4),
        Experiment("no_spline_scaler", "No spline scaler", spline_scaler=False),
        Experiment("relu", "ReLU instead of SiLU", base_activation="relu"),
        Experiment("no_regularization", "No regularisation", regularized=False),
        Experiment("no_grid_update", "No grid update", grid_updated=False),
    )
}


def choose(names: Sequence[str]) -> list[Experiment]:
    """Choose experiments by name, none for all, in the table's order; always with the default.

    Raises:
        ConfigError: for an unknown name, listing the nearest.
    """
    for name in names:
        require_choice("experiment", name, EXPERIMENTS)
    wanted = {DEFAULT, *(names or EXPERIMENTS)}
    return [experiment for experiment in EXPERIMENTS.values() if experiment.name in wanted]
