"""Callbacks, service and viewer without a browser or a server."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from app import service as service_module
from app import viewer
from app.demo import INDOOR, build_demo, offered_models
from app.handlers import Handlers, spoken
from app.samples import FOLDER, sample_pictures
from app.service import ModelService
from app.uploads import read_upload
from mask2kan import create_model
from mask2kan.checkpoints import save_model
from mask2kan.errors import CheckpointError, OutOfMemoryError, PictureError
from mask2kan.predictor import Predictor

HEIGHT, WIDTH = 48, 80


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four tiny checkpoints."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for index in range(4):
        torch.manual_seed(index)
        model = create_model(
            "mask2former_mobilenetv2" if index % 2 else "mask2kan_mobilenetv2",
            num_classes=11,
            num_queries=6,
            hidden_dim=16,
            num_encoder_layers=1,
            num_decoder_layers=1,
            encoder_feedforward_dim=16,
            decoder_feedforward_dim=16,
            backbone_depths=(1, 1, 1, 1, 1, 1, 1),
        )
        if index == 0:
            model.calibration = {
                "msp": {"range": [-1.0, 0.5], "fpr05": 0.2, "data": "nothing in particular"}
            }
        path = folder / f"model_{index}.safetensors"
        save_model(model, path)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def service() -> ModelService:
    return ModelService(device="cpu")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checkpoints loaded from now on."""
    loaded: list[str] = []
    original = service_module.load_model

    def counted(source: str, **options: Any) -> Any:
        loaded.append(source)
        return original(source, **options)

    monkeypatch.setattr(service_module, "load_model", counted)
    return loaded


def _unpacked(file: dict[str, Any], dtype: str) -> np.ndarray:
    return np.frombuffer(gzip.decompress(Path(file["path"]).read_bytes()), dtype)


def test_the_viewer_gets_the_predictors_labels_and_scores(
    service: ModelService, models: list[str], picture: Path
) -> None:
    value, both, left, right = Handlers(service).look(
        {"path": str(picture)}, models[0], models[1], "msp"
    )
    assert value is not None
    assert value["size"] == [HEIGHT, WIDTH]
    prediction = Predictor(service_module.load_model(models[0], device="cpu"), "cpu")(picture)
    side = value["sides"][0]
    assert np.array_equal(
        _unpacked(side["labels"], "u1").reshape(HEIGHT, WIDTH), prediction.semantic
    )
    low, high = side["extent"]
    scores = low + _unpacked(side["scores"], "<u2").reshape(HEIGHT, WIDTH) / 65535 * (high - low)
    # Half a 16-bit step of the picture's own span, and float32's rounding.
    np.testing.assert_allclose(
        scores, prediction.anomaly("msp"), atol=(high - low) / 65535 / 2 + 1e-6
    )
    assert side["calibrated"]
    assert side["range"] == [-1.0, 0.5]
    assert side["position"] == pytest.approx(0.8)
    assert left["value"] == pytest.approx(0.8)
    assert not value["sides"][1]["calibrated"]
    assert right["value"] == pytest.approx(0.5)
    assert both["value"] == pytest.approx(0.65)
    assert sum(entry["share"] for entry in side["legend"]) == pytest.approx(1)
    assert "KAN head · MobileNetV2" in side["facts"]
    assert "MLP head" in value["sides"][1]["facts"]


def test_no_picture_empties_the_viewer(service: ModelService) -> None:
    assert Handlers(service).look(None, "a", "b", "msp")[0] is None


def test_a_constant_score_map_packs(tmp_path: Path) -> None:
    packed = viewer._quantised(np.full((3, 4), 0.25, np.float32), (0.25, 0.25))
    assert packed.dtype == np.dtype("<u2")
    assert not packed.any()


def test_the_same_picture_is_not_computed_twice(
    service: ModelService, models: list[str], picture: Path
) -> None:
    pixels = read_upload({"path": str(picture)})
    first = service.answers([models[0]], pixels, "msp")[0]
    again = service.answers([models[0]], pixels.copy(), "entropy")[0]
    assert again is first
    other = pixels.copy()
    other[0, 0] ^= 255
    assert service.answers([models[0]], other, "msp")[0] is not first
    turned = np.ascontiguousarray(pixels.reshape(WIDTH, HEIGHT, 3))
    assert service.answers([models[0]], turned, "msp")[0].prediction.size == (WIDTH, HEIGHT)


