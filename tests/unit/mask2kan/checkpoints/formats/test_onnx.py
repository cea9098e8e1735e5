"""torch.compile, torch.export and ONNX give what the eager model gives."""

import json
import shutil
import warnings

import pytest
import torch

from mask2kan import load_model, save_model
from mask2kan.checkpoints.formats.onnx import export_onnx, largest_onnx_difference
from mask2kan.cli import main as cli
from mask2kan.errors import BackendError, ConfigError, OutOfMemoryError
from tests.tiny_models import tiny


@pytest.fixture
def images():
    return torch.rand(1, 3, 70, 100, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def quiet():
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def assert_same_queries(found, expected):
    for name in ("pred_logits", "pred_masks"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "backbone"),
    [
        ("mask2kan", "mobilenetv2"),
        pytest.param("mask2kan", "swin_t", marks=pytest.mark.slow),
        pytest.param("mask2anomaly", "r50", marks=pytest.mark.slow),
    ],
)
def test_compiles_whole_with_gradients(family, backbone, images):
    model = tiny(family, backbone)
    with torch.no_grad():
        # Fresh models look exactly at pixels' centres, where rounding decides the gradient's side.
        for layer in model.pixel_decoder.encoder_layers:
            layer.self_attn.sampling_offsets.bias.add_(0.3)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert_same_queries(compiled(images, with_aux=False), model(images, with_aux=False))
    parameters = dict(model.named_parameters())
    gradients = []
    for network in (compiled, model):
        output = network(images)
        assert len(output["aux_outputs"]) == 2
        loss = output["pred_logits"].square().mean() + output["pred_masks"].square().mean()
        gradients.append(torch.autograd.grad(loss, list(parameters.values()), allow_unused=True))
    for name, ours, eager in zip(parameters, *gradients, strict=True):
        assert (ours is None) == (eager is None), name
        if ours is not None:
            scale = max(float(eager.abs().max()), 1e-3)
            torch.testing.assert_close(ours, eager, rtol=0, atol=1e-3 * scale, msg=name)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_computes_the_head():
    """One small graph through real code generation: the part that is ours alone."""
    head = tiny("mask2kan", "mobilenetv2").transformer_decoder.mask_embed
    queries = torch.randn(1, 7, 32)
    with torch.inference_mode():
        expected = head(queries)
        torch.testing.assert_close(torch.compile(head)(queries), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["swin_t", "mobilenetv2"])
def test_exports_to_standard_operators(backbone, images):
    model = tiny("mask2kan", backbone)
    program = torch.export.export(model, (images,), {"with_aux": False})
    kinds = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not {kind for kind in kinds if not kind.startswith(("aten", "<built-in"))}
    with torch.no_grad():
        assert_same_queries(program.module()(images, with_aux=False), model(images))


@pytest.mark.parametrize(
    ("family", "backbone"),
    [
        ("mask2kan", "mobilenetv2"),
        pytest.param("mask2kan", "swin_t", marks=pytest.mark.slow),
        pytest.param("mask2anomaly", "r50", marks=pytest.mark.slow),
    ],
)
def test_onnx_is_the_model(family, backbone, tmp_path, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = tiny(family, backbone)
    path = export_onnx(model, tmp_path / "model.onnx", *images.shape[-2:])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(["pred_logits", "pred_masks"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images, with_aux=False)
    assert_same_queries(
        dict(zip(("pred_logits", "pred_masks"), map(torch.from_numpy, found), strict=True)),
        expected,
    )
    assert max(largest_onnx_difference(model, path).values()) < 1e-4
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == list(model.class_names)


def test_command_writes_and_checks(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    checkpoint, output = tmp_path / "model.safetensors", tmp_path / "new" / "model.onnx"
    save_model(tiny("mask2former", "r50"), checkpoint)
    size = ["--height", "32", "--width", "64"]
    assert cli.main(["export", str(checkpoint), str(output), *size]) == 0
    told = capsys.readouterr()
    assert "in onnxruntime" in told.out
    assert [line.split()[0] for line in told.err.splitlines()] == ["Loading", "Tracing", "Checking"]
    assert max(largest_onnx_difference(load_model(checkpoint), output).values()) < 1e-4
    before = output.read_bytes()
    assert cli.main(["export", str(checkpoint), str(output), *size]) == 1
    assert "--force" in capsys.readouterr().err
    assert output.read_bytes() == before


def test_what_is_too_large_is_refused_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    def computed(*_, **__):
        pytest.fail("it has begun")

    monkeypatch.setattr(torch.onnx, "export", computed)
    monkeypatch.setattr("mask2kan.cli.commands.load_model", computed)
    output = tmp_path / "model.onnx"
    size = ["--height", "20000", "--width", "20000"]
    assert cli.main(["export", "mask2kan_road", str(output), *size]) == 1
    assert capsys.readouterr().err == (
        "mask2kan: The image size is 20000 x 20000, 400 megapixels; at most 40 can be computed.\n"
    )
    monkeypatch.setattr("mask2kan.checkpoints.formats.onnx.available_memory", lambda _: 10**9)
    with pytest.raises(OutOfMemoryError, match=r"takes about 2\.. GB of memory, and 1\.0 GB are"):
        export_onnx(tiny("mask2former", "r50"), output, 1024, 2048)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said(tmp_path, monkeypatch, capsys):
    model = tiny("mask2former", "r50")
    with pytest.raises(ConfigError, match="at least 32"):
        export_onnx(model, tmp_path / "model.onnx", 31, 64)
    assert cli.main(["export", "x.safetensors", str(tmp_path / "model.pt")]) == 1
    assert ".onnx" in capsys.readouterr().err
    monkeypatch.setattr("mask2kan.checkpoints.formats.onnx.find_spec", lambda _: None)
    with pytest.raises(BackendError, match="pip install onnx"):
        export_onnx(model, tmp_path / "model.onnx", 64, 64)
    with pytest.raises(BackendError, match="onnxruntime"):
        largest_onnx_difference(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
