"""Ways of running a model, and what its forward pass promises a GPU. None is needed here."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mask2kan import Comparison, Predictor
from mask2kan.inference import runners
from mask2kan.inference.runners import CompiledRun, GraphRun, PlainRun, untimed
from mask2kan.ops import deform_attn
from tests.tiny_models import tiny

# ---- The forward pass on a GPU, with tensors that have no numbers -------------------------------


class Watch(TorchDispatchMode):
    """Records every operator that touches the CPU, and the attention op's dtypes."""

    def __init__(self):
        super().__init__()
        self.strays, self.attention, self.products = [], [], set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if any(tensor.device.type != "cuda" for tensor in tensors):
            self.strays.append(str(function))
        if "mask2kan" in str(function):
            dtypes = [x.dtype for x in args if isinstance(x, torch.Tensor)]
            self.attention.append((*dtypes, result.dtype))
        if any(name in str(function) for name in ("aten.linear", "aten.conv2d")):
            self.products.add(args[0].dtype)
        return result


@pytest.fixture
def kernels_there(monkeypatch):
    monkeypatch.setattr(deform_attn, "_decide", lambda *_: "cuda")


@pytest.mark.parametrize(
    ("family", "backbone"),
    [("mask2kan", "swin_t"), ("mask2former", "mobilenetv2"), ("mask2anomaly", "r50")],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None], ids=str)
def test_forward_neither_waits_for_the_gpu_nor_copies_to_it(family, backbone, dtype, kernels_there):
    """Reading a number back, or a branch on one, is an error on tensors without numbers."""
    model = tiny(family, backbone)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode() as mode:
            model._apply(lambda tensor: mode.from_tensor(tensor).to("cuda"))
            images = torch.empty(2, 3, 70, 100, device="cuda")
            torch.set_autocast_enabled("cuda", dtype is not None)
            torch.set_autocast_dtype("cuda", dtype or torch.float16)
            with Watch() as watch, torch.inference_mode():
                output = model(images)
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    assert watch.strays == []
    assert output["pred_masks"].device.type == "cuda"
    half = dtype or torch.float32
    # values may be rounded; where they are read, and how much of them, may not
    assert set(watch.attention) == {(half, torch.float32, torch.float32, half)}
    assert half in watch.products
    assert output["pred_logits"].dtype == torch.float32


# ---- Compiled -----------------------------------------------------------------------------------


def forward(run, images):
    return run.decode(run.trunk(images))


def test_compiled_is_the_same_and_compiled_once():
    torch.compiler.reset()
    model = tiny("mask2kan", "mobilenetv2")
    images = torch.rand(1, 3, 64, 64)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    run = CompiledRun(model, backend=backend)
    with torch.inference_mode():
        expected = forward(PlainRun(model), images)
        for _ in range(2):
            actual = forward(run, images)
            for name in ("pred_logits", "pred_masks", "queries"):
                torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)
    assert len(compiled) == 2  # trunk and decoder


# ---- CUDA graphs, with a recorder in the GPU's place --------------------------------------------


class Recorder:
    """Stands for torch.cuda: a graph is the call made while it was recorded."""

    def __init__(self, monkeypatch):
        self.recording = None
        self.cached_casts = []
        self.plain_calls = 0
        stream = type("Stream", (), {"wait_stream": lambda *_: None})
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream())
        monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", itertools.count().__next__)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        self.pools = []

    @contextlib.contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.pools.append(pool)
        self.recording = graph
        yield
        self.recording = None


class RecordedRun(PlainRun):
    """Tells the recorder of every call."""

    def __init__(self, model, recorder):
        super().__init__(model)
        self.recorder = recorder

    def trunk(self, images, stage=untimed):
        return self.noted(super().trunk, images)

    def decode(self, features):
        return self.noted(super().decode, features)

    def noted(self, function, inputs):
        output = function(inputs)
        self.recorder.cached_casts.append(torch.is_autocast_cache_enabled())
        if self.recorder.recording is None:
            self.recorder.plain_calls += 1
        else:
            self.recorder.recording.call = function, inputs, output
        return output