def test_a_checkpoint_written_again_is_loaded_again(
    service: ModelService, models: list[str], loads: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    pixels = np.zeros((64, 64, 3), np.uint8)
    scores = []
    for moment, source in enumerate((models[0], models[2])):
        path.write_bytes(Path(source).read_bytes())
        os.utime(path, (moment, moment))
        scores.append(service.answers([str(path)], pixels, "msp")[0].prediction.anomaly("msp"))
    assert len(loads) == 2
    assert not np.array_equal(*scores)


def test_warming_loads_and_survives_a_bad_name(
    service: ModelService, models: list[str], loads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        service.warm(["/nowhere/model.safetensors", models[0]]).join(timeout=60)
    assert "/nowhere/model.safetensors" in caplog.text
    assert loads[-1] == models[0]


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("Not enough memory on cuda for a 64×32 picture with this model."),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_too_little_memory_is_said_and_everything_is_let_go(
    service: ModelService,
    models: list[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)
    service.answers([models[0]], pixels, "msp")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "__call__", fail)
        with pytest.raises(OutOfMemoryError, match="64×32"):
            service.answers([models[1]], pixels, "msp")
    assert not service._models
    assert service.answers([models[0]], pixels, "msp")


def test_another_runtime_error_is_not_called_a_lack_of_memory(
    service: ModelService, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Predictor, "__call__", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        service.answers([models[0]], np.zeros((32, 32, 3), np.uint8), "msp")


def test_compare_and_segment_deliver_summary_and_files(
    service: ModelService, models: list[str], picture: Path
) -> None:
    handlers = Handlers(service)
    payload = {"path": str(picture)}
    summary, files = handlers.compare(payload, models[0], models[1], "rba")
    assert set(summary) == {"left", "right"}
    assert summary["left"]["score"] == "rba"
    names = [Path(path).name for path in files]
    kinds = ("semantic.png", "overlay.png", "score16.png", "score.npz")
    assert names == [f"{side}_{kind}" for side in ("left", "right") for kind in kinds]
    summary, files = handlers.segment(payload, models[1], "msp")
    assert summary["model"]["model"] == models[1]
    assert len(files) == 4


def test_a_users_mistake_is_shown_as_it_is(models: list[str], service: ModelService) -> None:
    look = spoken(Handlers(service).look)
    with pytest.raises(gr.Error, match="not sent as a file"):
        look({"path": None}, models[0], models[1], "msp")
    with pytest.raises(gr.Error, match="shine"):
        look({"path": "x"}, models[0], models[1], "shine")


def test_a_fault_of_ours_is_logged_and_shown_as_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> None:
        raise KeyError("secret detail")

    with pytest.raises(gr.Error) as caught:
        spoken(broken)()
    assert "secret" not in caught.value.message
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("source", ["", "   ", None])
def test_no_model_is_a_clear_mistake(service: ModelService, source: str | None) -> None:
    with pytest.raises(CheckpointError, match="No model was chosen"):
        service.answers([source], np.zeros((8, 8, 3), np.uint8), "msp")


def test_an_upload_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    path.write_text("<html>", encoding="utf-8")
    with pytest.raises(PictureError) as caught:
        read_upload({"path": str(path)})
    assert str(tmp_path) not in str(caught.value)


def test_examples_are_pictures_with_ground_truth_of_the_same_size() -> None:
    pictures = sample_pictures()
    assert sum(path.name.startswith("street") for path in pictures) == 6
    assert sum(path.name.startswith("room") for path in pictures) == 2
    for path in pictures:
        assert path.stat().st_size < 200_000
        labels = np.asarray(Image.open(FOLDER / f"{path.stem}_class.png"))
        anomaly = np.asarray(Image.open(FOLDER / f"{path.stem}_anomaly.png"))
        with Image.open(path) as opened:
            assert opened.size == (1024, 512) == labels.shape[::-1] == anomaly.shape[::-1]
        assert set(np.unique(anomaly)) <= {0, 1, 255}
        assert (anomaly == 1).any() == (not path.stem.endswith("_none"))
        assert np.all(labels[anomaly == 1] == 255)
        limit = 19 if path.name.startswith("street") else 16
        assert set(np.unique(labels)) <= {*range(limit), 255}


def _component(demo: gr.Blocks, elem_id: str) -> Any:
    return next(block for block in demo.blocks.values() if block.elem_id == elem_id)


def test_without_any_model_the_pickers_are_empty_and_the_page_says_why() -> None:
    demo = build_demo(models=[])
    assert _component(demo, "left").value is None
    assert "No bundled models" in _component(demo, "viewer").value["message"]


def test_the_pickers_offer_the_models_and_the_indoor_one() -> None:
    demo = build_demo(models=["kan", "mlp"])
    left, right = _component(demo, "left"), _component(demo, "right")
    assert (left.value, right.value) == ("kan", "mlp")
    assert [value for _, value in left.choices] == ["kan", "mlp", INDOOR]
    assert left.allow_custom_value


def test_models_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2KAN_MODELS", "/a/b.safetensors:owner/name")
    assert offered_models() == ["/a/b.safetensors", "owner/name"]


def test_importing_the_app_switches_analytics_off() -> None:
    check: Callable[[], bool] = gr.analytics.analytics_enabled
    assert not check()


def test_shared_stages_are_named_on_the_page(models: list[str], tmp_path: Path) -> None:
    """A copy of a model under another name: the hash, not the name, finds the common trunk."""
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(Path(models[0]).read_bytes())
    pixels = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    first, second = ModelService().answers([models[0], str(copied)], pixels, "msp")
    assert second.prediction.shared == ("backbone", "pixel_decoder")
    np.testing.assert_array_equal(first.prediction.pred_masks, second.prediction.pred_masks)
    stages = viewer.view("right", second, "msp").data["stages"]
    assert "backbone shared" in stages
    assert "pixel decoder shared" in stages
    assert "shared" not in viewer.view("left", first, "msp").data["stages"]
