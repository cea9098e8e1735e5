"""Multi-scale deformable attention on the CPU: backends against each other and plain loops."""

from __future__ import annotations

import concurrent.futures
import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mask2kan.errors import BackendError
from mask2kan.ops import choose_backend, cpu, deform_attn, fused, ms_deform_attn
from tests.attention_cases import SHAPES, Case, make_case, run

FUSED = pytest.param("fused", marks=pytest.mark.skipif(bool(fused.missing()), reason="no numba"))
FAST = ["cpu", FUSED]
NAMES = ("output", "value", "locations", "weights")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def assert_agree(case: Case, tolerance: float, backend: str = "cpu") -> None:
    """Errors below ``tolerance`` of each tensor's largest magnitude.

    The output is not differentiable where a location meets a pixel centre, so location gradients
    within 1e-3 pixels of one are left out.
    """
    _, shapes, locations, _ = case
    extent = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float64)[:, None]
    pixel = locations.double() * extent - 0.5
    smooth = ((pixel - pixel.round()).abs() > 1e-3).all(-1, keepdim=True)
    expected, actual = run(case, "reference"), run(case, backend)
    for name, wanted, got in zip(NAMES, expected, actual, strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        mask = smooth if name == "locations" else True
        error = ((wanted - got) * mask).abs().max() / (wanted * mask).abs().max().clamp(min=1e-30)
        assert error <= tolerance, f"{name}: {error:.2e}"


def by_loops(case: Case) -> Tensor:
    """The definition, one number at a time."""
    value, shapes, locations, weights = case
    batch, _, heads, channels = value.shape
    output = value.new_zeros(batch, locations.shape[1], heads, channels)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in locations.shape[:5])).tolist():
        image, query, head, level, point = index
        height, width = shapes[level]
        start = sum(h * w for h, w in shapes[:level])
        x = locations[image, query, head, level, point, 0].item() * width - 0.5
        y = locations[image, query, head, level, point, 1].item() * height - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    read = value[image, start + row * width + column, head]
                    output[image, query, head] += weights[tuple(index)] * share * read
    return output.flatten(2)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_matches_the_definition(backend: str, shapes: list[tuple[int, int]]) -> None:
    case = make_case(shapes, batch=1, queries=6, heads=2, points=2, dtype=torch.float64)
    output = ms_deform_attn(*case, backend=backend)
    torch.testing.assert_close(output, by_loops(case), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("where", ["random", "border", "outside", "mixed"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("backend", FAST)
def test_backends_agree(
    shapes: list[tuple[int, int]], where: str, dtype: torch.dtype, backend: str
) -> None:
    assert_agree(make_case(shapes, where, dtype=dtype), TOLERANCE[dtype], backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", FAST)
def test_backends_agree_at_encoder_size(dtype: torch.dtype, backend: str) -> None:
    shapes = [(8, 16), (16, 32), (32, 64)]
    case = make_case(shapes, batch=1, queries=700, heads=8, channels=32, dtype=dtype)
    assert_agree(case, TOLERANCE[dtype], backend)


def test_backends_agree_on_maps_too_large_for_short_sort_keys() -> None:
    assert_agree(make_case([(130, 131), (4, 3)], heads=4), 1e-5)


@pytest.mark.parametrize("piece_points", [1, 1000, 5000])
def test_splitting_the_work_changes_nothing(
    piece_points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_PIECE_POINTS", piece_points)
    monkeypatch.setattr(cpu, "_GATHERED_ELEMENTS", piece_points)
    assert_agree(make_case(SHAPES["pyramid"], batch=5, heads=5), 1e-5)


@pytest.mark.parametrize("backend", FAST)
def test_inputs_of_any_strides(backend: str) -> None:
    value, shapes, locations, weights = make_case(SHAPES["pyramid"], dtype=torch.float64)

    def strided(tensor: Tensor) -> Tensor:
        return (
            torch.stack([tensor, tensor], dim=-1)
            .transpose(0, 1)
            .contiguous()
            .transpose(0, 1)[..., 0]
        )

    case = (strided(value), shapes, strided(locations), strided(weights))
    assert not case[0].is_contiguous()
    dense = (value, shapes, locations, weights)
    for wanted, got in zip(run(dense, backend), run(case, backend), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_by_finite_differences(backend: str) -> None:
    value, shapes, locations, weights = make_case(
        SHAPES["odd"], "random", batch=1, queries=3, heads=2, channels=2, points=2,
        dtype=torch.float64,
    )  # fmt: skip
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]

    def function(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, shapes, locations, weights, backend=backend)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("backend", FAST)
def test_gradient_of_one_input_alone(backend: str) -> None:
    value, shapes, locations, weights = make_case(SHAPES["odd"], dtype=torch.float64)
    weights.requires_grad_()
    ms_deform_attn(value, shapes, locations, weights, backend=backend).sum().backward()
    got = weights.grad
    weights.grad = None
    ms_deform_attn(value, shapes, locations, weights, backend="reference").sum().backward()
    assert got is not None
    assert weights.grad is not None
    torch.testing.assert_close(got, weights.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", FAST)
def test_backward_is_the_same_every_time(backend: str) -> None:
    case = make_case(SHAPES["pyramid"], queries=300)
    for first, second in zip(run(case, backend), run(case, backend), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    value, shapes, locations, weights = make_case(SHAPES["odd"], queries=4)
    value = value.to(dtype).requires_grad_()
    flat = [size for shape in shapes for size in shape]
    arguments = (value, flat, locations.requires_grad_(), weights.requires_grad_())
    torch.library.opcheck(torch.ops.mask2kan.ms_deform_attn.default, arguments)
    grad = torch.ones(value.shape[0], 4, value.shape[2] * value.shape[3], dtype=dtype)
    detached = (grad, value.detach(), flat, locations.detach(), weights.detach())
    torch.library.opcheck(torch.ops.mask2kan.ms_deform_attn_backward.default, detached)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize(("batch", "queries"), [(0, 5), (2, 0)])
def test_nothing_to_do(backend: str, batch: int, queries: int) -> None:
    case = make_case(SHAPES["odd"], batch=batch, queries=queries)
    output, *grads = run(case, backend)
    assert output.shape == (batch, queries, 15)
    assert [grad.shape for grad in grads] == [case[0].shape, case[2].shape, case[3].shape]


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_wild_locations(backend: str) -> None:
    """Infinite and huge locations read zeros; a NaN makes its own query's head NaN, no other."""
    case = make_case(SHAPES["pyramid"], "random", batch=1)
    untouched = ms_deform_attn(*case, backend=backend)
    value, shapes, locations, weights = case
    locations[0, 3] = torch.tensor([math.inf, 0.5])
    locations[0, 4] = torch.tensor([0.5, -math.inf])
    locations[0, 5] = torch.tensor([1e30, -1e30])
    locations[0, 6, 1, 0, 0] = torch.tensor([math.nan, 0.5])
    locations[0, 6, 1, 2, 3] = math.nan
    output, _, _, _ = run((value, shapes, locations, weights), backend)
    assert torch.equal(output[0, 3:6], torch.zeros(3, 15))
    nan = output[0, 6].view(3, 5).isnan()
    assert nan[1].all()
    assert not nan[[0, 2]].any()
    rest = [query for query in range(37) if query not in (3, 4, 5, 6)]
    torch.testing.assert_close(output[0, rest], untouched[0, rest], rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_points_outside_do_not_read_a_non_finite_border(backend: str) -> None:
    value, shapes, locations, weights = make_case([(3, 4)], "outside", batch=1)
    locations = torch.where(locations < 0.5, locations - 4, locations + 4)
    output = ms_deform_attn(value.fill_(math.nan), shapes, locations, weights, backend=backend)
    assert torch.equal(output, torch.zeros_like(output))


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_values_are_summed_in_float32(backend: str, dtype: torch.dtype) -> None:
    value, shapes, locations, weights = make_case(SHAPES["pyramid"])
    value = value.to(dtype)
    output, grad_value, grad_locations, grad_weights = run(
        (value, shapes, locations, weights), backend
    )
    exact = ms_deform_attn(value.float(), shapes, locations, weights, backend=backend)
    assert output.dtype == grad_value.dtype == dtype
    assert grad_locations.dtype == grad_weights.dtype == torch.float32
    # Only the last rounding differs; a sum in half precision would be off by several steps.
    torch.testing.assert_close(output, exact.to(dtype), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_autocast_leaves_the_arithmetic_alone(backend: str) -> None:
    case = make_case(SHAPES["pyramid"])
    expected = run(case, backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run(case, backend)
    for wanted, got in zip(expected, actual, strict=True):
        assert torch.equal(wanted, got)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("channels", [5, 8])
@pytest.mark.parametrize("backend", ["reference", *FAST, "auto"])
def test_compiles_in_one_graph(backend: str, channels: int, dynamic: bool) -> None:
    value, shapes, locations, weights = make_case(SHAPES["odd"], channels=channels)

    def function(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, shapes, locations, weights, backend=backend) * 2

    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    expected = torch.autograd.grad(function(*leaves).sum(), leaves)
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    actual = torch.autograd.grad(compiled(*leaves).sum(), leaves)
    for wanted, got in zip(expected, actual, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-5)


def test_compiled_code_calls_the_operator() -> None:
    value, shapes, locations, weights = make_case(SHAPES["odd"], channels=8)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(_Attention(shapes), backend=keep, fullgraph=True)
    compiled(value, locations, weights)
    (graph,) = graphs
    assert "mask2kan.ms_deform_attn" in graph.code


class _Attention(torch.nn.Module):
    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.shapes = shapes

    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, self.shapes, locations, weights)


@pytest.mark.parametrize("strict", [False, True])
def test_export_holds_standard_operators(strict: bool) -> None:
    value, shapes, locations, weights = make_case(SHAPES["odd"])
    program = torch.export.export(_Attention(shapes), (value, locations, weights), strict=strict)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("mask2kan" in name for name in names)
    assert any("grid_sampler" in name for name in names)
    expected = ms_deform_attn(value, shapes, locations, weights, backend="reference")
    torch.testing.assert_close(program.module()(value, locations, weights), expected)


@pytest.fixture
def fresh_choice() -> Iterator[Callable[[], None]]:
    choose_backend.cache_clear()
    yield choose_backend.cache_clear
    choose_backend.cache_clear()


def test_backend_choice(fresh_choice: Callable[[], None]) -> None:
    assert choose_backend(torch.device("cpu")) == ("cpu" if fused.missing() else "fused")
    assert choose_backend("cpu") == choose_backend(torch.device("cpu"))
    assert choose_backend(torch.device("mps")) == "reference"
    assert choose_backend(torch.device("cpu"), "reference") == "reference"
    with pytest.raises(BackendError, match="Known: auto, cpu, cuda, fused, reference"):
        choose_backend(torch.device("cpu"), "gpu")
    with pytest.raises(BackendError, match="need a CUDA GPU, and the tensors are on cpu"):
        choose_backend(torch.device("cpu"), "cuda")
    with pytest.raises(BackendError, match="on a cuda tensor"):
        choose_backend(torch.device("cuda"), "cpu")
    with pytest.raises(BackendError, match="fused operator backend was asked for on a cuda"):
        choose_backend(torch.device("cuda"), "fused")


def test_environment_forces_a_backend_and_the_choice_is_logged_once(
    fresh_choice: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = make_case(SHAPES["odd"])
    monkeypatch.setenv("MASK2KAN_OPS", "reference")
    with caplog.at_level(logging.INFO, logger="mask2kan.ops"):
        first = ms_deform_attn(*case)
        second = ms_deform_attn(*case)
    assert [record.getMessage() for record in caplog.records] == [
        "ms_deform_attn on cpu: reference backend (reference asked for)"
    ]
    assert torch.equal(first, second)
    assert torch.equal(first, ms_deform_attn(*case, backend="reference"))


def test_environment_with_an_unknown_backend(
    fresh_choice: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASK2KAN_OPS", "triton")
    with pytest.raises(BackendError, match=r"MASK2KAN_OPS.*'triton'.*Known: auto, cpu"):
        ms_deform_attn(*make_case(SHAPES["odd"]))


def test_one_call_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[str] = []

    def decide(device: torch.device, request: str, dtype: torch.dtype, head_size: int) -> str:
        requests.append(request)
        return "reference"

    monkeypatch.setattr(deform_attn, "_decide", decide)
    monkeypatch.setenv("MASK2KAN_OPS", "cpu")
    case = make_case(SHAPES["odd"])
    ms_deform_attn(*case)
    ms_deform_attn(*case, backend="auto")
    assert requests == ["cpu", "auto"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, s, xy, w: (v[0], s, xy, w), r"expected \(B, S, M, D\)"),
        (lambda v, s, xy, w: (v[:, 1:], s, xy, w), "has 23 positions"),
        (lambda v, s, xy, w: (v, s[:2], xy, w), r"\(B, M, L\)"),
        (lambda v, s, xy, w: (v, s, xy[:, :, :2], w[:, :, :2]), r"\(B, M, L\)"),
        (lambda v, s, xy, w: (v, s, xy, w[..., :2]), "attention_weights is"),
        (lambda v, s, xy, w: (v.long(), s, xy, w), "floating point"),
    ],
)
def test_shapes_that_do_not_fit(change: Callable[..., Case], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(*change(*make_case(SHAPES["odd"])))


def test_without_numba_auto_is_cpu_and_fused_says_what_to_install(
    fresh_choice: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: None)
    assert choose_backend(torch.device("cpu")) == "cpu"
    with pytest.raises(BackendError, match="pip install numba"):
        choose_backend(torch.device("cpu"), "fused")


@pytest.mark.skipif(bool(fused.missing()), reason="no numba")
def test_fused_calls_of_several_threads_do_not_disturb_each_other() -> None:
    cases = [make_case(SHAPES["pyramid"], queries=50 + 10 * n) for n in range(6)]
    expected = [run(case, "reference")[0] for case in cases]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        actual = list(pool.map(lambda case: run(case, "fused")[0], cases))
    for wanted, got in zip(expected, actual, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(bool(fused.missing()), reason="no numba")
def test_fused_leaves_the_number_of_threads_alone() -> None:
    code = """
import torch
from mask2kan.ops import ms_deform_attn
torch.set_num_threads(1)  # numba starts a thread per core, and may share OpenMP with PyTorch
value = torch.randn(1, 4, 1, 8)
places, weights = torch.rand(1, 3, 1, 1, 2, 2), torch.rand(1, 3, 1, 1, 2)
ms_deform_attn(value, [(2, 2)], places, weights, backend="fused")
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.skipif(bool(fused.missing()), reason="no numba")
def test_a_numba_that_cannot_be_imported_leaves_auto_to_the_cpu_backend(
    monkeypatch: pytest.MonkeyPatch,
    fresh_choice: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it raises
    monkeypatch.setattr(fused, "installed", lambda: True)
    fused._import_fault.cache_clear()
    try:
        assert choose_backend(torch.device("cpu")) == "cpu"
        fresh_choice()
        case = make_case(SHAPES["odd"])
        with caplog.at_level(logging.WARNING):
            ms_deform_attn(*case, backend="auto")
        message = caplog.text
        assert "because the fused kernels cannot run: numba cannot be imported" in message
        with pytest.raises(BackendError, match="numba cannot be imported"):
            choose_backend(torch.device("cpu"), "fused")
    finally:
        fused._import_fault.cache_clear()
