"""Callbacks, service and viewer without a browser or a server."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import math
import os
import weakref
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from app.files import uploads
from app.files.samples import sample_pictures, samples
from app.files.uploads import read_upload
from app.messages import errors_as_values, shows_errors
from app.page import INDOOR, build_demo
from app.services import batch as batch_module
from app.services import models as service_module
from app.services.batch import Batch, BatchItem
from app.services.batch_rows import BatchRow
from app.services.catalog import offered_models
from app.services.models import ModelService
from app.services.results import Run, Runs
from app.tabs import batch as batch_tab
from app.tabs.batch import BatchHandlers
from app.tabs.compare import Handlers
from app.tabs.kan import KanHandlers
from app.tabs.models import ModelsHandlers
from app.web import viewer
from mask2kan.checkpoints import save_model
from mask2kan.errors import CheckpointError, ConfigError, ImageError, OutOfMemoryError
from mask2kan.inference.predictor import Predictor
from tests.tiny_models import tiny

HEIGHT, WIDTH = 48, 80


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four tiny checkpoints."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for index in range(4):
        family = "mask2former" if index % 2 else "mask2kan"
        model = tiny(family, seed=index, num_classes=11, num_decoder_layers=1)
        if index == 0:
            model.calibration = {
                "msp": {"range": [-1.0, 0.5], "fpr05": 0.2, "data": "nothing in particular"}
            }
        path = folder / f"model_{index}.safetensors"
        save_model(model, path)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def _unpacked(file: dict[str, Any], dtype: str) -> np.ndarray:
    return np.frombuffer(gzip.decompress(Path(file["path"]).read_bytes()), dtype)


def _look(
    handlers: Handlers, image: Any, models: list[str], score: str = "msp", truth: Any = None
) -> dict[str, Any]:
    value = handlers.look(image, truth, "void", models[0], models[1], score, "")
    assert value is not None
    return value


def test_the_viewer_gets_the_predictors_labels_and_scores(
    service: ModelService, models: list[str], image: Path
) -> None:
    value = _look(Handlers(service), {"path": str(image)}, models)
    assert value["size"] == [HEIGHT, WIDTH]
    prediction = Predictor(service_module.load_model(models[0], device="cpu"), "cpu")(image)
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
    assert side["threshold"] == pytest.approx(0.2)
    assert side["thresholds"] == {"fpr05": 0.2}
    assert not value["sides"][1]["calibrated"]
    assert value["sides"][1]["threshold"] == pytest.approx(0.5)
    assert sum(entry["share"] for entry in side["classes"]) == pytest.approx(1)
    assert "KAN head · MobileNetV2" in side["facts"]
    assert "MLP head" in value["sides"][1]["facts"]
    assert value["truth"] is None


def test_without_a_picture_the_viewer_stays_and_a_removed_one_empties_it(
    service: ModelService,
) -> None:
    handlers = Handlers(service)
    assert handlers.look(None, None, "void", "a", "b", "msp", "") == gr.skip()
    assert handlers.look_at_upload(None, None, "void", "a", "b", "msp") == (None, "")


def test_what_was_packed_once_is_used_again(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    first, again, other = (
        _look(handlers, {"path": str(image)}, models, score) for score in ("msp", "msp", "rba")
    )
    assert first["run"] != again["run"]
    assert first["sides"] == again["sides"]
    assert first["sides"] != other["sides"]


def test_packed_results_keep_no_maps_in_memory(
    service: ModelService, models: list[str], image: Path
) -> None:
    """Sixteen of them would be gigabytes: which answers stay is the service's choice."""
    handlers = Handlers(service)
    _look(handlers, {"path": str(image)}, models)
    kept = [weakref.ref(answer) for answer in service._answers.values()]
    assert len(kept) == 2
    service._answers.clear()
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


@pytest.mark.parametrize("said", [None, 7, "name", ["name"], [], {}, {"name": None}, {"name": []}])
def test_an_event_that_says_something_else_is_refused_in_words(
    service: ModelService, said: Any
) -> None:
    handlers, event = Handlers(service), gr.EventData(None, said)
    with pytest.raises(ConfigError, match="There is no example"):
        handlers.open_example("a", "b", "msp", event)
    with pytest.raises(ImageError, match="not sent as a file"):
        handlers.look_at_given("a", "b", "msp", event)
    with pytest.raises(ConfigError, match="Choose a model"):
        ModelsHandlers(service).chosen_in_list(event)


