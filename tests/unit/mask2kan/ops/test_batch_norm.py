"""Batch norm with ReLU6 in numba's loops, against PyTorch's."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("numba")

from mask2kan.modeling.backbones.efficientnet import NormReLU6
from mask2kan.ops.batch_norm import batch_norm


def maps(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random numbers around 1, channels last."""
    torch.manual_seed(0)
    numbers = torch.randn(shape, dtype=dtype) * 3 + 1
    return numbers.contiguous(memory_format=torch.channels_last)


def parameters(channels: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Scale and shift, which clip some numbers at 0 and some at 6."""
    return torch.linspace(0.5, 4, channels, dtype=dtype), torch.linspace(-1, 4, channels).to(dtype)


def written_out(x: Tensor, weight: Tensor, bias: Tensor, high: float) -> Tensor:
    """The same by PyTorch's functions."""
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3)
    return F.relu6(y) if high else y


def results(function, x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """The result and the three gradients, in float64."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (x, weight, bias)]
    y = function(*inputs)
    y.backward(grad)
    return [tensor.detach().double() for tensor in (y, *(i.grad for i in inputs))]


# The second makes several pieces, the last of them short; one image of one channel is the least.
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (3, 40, 37, 31), (1, 1, 1, 2)])
@pytest.mark.parametrize("high", [0.0, 6.0])
def test_result_and_gradients_are_pytorchs(shape, high) -> None:
    x, (weight, bias) = maps(*shape), parameters(shape[1])
    grad = torch.randn(shape, dtype=x.dtype)
    ours = results(lambda *a: batch_norm(*a, epsilon=1e-3, high=high)[0], x, weight, bias, grad)
    theirs = results(lambda *a: written_out(*a, high), x, weight, bias, grad)
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-9, atol=1e-9)


def test_float32_is_as_exact_as_pytorchs() -> None:
    x, (weight, bias) = maps(4, 40, 37, 31), parameters(40)
    grad = maps(4, 40, 37, 31)
    exact = results(lambda *a: written_out(*a, 0.0), x, weight, bias, grad)
    single = [tensor.float() for tensor in (x, weight, bias, grad)]
    ours = results(lambda *a: batch_norm(*a, epsilon=1e-3)[0], *single)
    theirs = results(lambda *a: written_out(*a, 0.0), *single)
    for name, right, our, their in zip(
        ("y", "x", "weight", "bias"), exact, ours, theirs, strict=True
    ):
        error, allowed = (our - right).abs().max(), (their - right).abs().max()
        assert error <= 2 * allowed + 1e-6 * right.abs().max(), name


def test_gradients_are_those_of_finite_differences() -> None:
    x, (weight, bias) = maps(2, 3, 4, 3), parameters(3)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *a: batch_norm(*a, epsilon=1e-3)[0], inputs)


def test_mean_and_variance_do_not_suffer_from_a_large_mean() -> None:
    x = maps(2, 3, 40, 30, dtype=torch.float32) + 3000
    exact = x.double()
    _, mean, variance = batch_norm(x, torch.ones(3), torch.zeros(3), epsilon=1e-3)
    torch.testing.assert_close(mean, exact.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, exact.var((0, 2, 3), correction=0), rtol=1e-4, atol=0)


def test_a_nan_stays_one() -> None:
    x, (weight, bias) = maps(2, 3, 4, 5), parameters(3)
    x[1, 2, 3, 4] = float("nan")
    y, _, _ = batch_norm(x, weight, bias, epsilon=1e-3, high=6.0)
    assert y[:, 2].isnan().all()
    assert not y[:, :2].isnan().any()


def test_the_same_bits_on_any_number_of_threads() -> None:
    x, (weight, bias) = maps(3, 40, 37, 31, dtype=torch.float32), parameters(40, torch.float32)
    grad = torch.ones_like(x)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            runs.append(results(lambda *a: batch_norm(*a, epsilon=1e-3)[0], x, weight, bias, grad))
    finally:
        torch.set_num_threads(threads)
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("apply_act", [True, False])
def test_the_layer_is_timms(apply_act, monkeypatch) -> None:
    """In training, in what it keeps, and afterwards."""
    fused = NormReLU6(6, apply_act=apply_act, eps=1e-3).double()
    nn.init.uniform_(fused.weight)
    plain = copy.deepcopy(fused)
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
        monkeypatch.setenv("MASK2KAN_OPS", "cpu")
        expected = plain(x)
        monkeypatch.setenv("MASK2KAN_OPS", "fused")
        y = fused(x.contiguous(memory_format=torch.channels_last))
        assert type(y.grad_fn).__name__ == "_BatchNormBackward"
        torch.testing.assert_close(y, expected)
    for key, expected in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[key], expected, msg=key)
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x))


def test_another_layout_takes_pytorchs_loops(monkeypatch) -> None:
    layer, x = NormReLU6(6), maps(2, 6, 5, 7, dtype=torch.float32)
    monkeypatch.setenv("MASK2KAN_OPS", "fused")
    y = layer(x.contiguous())
    assert y.is_contiguous()
    torch.testing.assert_close(y, F.relu6(F.batch_norm(x, None, None, training=True)))


def test_many_gpus_keep_the_activation() -> None:
    """``torch.nn.SyncBatchNorm``'s own conversion would drop it."""
    converted = convert_sync_batchnorm(nn.Sequential(NormReLU6(6)))
    assert isinstance(converted[0], nn.SyncBatchNorm)
    x = maps(2, 6, 5, 7, dtype=torch.float32)
    assert converted.eval()(x).max() <= 6
    assert converted.eval()(x).min() >= 0
