"""How long a KAN takes: ours against efficient-kan's formula, and a KAN model against an MLP model.

    PYTHONPATH=. python tests/benchmarks/kan.py
    PYTHONPATH=. python tests/benchmarks/kan.py --repeats 50 --json kan.json

First table: mask_embed of the thesis, [256, 256, 256], at 100 rows (the queries of one image)
and 1,600, forward and backward. The peer is efficient-kan's way of computing it: the recursion
of Cox and de Boor over all functions of the basis, then one product for the base branch and one
for the splines, with the same weights; results and gradients are compared. The floor is the
products' operations over the rate of a matrix product measured in this run. Second table: the
bundled pair's architectures, which differ in mask_embed alone, on one image; since whole models
wander by more than the heads differ, the heads' own calls are timed too, and what their difference
adds to an MLP model.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable

import measure
import torch
from torch import Tensor
from torch.nn import functional as F

from mask2kan.modeling.heads import shared_weights
from mask2kan.modeling.kan.layers import KAN
from mask2kan.modeling.mask2kan import create_model

SIZES = (256, 256, 256)
ROWS = (100, 1600)
IMAGE = (512, 1024)


def recursive_basis(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """(N, I) to (N, I, P): every function of every degree up to k, as efficient-kan has them."""
    x = x.unsqueeze(-1)
    basis = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
    for degree in range(1, order + 1):
        rising = (x - grid[:, : -(degree + 1)]) / (grid[:, degree:-1] - grid[:, : -(degree + 1)])
        falling = (grid[:, degree + 1 :] - x) / (grid[:, degree + 1 :] - grid[:, 1:-degree])
        basis = rising * basis[..., :-1] + falling * basis[..., 1:]
    return basis.contiguous()


def efficient_kan(kan: KAN, x: Tensor) -> Tensor:
    """The same network by the peer's formula."""
    for layer in kan.layers:
        base = F.linear(F.silu(x), layer.base_weight)
        basis = recursive_basis(x, layer.grid, layer.spline_order)
        weight = layer.spline_weight * layer.spline_scaler.unsqueeze(-1)
        x = base + F.linear(basis.flatten(1), weight.flatten(1))
    return x


def with_gradients(network: Callable[[Tensor], Tensor], kan: KAN, x: Tensor) -> list[Tensor]:
    """Output, and gradients of its squared mean in the input and all weights."""
    output = network(x)
    return [output, *torch.autograd.grad(output.square().mean(), (x, *kan.parameters()))]


def without_gradients(network: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The output, nothing recorded."""
    with torch.inference_mode():
        return [network(x)]


def head_setup(rows: int, peer: bool, backward: bool) -> Callable[[], list[Tensor]]:
    """The call that is timed."""
    torch.manual_seed(0)
    kan = KAN(SIZES)
    # wide enough to leave the grid at times, as a decoder's normed queries do
    x = torch.randn(rows, SIZES[0]).requires_grad_()
    network = functools.partial(efficient_kan, kan) if peer else kan
    if backward:
        return functools.partial(with_gradients, network, kan, x)
    return functools.partial(without_gradients, network, x)


def head_rows(repeats: int) -> list[measure.Row]:
    """One row per size and pass."""
    rate = measure.gemm_rate()
    table: list[measure.Row] = []
    for rows in ROWS:
        for backward in (False, True):
            setups = {
                name: functools.partial(head_setup, rows, name != "ours", backward)
                for name in ("ours", "efficient-kan")
            }
            calls = {name: setup() for name, setup in setups.items()}
            pairs = zip(
                *([found.detach() for found in call()] for call in calls.values()), strict=True
            )
            apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
            times = measure.by_turns(calls, repeats)
            peaks = {name: measure.peak_megabytes(setup) for name, setup in setups.items()}
            products = 2 * rows * 9 * sum(a * b for a, b in itertools.pairwise(SIZES))
            ours, peer = times["ours"], times["efficient-kan"]
            table.append(
                {
                    "rows": rows,
                    "pass": "forward+backward" if backward else "forward",
                    "ours ms": 1e3 * statistics.median(ours),
                    "efficient-kan ms": 1e3 * statistics.median(peer),
                    "speed-up": measure.ratio(peer, ours),
                    "floor ms": 1e3 * products * (3 if backward else 1) / rate,
                    "ours MB": peaks["ours"]["call_mb"],
                    "efficient-kan MB": peaks["efficient-kan"]["call_mb"],
                    "largest relative difference": apart,
                }
            )
    return table


def model_setup(name: str) -> Callable[[], object]:
    """One forward pass of a model with random weights."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    images = torch.rand(1, 3, *IMAGE)

    def call() -> object:
        with torch.inference_mode():
            return model(images, with_aux=False)

    return call


def head_calls(name: str) -> Callable[[], object]:
    """What one forward pass asks of mask_embed: a call per layer and one before the first."""
    torch.manual_seed(0)
    decoder = create_model(name).eval().transformer_decoder
    queries = torch.randn(1, *decoder.query_feat.weight.shape)

    def call() -> object:
        with torch.inference_mode():
            shared = shared_weights(decoder.mask_embed)
            return [decoder.mask_embed(queries, **shared) for _ in range(len(decoder.layers) + 1)]

    return call


def model_rows(repeats: int) -> list[measure.Row]:
    """KAN model against MLP model, per backbone."""
    table: list[measure.Row] = []
    for backbone in ("mobilenetv2", "swin_t"):
        names = (f"mask2kan_{backbone}", f"mask2former_{backbone}")
        times = measure.by_turns({name: model_setup(name) for name in names}, repeats)
        peaks = [
            measure.peak_megabytes(functools.partial(model_setup, name))["peak_mb"]
            for name in names
        ]
        kan, mlp = (times[name] for name in names)
        heads = measure.by_turns({name: head_calls(name) for name in names}, 5 * repeats)
        kan_head, mlp_head = (statistics.median(heads[name]) for name in names)
        table.append(
            {
                "backbone": backbone,
                "KAN model s": statistics.median(kan),
                "MLP model s": statistics.median(mlp),
                "KAN / MLP": measure.ratio(kan, mlp),
                "KAN head ms": 1e3 * kan_head,
                "MLP head ms": 1e3 * mlp_head,
                "1 + difference / MLP model": 1 + (kan_head - mlp_head) / statistics.median(mlp),
                "KAN peak MB": peaks[0],
                "MLP peak MB": peaks[1],
            }
        )
    return table


def main() -> None:
    """Print both tables."""
    parser = measure.parser(__doc__, 30)
    parser.add_argument(
        "--model-repeats", type=int, default=7, help="default 7; 0 skips the models"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts = measure.about(arguments.threads)
    heads = head_rows(arguments.repeats)
    measure.show(heads, facts)
    models = model_rows(arguments.model_repeats) if arguments.model_repeats else []
    if models:
        measure.show(models, {"picture": IMAGE})
    measure.write({"heads": heads, "models": models}, facts, arguments.json)


if __name__ == "__main__":
    main()