def test_events_name_a_picture_an_example_and_a_model(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    event = gr.EventData(None, {"path": str(image), "name": "../mine.png"})
    path, _, example, shown = handlers.look_at_given(*models[:2], "msp", event)
    assert (path, example) == (str(image), "")
    assert shown is not None
    event = gr.EventData(None, {"name": sample_pictures()[0].stem})
    assert handlers.open_example(*models[:2], "msp", event)[0] == str(sample_pictures()[0])
    event = gr.EventData(None, {"source": "mask2former_road"})
    assert ModelsHandlers(service).chosen_in_list(event) == "mask2former_road"


def test_files_that_were_cleaned_up_are_packed_anew(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    first = _look(handlers, {"path": str(image)}, models)
    content = Path(first["sides"][1]["scores"]["path"]).read_bytes()
    Path(first["sides"][1]["scores"]["path"]).unlink()
    again = _look(handlers, {"path": str(image)}, models)
    assert Path(again["sides"][1]["scores"]["path"]).read_bytes() == content


def test_ground_truth_travels_as_it_is_meant(
    service: ModelService, models: list[str], image: Path, tmp_path: Path
) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:10], mask[10:12] = 255, 1
    path = tmp_path / "truth.png"
    Image.fromarray(mask).save(path)
    handlers = Handlers(service)
    value = _look(handlers, {"path": str(image)}, models, truth={"path": str(path)})
    assert np.array_equal(_unpacked(value["truth"], "u1").reshape(HEIGHT, WIDTH), mask)
    Image.fromarray(np.where(mask == 255, 255, 0).astype(np.uint8)).save(path)
    value = handlers.look(
        {"path": str(image)}, {"path": str(path)}, "anomaly", *models[:2], "msp", ""
    )
    assert set(_unpacked(value["truth"], "u1")) == {0, 1}
    Image.fromarray(mask[1:]).save(path)
    with pytest.raises(ImageError, match=f"{WIDTH}.{HEIGHT}"):
        _look(handlers, {"path": str(image)}, models, truth={"path": str(path)})


def test_a_large_picture_is_shown_by_every_nth_pixel() -> None:
    values = np.arange(3000 * 4096, dtype=np.int64).reshape(3000, 4096)
    shown = viewer.sampled(values)
    assert shown.shape == (1500, 2048)
    assert np.array_equal(shown, values[1::2, 1::2])
    assert viewer.sampled(values[:100, :200]).shape == (100, 200)


def test_a_sampled_result_says_so_and_is_exported_with_regions_to_scale(
    service: ModelService, models: list[str], tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    small = random.integers(0, 256, (8, 512, 3), dtype=np.uint8)
    path = tmp_path / "long.png"
    Image.fromarray(small).resize((4096, 64), Image.Resampling.NEAREST).save(path)
    handlers = Handlers(service)
    value = _look(handlers, {"path": str(path)}, models)
    assert value["size"] == [32, 2048]
    assert any("2048 × 32" in note and "4096 × 64" in note for note in value["sides"][0]["notes"])
    question = {"run": value["run"], "kind": "regions", "least": 5, "thresholds": {"left": -9}}
    [left, _] = handlers.export_run(question)["files"]
    told = json.loads(Path(left["path"]).read_text(encoding="utf-8"))
    assert told["info"]["min_pixels"] == 20
    assert [one["area"] for one in told["annotations"]] == [4096 * 64]


def test_a_shown_result_answers_why_and_is_exported(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    value = _look(handlers, {"path": str(image), "orig_name": "noise.png"}, models, "entropy")
    told = handlers.explain_run({"run": value["run"], "x": 7, "y": 5})
    prediction = Predictor(service_module.load_model(models[1], device="cpu"), "cpu")(image)
    assert told["right"]["value"] == pytest.approx(
        float(prediction.anomaly("entropy")[5, 7]), abs=1e-6
    )
    [file] = handlers.export_run({"run": value["run"], "kind": "everything", "least": 3})["files"]
    with zipfile.ZipFile(file["path"]) as archive:
        assert json.loads(archive.read("summary.json"))["left"]["score"] == "entropy"
        assert "noise_comparison.pdf" in archive.namelist()
    for question, message in (
        ({"run": "guessed", "x": 1, "y": 1}, "no longer kept"),
        ({"run": value["run"], "x": 0.5, "y": 1}, "whole number"),
        ({"run": value["run"], "x": WIDTH, "y": 1}, str(WIDTH)),
    ):
        assert message in errors_as_values(handlers.explain_run)(question)["error"]
    for question, message in (
        ({"kind": "film"}, "film"),
        ({"colours": "pink"}, "pink"),
        ({"least": -1}, "0 or more"),
        ({"smallest_region": 0.2}, "share of the picture's area, from 0 to 0.1"),
        ({"smoothing": -0.01}, "share of the picture's longer side, from 0 to 0.1"),
        ({"smoothing": "much"}, "finite"),
        ({"thresholds": {"left": math.nan}}, "finite"),
        ({"thresholds": {"right": "much"}}, "finite"),
        ({"thresholds": 3}, "thresholds"),
    ):
        asked = {"run": value["run"], **question}
        assert message in errors_as_values(handlers.export_run)(asked)["error"]


def test_pictures_are_decoded_one_at_a_time(
    service: ModelService,
    models: list[str],
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever asks for it: events in the queue, and what pages ask for beside it."""
    in_turn: list[bool] = []
    decode = uploads.read_image
    turn: Any = service._lock  # one thread's at a time

    def watched(source: Any) -> Any:
        in_turn.append(turn._is_owned())
        return decode(source)

    payload = {"path": str(image)}
    handlers, batch = Handlers(service), BatchHandlers(service)
    kan = KanHandlers(service, handlers.runs)
    run = _look(handlers, payload, models)["run"]
    edge = {"run": run, "model": models[0], "layer": 0, "input": 0, "output": 0}
    monkeypatch.setattr(uploads, "read_image", watched)
    monkeypatch.setattr(batch_module, "read_image", watched)
    monkeypatch.setattr(batch_tab, "read_item", lambda item: watched(item.path))
    shown = Batch(tmp_path / "shown", [BatchItem("clip", image, 0)], thumbnails=False)
    shown.add(BatchRow(1, "clip", thumbnail=image), None)
    event: Any = SimpleNamespace(number=1)
    asked: list[Callable[[], Any]] = [
        lambda: batch.choose(shown, event),
        lambda: handlers.explain_run({"run": run, "x": 1, "y": 1}),
        lambda: handlers.export_run({"run": run, "kind": "npz"}),
        lambda: handlers.segment(payload, models[1], "msp"),
        lambda: kan.kan_edge(edge),
        lambda: batch.batch([payload] * 3, *models[:2], "msp", "order given"),
    ]
    with ThreadPoolExecutor(len(asked)) as several:
        for waiting in [several.submit(ask) for ask in asked]:
            waiting.result()
    assert len(in_turn) >= len(asked)
    assert all(in_turn)


def test_the_oldest_runs_are_forgotten() -> None:
    runs = Runs()
    for number in range(1001):
        runs.add(str(number), Run({"path": str(number)}, ("a", "b"), "msp"))
    assert runs.find("1000").picture == {"path": "1000"}
    assert runs.find("1")
    with pytest.raises(ConfigError, match="no longer kept"):
        runs.find("0")
    with pytest.raises(ConfigError, match="no longer kept"):
        runs.find(["a list"])


def test_the_same_picture_is_not_computed_twice(
    service: ModelService, models: list[str], image: Path
) -> None:
    pixels = read_upload({"path": str(image)})
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
        service.warm(["/nowhere/model.safetensors", models[0]]).join(timeout=300)
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
    inputs = service.inside(models[0], pixels).queries
    kept = weakref.ref(inputs)
    del inputs

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "__call__", fail)
        with pytest.raises(OutOfMemoryError, match="64×32"):
            service.answers([models[1]], pixels, "msp")
    assert not service._models
    gc.collect()
    assert kept() is None
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
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    payload = {"path": str(image)}
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
    look = shows_errors(Handlers(service).look)
    with pytest.raises(gr.Error, match="not sent as a file"):
        look({"path": None}, None, "void", *models[:2], "msp", "")
    with pytest.raises(gr.Error, match="shine"):
        look({"path": "x"}, None, "void", *models[:2], "shine", "")


def test_a_fault_of_ours_is_logged_and_shown_as_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> None:
        raise KeyError("secret detail")

    with pytest.raises(gr.Error) as caught:
        shows_errors(broken)()
    assert "secret" not in caught.value.message
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("source", ["", "   ", None])
def test_no_model_is_a_clear_mistake(service: ModelService, source: str | None) -> None:
    with pytest.raises(CheckpointError, match="No model was chosen"):
        service.answers([source], np.zeros((8, 8, 3), np.uint8), "msp")


def test_an_upload_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    path.write_text("<html>", encoding="utf-8")
    with pytest.raises(ImageError) as caught:
        read_upload({"path": str(path)})
    assert str(tmp_path) not in str(caught.value)


def test_examples_are_pictures_with_ground_truth_of_the_same_size() -> None:
    examples = samples()
    assert [example.scene for example in examples] == ["road"] * 6 + ["indoor"] * 2
    for example in examples:
        assert example.path.stat().st_size < 200_000
        assert example.truth is not None
        anomaly = np.asarray(Image.open(example.truth))
        with Image.open(example.path) as opened:
            assert opened.size == (1024, 512) == anomaly.shape[::-1]
        assert set(np.unique(anomaly)) <= {0, 1, 255}
        assert (anomaly == 1).any() == (example.verdict != "normal")


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
    alone, shared = (
        side["stages"] for side in viewer.show(pixels, [first, second], "msp")["sides"]
    )
    assert "backbone shared" in shared
    assert "pixel decoder shared" in shared
    assert "shared" not in alone
