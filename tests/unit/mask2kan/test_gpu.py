"""What only a GPU can show (``pytest -m gpu``): the kernels, the model and the predictor."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mask2kan import Comparison, Predictor, create_model
from mask2kan.errors import OutOfMemoryError
from mask2kan.ops import choose_backend, cuda, ms_deform_attn
from tests.attention_cases import SHAPES, Case, errors, make_case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

LIMITS = {torch.float32: (1e-5, 1e-4), torch.float16: (2e-2, 2e-2), torch.bfloat16: (2e-2, 2e-2)}
TINY = {
    "num_classes": 5,
    "num_queries": 7,
    "hidden_dim": 64,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "encoder_feedforward_dim": 32,
    "decoder_feedforward_dim": 32,
}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.cuda.synchronize()  # a fault shows in the test that made it
    torch.cuda.empty_cache()


def on_gpu(case: Case, dtype: torch.dtype = torch.float32) -> Case:
    value, shapes, locations, weights = case
    return value.to("cuda", dtype), shapes, locations.cuda(), weights.cuda()


def run(case: Case, backend: str, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
    value, shapes, locations, weights = case
    leaves = [t.to(dtype or t.dtype).requires_grad_() for t in (value, locations, weights)]
    output = ms_deform_attn(leaves[0], shapes, *leaves[1:], backend=backend)
    grad = torch.linspace(-1, 1, output.numel(), dtype=torch.float64, device="cuda")
    grad = grad.view(output.shape).to(value.dtype).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, leaves, grad)


@pytest.mark.parametrize("where", ["random", "border", "outside", "mixed"])
@pytest.mark.parametrize("head_size", cuda.HEAD_SIZES)
@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
def test_kernels_are_right(dtype: torch.dtype, head_size: int, where: str) -> None:
    case = on_gpu(make_case(SHAPES["pyramid"], where, channels=head_size, queries=101), dtype)
    output, *grads = errors(run(case, "cuda"), run(case, "reference", torch.float64))
    assert output <= LIMITS[dtype][0]
    assert max(grads) <= LIMITS[dtype][1]


def test_many_levels_and_points() -> None:
    shapes = [(3, 4), (2, 5), (1, 1)] * 4
    case = on_gpu(make_case(shapes, channels=8, points=7, queries=300))
    assert max(errors(run(case, "cuda"), run(case, "reference", torch.float64))) <= 1e-4


def test_what_is_not_written_shows() -> None:
    """Memory full of NaN is handed out again; no part of a result may still be that."""
    case = on_gpu(make_case(SHAPES["odd"], channels=24, queries=13))
    for _ in range(3):
        poison = [torch.full((n,), torch.nan, device="cuda") for n in (1, 10**3, 10**5, 10**6)]
        del poison
        assert all(tensor.isfinite().all() for tensor in run(case, "cuda"))


def test_auto_takes_the_kernels() -> None:
    assert choose_backend(torch.device("cuda")) == "cuda"
    assert choose_backend(torch.device("cuda"), dtype=torch.float64) == "reference"


@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    value, shapes, locations, weights = on_gpu(make_case(SHAPES["odd"], channels=8), dtype)
    flat = [size for shape in shapes for size in shape]
    leaves = (value.requires_grad_(), flat, locations.requires_grad_(), weights.requires_grad_())
    # additions in no fixed order: compiled and plain gradients differ in the last bits
    tolerance = {"rtol": 1e-2, "atol": 1e-2}
    torch.library.opcheck(torch.ops.mask2kan.ms_deform_attn.default, leaves, **tolerance)


def test_other_threads_and_streams() -> None:
    case = on_gpu(make_case(SHAPES["pyramid"], channels=32))
    expected = run(case, "cuda")
    actual: list[tuple[Tensor, ...]] = []

    def work() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            actual.append(run(case, "cuda"))
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(actual) == 4
    for first in actual:
        assert max(errors(first, expected)) <= 1e-5


def test_compiles_in_one_graph() -> None:
    value, shapes, locations, weights = on_gpu(make_case(SHAPES["odd"], channels=16))
    leaves = [t.requires_grad_() for t in (value, locations, weights)]

    def function(*tensors: Tensor) -> Tensor:
        return ms_deform_attn(tensors[0], shapes, *tensors[1:]) * 2

    compiled = torch.compile(function, fullgraph=True)
    for wanted, got in zip(
        torch.autograd.grad(function(*leaves).sum(), leaves),
        torch.autograd.grad(compiled(*leaves).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_first_call_of_a_process_finds_its_kernels_on_disk() -> None:
    """The second of two processes loads what the first compiled, if it was not there before."""
    code = (
        "import torch\n"
        "from mask2kan.ops import cuda, nvrtc\n"
        "compile = nvrtc._compile\n"
        "nvrtc._compile = lambda *arguments: print('compiled') or compile(*arguments)\n"
        "cuda.prepare(torch.device('cuda', 0), torch.bfloat16, 32)\n"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
        )
    assert not done.stdout


# ---- The model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["swin_t", "r50", "mobilenetv2"])
@pytest.mark.parametrize("family", ["mask2kan", "mask2anomaly"])
def test_gpu_and_cpu_agree(family: str, backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # By default a GPU's convolutions keep 10 bits of float32's 23.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = create_model(f"{family}_{backbone}", **TINY).eval()
    images = torch.rand(2, 3, 96, 160)
    with torch.inference_mode():
        expected = model(images)
        actual = model.cuda()(images.cuda())
    for name in ("pred_logits", "pred_masks"):
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(actual[name].cpu(), expected[name], rtol=0, atol=1e-3 * scale)


def test_forward_does_not_wait_for_the_gpu() -> None:
    model = create_model("mask2kan_swin_t", **TINY).eval().cuda()
    images = torch.rand(1, 3, 128, 256, device="cuda")
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        model(images)
        try:
            torch.cuda.set_sync_debug_mode("error")
            model(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_under_autocast(dtype: str) -> None:
    model = create_model("mask2kan_swin_t", **TINY).cuda()
    with torch.autocast("cuda", getattr(torch, dtype)):
        output = model(torch.rand(2, 3, 64, 128, device="cuda"))
    (output["pred_masks"].float().square().mean() + output["pred_logits"].sum()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 100
    assert all(gradient.isfinite().all() for gradient in gradients)


# ---- The predictor ------------------------------------------------------------------------------


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_give_what_plain_calls_give(dtype: str) -> None:
    model = create_model("mask2kan_swin_t", **TINY)
    plain = Predictor(model, "cuda", dtype)
    graphs = Predictor(model, "cuda", dtype, graphs=True)
    for seed, size in enumerate([(64, 128), (96, 96), (64, 128), (128, 64)] * 2):
        image = photo(*size, seed)
        first, second = plain(image), graphs(image)
        np.testing.assert_allclose(second.pred_masks, first.pred_masks, rtol=0, atol=1e-3)
        np.testing.assert_allclose(second.class_scores, first.class_scores, rtol=0, atol=1e-3)
        assert {"model", "postprocess"} <= set(second.timings)
        assert first.timings["backbone"] > 0


def test_auto_is_bfloat16_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASK2KAN_DTYPE", raising=False)
    model = create_model("mask2former_mobilenetv2", **TINY)
    auto = Predictor(model, "cuda")
    assert auto.dtype == torch.bfloat16
    exact = Predictor(model, "cuda", "float32")
    image = photo(120, 200)
    np.testing.assert_allclose(
        auto(image).class_scores, exact(image).class_scores, rtol=0, atol=0.2
    )
    assert {"backbone", "pixel_decoder", "transformer_decoder"} <= set(auto(image).timings)


def test_convolutions_are_laid_out_for_the_gpu() -> None:
    model = create_model("mask2former_r50", **TINY).cuda()
    Predictor(model, "cuda")(photo(64, 64))
    for parameter in model.parameters():
        assert parameter.dim() != 4 or parameter.is_contiguous(memory_format=torch.channels_last)


def test_comparison_shares_on_the_gpu() -> None:
    first, second = (create_model(f"{name}_swin_t", **TINY) for name in ("mask2kan", "mask2former"))
    for part in ("backbone", "pixel_decoder"):
        getattr(second, part).load_state_dict(getattr(first, part).state_dict())
    predictors = [Predictor(model, "cuda", "float32") for model in (first, second)]
    together = Comparison(*predictors)(photo(64, 96))
    assert together[1].shared == ("backbone", "pixel_decoder")
    for prediction, predictor in zip(together, predictors, strict=True):
        alone = predictor(photo(64, 96))
        np.testing.assert_allclose(prediction.pred_masks, alone.pred_masks, rtol=0, atol=1e-4)


def test_out_of_memory_makes_the_image_smaller() -> None:
    model = create_model("mask2former_swin_t", **TINY).cuda()
    predictor = Predictor(model, "cuda", "float32", max_side=4096)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 1_500_000_000
    try:
        torch.cuda.set_per_process_memory_fraction(room / total)
        prediction = predictor(photo(4096, 4096))
        assert max(prediction.compute_size) < 4096
        assert "because memory did not suffice" in prediction.notes[0]
        del prediction
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1) / total)
        with pytest.raises(OutOfMemoryError, match="Not enough memory on cuda"):
            predictor(photo(4096, 4096))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