class Graph:
    def __init__(self, recorder):
        self.recorder = recorder

    def replay(self):
        function, inputs, output = self.call
        for target, new in zip(tree_leaves(output), tree_leaves(function(inputs)), strict=True):
            target.copy_(new)


@pytest.fixture
def recorder(monkeypatch):
    return Recorder(monkeypatch)


def noise(height, width, seed):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_graphs_are_recorded_once_per_size_and_results_outlive_the_next_call(recorder):
    model = tiny("mask2kan", "mobilenetv2")
    run = GraphRun(RecordedRun(model, recorder))
    inputs = [noise(32, 64, 0), noise(32, 64, 1), noise(64, 32, 2), noise(32, 64, 3)]
    with torch.inference_mode():
        actual = [forward(run, images) for images in inputs]
        expected = [forward(PlainRun(model), images) for images in inputs]
    for result, wanted in zip(actual, expected, strict=True):
        for name in ("pred_logits", "pred_masks", "queries"):
            assert torch.equal(result[name], wanted[name])
    assert recorder.pools == [0] * 4  # trunk and decoder of two sizes
    assert recorder.plain_calls == 4 * runners._WARM_UP_CALLS
    assert not any(recorder.cached_casts)
    assert torch.is_autocast_cache_enabled()


def test_features_outlive_the_next_call(recorder):
    model = tiny("mask2kan", "mobilenetv2")
    run = GraphRun(RecordedRun(model, recorder))
    with torch.inference_mode():
        first = run.trunk(noise(32, 64, 0))
        copy = first.mask_features.clone()
        run.trunk(noise(32, 64, 1))
    assert torch.equal(first.mask_features, copy)


def test_weights_changed_in_place_count_and_moved_ones_are_recorded_anew(recorder):
    model = tiny("mask2former", "mobilenetv2")
    run, images = GraphRun(RecordedRun(model, recorder)), noise(32, 64, 0)
    with torch.inference_mode():
        before = forward(run, images)
        model.transformer_decoder.class_embed.bias.add_(1)
        after = forward(run, images)
        assert len(recorder.pools) == 2
        assert torch.allclose(after["pred_logits"], before["pred_logits"] + 1, atol=1e-5)
        model.double().float()
        again = forward(run, images)
    assert len(recorder.pools) == 4
    assert torch.allclose(again["pred_logits"], after["pred_logits"], atol=1e-5)


def test_other_precision_is_another_graph_and_only_the_last_few_are_kept(recorder):
    model = tiny("mask2former", "mobilenetv2")
    run, images = GraphRun(RecordedRun(model, recorder)), noise(32, 64, 0)
    with torch.inference_mode():
        forward(run, images)
        with torch.autocast("cpu", torch.bfloat16):
            forward(run, images)
        assert len(recorder.pools) == 4
        for width in range(96, 96 + 16 * runners._GRAPHS_KEPT, 32):
            forward(run, noise(32, width, 0))
    assert len(run._recorded) == runners._GRAPHS_KEPT
    run.release()
    with torch.inference_mode():
        forward(run, images)
    assert len(run._recorded) == 2
    assert recorder.pools[-2:] == [1, 1]


def test_a_comparison_shares_a_recorded_trunk(recorder):
    kan, mlp = tiny("mask2kan", "mobilenetv2"), tiny("mask2former", "mobilenetv2")
    for part in ("backbone", "pixel_decoder"):
        getattr(mlp, part).load_state_dict(getattr(kan, part).state_dict())
    image = (noise(32, 64, 0)[0] * 255).byte().permute(1, 2, 0).numpy()
    predictors = [Predictor(model, device="cpu") for model in (kan, mlp)]
    expected = [predictor(image).class_scores for predictor in predictors]
    for predictor in predictors:
        predictor.run = GraphRun(RecordedRun(predictor.model, recorder))
    predictions = Comparison(*predictors)(image)
    for prediction, scores in zip(predictions, expected, strict=True):
        assert np.array_equal(prediction.class_scores, scores)
    assert predictions[1].shared == ("backbone", "pixel_decoder")
    assert len(recorder.pools) == 3  # one trunk, two decoders
    assert np.array_equal(Comparison(predictors[0])(image)[0].class_scores, expected[0])
