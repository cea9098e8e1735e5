"""Callbacks, service and viewer without a browser or a server."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import gzip
import json
import math
import os
import shutil
import tempfile
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.requests import Request

from app.files import uploads
from app.files.samples import samples
from app.files.uploads import read_upload
from app.messages import OUR_FAULT, errors_as_values, shows_errors
from app.page import INDOOR, build_demo
from app.services import batch_items
from app.services.batch import Batch
from app.services.batch_items import BatchItem
from app.services.batch_rows import BatchRow
from app.services.catalog import Catalog, offered_models
from app.services.models import Models
from app.services.results import Run, Runs
from app.services.service import ModelService
from app.tabs import batch as batch_tab
from app.tabs import compare as compare_tab
from app.tabs.batch import BatchHandlers
from app.tabs.compare import Handlers, default_score
from app.tabs.kan import KanHandlers
from app.tabs.models import ModelsHandlers
from app.web import viewer_values
from app.web.packing import packed_codes
from app.web.payload import Result, ScoreMap
from mask2kan.checkpoints import load_model, save_model
from mask2kan.checkpoints.manifest import manifest
from mask2kan.errors import CheckpointError, ConfigError, ImageError, OutOfMemoryError
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.media.images import read_image
from mask2kan.modeling.settings import InferenceSettings
from tests.tiny_models import tiny

HEIGHT, WIDTH = 48, 80
SIGMA = 0.03  # of the first model's settings
CURVE = [[0.01, 0.3, 0.4], [0.05, 0.2, 0.8]]


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
                "msp": {"range": [-1.0, 0.5], "fpr05": 0.2, "data": "nothing much", "curve": CURVE}
            }
            model.settings = InferenceSettings(sigma=SIGMA)
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


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """Ground truth of ``image``: void above, then anomalies."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[:10], values[10:12] = 255, 1
    path = tmp_path / "truth.png"
    Image.fromarray(values).save(path)
    return path


def _unpacked(file: dict[str, Any] | None, dtype: str) -> np.ndarray[Any, Any]:
    assert file is not None
    content = gzip.decompress(Path(file["path"]).read_bytes())
    values: np.ndarray[Any, Any] = np.frombuffer(content, dtype)
    return values


def _codes(file: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Decode as ``packed_codes`` says its files are to be read."""
    low, high = _unpacked(file, "u1").reshape(2, *shape).astype(np.uint16)
    folded = low + 256 * high
    rest: np.ndarray[Any, Any] = np.where(folded % 2, ~(folded // 2), folded // 2)
    return rest.cumsum(0, dtype=np.uint16).cumsum(1, dtype=np.uint16)


def _assert_shows(shown: ScoreMap, scores: np.ndarray[Any, Any]) -> None:
    low, high = shown["extent"]
    decoded = low + _codes(shown["codes"], scores.shape) / 65535 * (high - low)
    # Half a 16-bit step of the picture's own span, and float32's rounding.
    np.testing.assert_allclose(decoded, scores, atol=(high - low) / 65535 / 2 + 1e-6)


def _predicted(model: str, image: Path) -> Prediction:
    return Predictor(load_model(model, device="cpu"), "cpu")(image)


def _ask(handlers: Handlers, models: list[str], score: str = "msp", **said: Any) -> Any:
    """Send what may be refused."""
    return handlers.look(models[0], models[1], score, gr.EventData(None, said))


def _look(
    handlers: Handlers, image: Path, models: list[str], score: str = "msp", **said: Any
) -> Result:
    """Ask for a picture of one's own; the request may say more."""
    picture = {"token": 1, "path": str(image), "name": image.name}
    value: Result = _ask(handlers, models, score, **{**picture, **said})
    assert "sides" in value, value
    return value


def _visit(query: str) -> gr.Request:
    scope = {"type": "http", "query_string": query.encode(), "headers": []}
    return gr.Request(Request(scope))


def test_the_viewer_gets_the_predictors_labels_and_scores(
    service: ModelService, models: list[str], image: Path
) -> None:
    value = _look(Handlers(service), image, models)
    assert value["size"] == value["source_size"] == [HEIGHT, WIDTH]
    assert (value["name"], value["example"]) == ("noise.png", "")
    predictions = [_predicted(model, image) for model in models[:2]]
    for side, prediction in zip(value["sides"], predictions, strict=True):
        labels = _unpacked(side["labels"], "u1").reshape(HEIGHT, WIDTH)
        assert np.array_equal(labels, prediction.semantic)
        _assert_shows(side["scores"], prediction.anomaly_map("msp"))
        assert sum(entry["share"] for entry in side["classes"]) == pytest.approx(1)
    left, right = value["sides"]
    assert [left["source"], right["source"]] == models[:2]
    assert (left["scores"]["smoothing"], right["scores"]["smoothing"]) == (SIGMA, 0)
    assert left["calibrated"]
    assert left["calibrated_on"] == "nothing much"
    assert left["range"] == [-1.0, 0.5]
    assert left["threshold"] == pytest.approx(0.2)
    assert left["curve"] == CURVE
    assert not right["calibrated"]
    assert right["threshold"] == pytest.approx(0.5)
    assert right["curve"] == []
    assert (left["head"], right["head"]) == ("KAN", "MLP")
    assert "KAN head · MobileNetV2" in left["facts"]
    assert "MLP head" in right["facts"]
    assert value["truth"] is None


def test_what_was_packed_once_is_used_again(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    first, again, other = (_look(handlers, image, models, score) for score in ("msp", "msp", "rba"))
    assert first["run"] != again["run"]
    assert first["sides"] == again["sides"]
    assert first["sides"] != other["sides"]


def test_packed_results_keep_no_maps_in_memory(
    service: ModelService, models: list[str], image: Path
) -> None:
    """Sixteen of them would be gigabytes: which answers stay is the service's choice."""
    handlers = Handlers(service)
    _look(handlers, image, models)
    kept = [weakref.ref(answer) for answer in service.models._answers.values()]
    assert len(kept) == 2
    service.models._answers.clear()
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


@pytest.mark.parametrize(
    "said", [None, 7, "name", ["name", "token"], [], {}, {"name": None}, {"path": [], "name": []}]
)
def test_an_event_that_says_something_else_is_refused_in_words(
    service: ModelService, said: Any
) -> None:
    event = gr.EventData(None, said)
    value = Handlers(service).look("a", "b", "msp", event)
    sentence = "The picture was not sent as a file: upload a JPEG, PNG or WebP file."
    assert value == {"token": 0, "error": sentence}
    with pytest.raises(ConfigError, match="Choose a model"):
        ModelsHandlers(service).chosen_in_list(event)


@pytest.mark.parametrize(
    ("sent", "back"),
    [(7, 7), (0, 0), (-3, -3), (2**53, 2**53)]
    + [(odd, 0) for odd in (None, "7", 2.5, math.nan, [7], {"token": 7}, True, 2**70)],
)
def test_a_token_comes_back_as_it_was_sent(
    service: ModelService, models: list[str], image: Path, sent: Any, back: int
) -> None:
    handlers = Handlers(service)
    for token in (
        _ask(handlers, models, "msp", token=sent)["token"],
        _look(handlers, image, models, token=sent)["token"],
    ):
        assert (type(token), token) == (int, back)


def test_a_late_answer_carries_its_own_token(
    service: ModelService, models: list[str], image: Path
) -> None:
    """What has been asked for since is the page's to know."""
    handlers = Handlers(service)
    assert [_look(handlers, image, models, token=token)["token"] for token in (9, 3)] == [9, 3]


def test_every_refusal_is_a_sentence_with_the_token(
    service: ModelService, models: list[str], image: Path, tmp_path: Path
) -> None:
    handlers = Handlers(service)
    damaged = tmp_path / "page.jpg"
    damaged.write_text("<html>", encoding="utf-8")
    narrow = tmp_path / "narrow.png"
    Image.new("L", (8, HEIGHT)).save(narrow)
    own = {"path": str(image), "name": "mine.png"}
    left, right, *_ = models
    foreign = str(Path(__file__).resolve())
    cases: list[tuple[tuple[Any, Any, Any], dict[str, Any], str]] = [
        ((None, right, "msp"), own, "No model was chosen"),
        ((left, " ", "msp"), own, "No model was chosen"),
        ((left, "unicorn", "msp"), own, "no model 'unicorn'"),
        (([], {"a": 1}, "msp"), own, "No model was chosen"),
        ((left, right, "shine"), own, "Unknown anomaly score 'shine'"),
        ((left, right, ["msp"]), own, "Unknown anomaly score"),
        ((left, right, "msp"), {"example": "unicorn"}, "no example 'unicorn'"),
        ((left, right, "msp"), {**own, "example": ["road"]}, "no example"),
        ((left, right, "msp"), {"path": foreign}, "did not arrive"),
        ((left, right, "msp"), {"path": str(tmp_path / "gone.png")}, "did not arrive"),
        ((left, right, "msp"), {"path": str(damaged)}, "Can't read this image"),
        ((left, right, "msp"), {**own, "truth": foreign}, "did not arrive"),
        ((left, right, "msp"), {**own, "truth": [str(image)]}, "not sent as a file"),
        ((left, right, "msp"), {**own, "truth": str(damaged)}, "Can't read the ground truth"),
        ((left, right, "msp"), {**own, "truth": str(narrow)}, f"8×{HEIGHT} pixels"),
    ]
    for token, (pickers, said, sentence) in enumerate(cases, start=5):
        value: Any = handlers.look(*pickers, gr.EventData(None, {"token": token, **said}))
        assert value.keys() == {"token", "error"}, said
        assert value["token"] == token
        assert sentence in value["error"]
        assert str(tmp_path) not in value["error"]
        assert foreign not in value["error"]


def test_a_fault_of_ours_answers_its_request_and_the_next_is_served(
    service: ModelService,
    models: list[str],
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("secret detail")

    handlers = Handlers(service)
    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "__call__", broken)
        value = _ask(handlers, models, token=4, path=str(image))
    assert value == {"token": 4, "error": OUR_FAULT}
    assert "secret detail" in caplog.text
    assert _look(handlers, image, models, token=5)["token"] == 5


def test_events_name_a_picture_an_example_and_a_model(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    value = _look(handlers, image, models, name="../mine.png")
    assert (value["name"], value["example"]) == ("mine.png", "")
    run = handlers.runs.find(value["run"])
    assert run == Run({"path": str(image), "orig_name": "mine.png"}, (*models[:2],), "msp")
    example = samples()[1]
    value = _look(handlers, image, models, example=example.name)
    assert (value["name"], value["example"]) == (example.path.name, example.name)
    run = handlers.runs.find(value["run"])
    assert run.picture == {"path": str(example.path)}
    event = gr.EventData(None, {"source": "mask2former_road"})
    assert ModelsHandlers(service).chosen_in_list(event) == "mask2former_road"


def test_files_that_were_cleaned_up_are_packed_anew(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    first = _look(handlers, image, models)
    file = Path(first["sides"][1]["scores"]["codes"]["path"])
    content = file.read_bytes()
    file.unlink()
    again = _look(handlers, image, models)
    assert again["sides"][1]["scores"] == first["sides"][1]["scores"]
    assert file.read_bytes() == content


def _paths(value: Any) -> list[str]:
    """Find every file in a value, wherever it stands."""
    if isinstance(value, dict):
        inside = [path for part in value.values() for path in _paths(part)]
        return [value["path"], *inside] if "path" in value else inside
    return [path for part in value for path in _paths(part)] if isinstance(value, list) else []


def test_every_file_of_a_value_is_listed_and_missed(
    service: ModelService, models: list[str], image: Path, mask: Path
) -> None:
    handlers = Handlers(service)
    plain = _look(handlers, image, models)
    value = _look(handlers, image, models, truth=str(mask))
    for shown, count in ((plain, 5), (value, 6)):
        listed = [file["path"] for file in viewer_values.files_of(shown)]
        assert sorted(listed) == sorted(_paths(shown))
        assert len(set(listed)) == count
    assert viewer_values.still_there(value)
    for path in map(Path, _paths(value)):
        aside = path.rename(path.with_suffix(".aside"))
        assert not viewer_values.still_there(value), path
        aside.rename(path)
    assert viewer_values.still_there(value)


def test_ground_truth_travels_as_it_is_meant(
    service: ModelService, models: list[str], image: Path, mask: Path
) -> None:
    handlers = Handlers(service)
    values = np.asarray(Image.open(mask))
    for white in ("void", None, ["anomaly"]):
        value = _look(handlers, image, models, truth=str(mask), white=white)
        shown = _unpacked(value["truth"], "u1").reshape(HEIGHT, WIDTH)
        assert np.array_equal(shown, values)
    value = _look(handlers, image, models, truth=str(mask), white="anomaly")
    shown = _unpacked(value["truth"], "u1").reshape(HEIGHT, WIDTH)
    assert np.array_equal(shown, values > 0)
    Image.fromarray(values[1:]).save(mask)
    refusal = _ask(handlers, models, path=str(image), truth=str(mask))
    assert f"{WIDTH}×{HEIGHT - 1} pixels, the picture {WIDTH}×{HEIGHT}" in refusal["error"]


def test_a_truth_is_used_with_its_own_request_alone(
    service: ModelService, models: list[str], image: Path, mask: Path
) -> None:
    handlers = Handlers(service)
    before, judged, after = (
        _look(handlers, image, models, **said) for said in ({}, {"truth": str(mask)}, {})
    )
    assert before["truth"] is None
    assert judged["truth"] is not None
    assert after["truth"] is None
    for value in (judged, after):
        [file] = handlers.export_run({"run": value["run"], "kind": "everything"})["files"]
        with zipfile.ZipFile(file["path"]) as archive:
            summary = json.loads(archive.read("summary.json"))
        assert ("truth" in summary["left"]) == (value is judged)


def test_an_example_brings_its_own_truth(
    service: ModelService,
    models: list[str],
    image: Path,
    mask: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = Handlers(service)
    example = samples()[0]
    assert example.truth is not None
    said = {"example": example.name, "truth": str(mask), "white": "anomaly"}
    value = _look(handlers, image, models, **said)
    truth = np.asarray(Image.open(example.truth))
    assert np.array_equal(_unpacked(value["truth"], "u1").reshape(truth.shape), truth)
    run = handlers.runs.find(value["run"])
    assert (run.truth, run.white_is_anomaly) == ({"path": str(example.truth)}, False)
    without = dataclasses.replace(example, truth=None)
    monkeypatch.setattr(compare_tab, "sample", {example.name: without}.get)
    assert _look(handlers, image, models, **said)["truth"] is None


def test_a_large_picture_is_shown_by_every_nth_pixel() -> None:
    values = np.arange(3000 * 4096, dtype=np.int64).reshape(3000, 4096)
    shown = viewer_values.sampled(values)
    assert shown.shape == (1500, 2048)
    assert np.array_equal(shown, values[1::2, 1::2])
    assert viewer_values.sampled(values[:100, :200]).shape == (100, 200)


def test_a_sampled_result_says_so_and_is_exported_with_regions_to_scale(
    service: ModelService, models: list[str], tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    small = random.integers(0, 256, (8, 512, 3), dtype=np.uint8)
    path = tmp_path / "long.png"
    Image.fromarray(small).resize((4096, 64), Image.Resampling.NEAREST).save(path)
    handlers = Handlers(service)
    value = _look(handlers, path, models)
    assert (value["size"], value["source_size"]) == ([32, 2048], [64, 4096])
    assert any("2048 × 32" in note and "4096 × 64" in note for note in value["sides"][0]["notes"])
    question = {
        "run": value["run"],
        "kind": "regions",
        "smallest_region": 5 / (32 * 2048),  # of what is shown
        "thresholds": {"left": -9},
    }
    [left, _] = handlers.export_run(question)["files"]
    told = json.loads(Path(left["path"]).read_text(encoding="utf-8"))
    assert told["info"]["min_pixels"] == 20
    assert [one["area"] for one in told["annotations"]] == [4096 * 64]


def test_a_shown_result_answers_why_and_is_exported(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    value = _look(handlers, image, models, "entropy")
    told = handlers.explain_run({"run": value["run"], "x": 7, "y": 5})
    prediction = _predicted(models[1], image)
    assert told["right"]["value"] == pytest.approx(
        float(prediction.anomaly("entropy")[5, 7]), abs=1e-6
    )
    [file] = handlers.export_run({"run": value["run"], "kind": "everything", "least": 3})["files"]
    with zipfile.ZipFile(file["path"]) as archive:
        assert json.loads(archive.read("summary.json"))["left"]["score"] == "entropy"
        assert "noise_comparison.pdf" in archive.namelist()
    asked: dict[str, Any]
    for asked, message in (
        ({"run": "guessed", "x": 1, "y": 1}, "no longer kept"),
        ({"run": value["run"], "x": 0.5, "y": 1}, "whole number"),
        ({"run": value["run"], "x": WIDTH, "y": 1}, str(WIDTH)),
    ):
        assert message in errors_as_values(handlers.explain_run)(asked)["error"]
    for asked, message in (
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
        asked = {"run": value["run"], **asked}
        assert message in errors_as_values(handlers.export_run)(asked)["error"]


def test_a_shown_result_is_smoothed_otherwise(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    run = _look(handlers, image, models, "entropy")["run"]
    predictions = dict(zip(("left", "right"), (_predicted(m, image) for m in models), strict=False))
    shown = []
    for sigma in (None, 0, 0.02, 0.1):
        maps = handlers.smooth_run({"run": run, "smoothing": sigma})
        assert maps.keys() == predictions.keys()
        for side, prediction in predictions.items():
            own = prediction.settings.sigma if sigma is None else sigma
            assert maps[side]["smoothing"] == own
            _assert_shows(maps[side], prediction.anomaly_map("entropy", own))
        shown.append(Path(maps["left"]["codes"]["path"]).read_bytes())
    assert len(set(shown)) == len(shown)
    assert handlers.smooth_run({"run": run})["left"]["smoothing"] == SIGMA
    smooth = errors_as_values(handlers.smooth_run)
    for bad in (-0.01, 0.11, 10**400, math.nan, math.inf, True, "0.02", [0.02]):
        [answer] = smooth({"run": run, "smoothing": bad}).items()
        assert answer[0] == "error"
        assert "must be a" in answer[1]
        assert "from 0 to 0.1" in answer[1]
    for number in (None, "guessed", [run]):
        assert "no longer kept" in smooth({"run": number, "smoothing": 0.02})["error"]


_RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize(
    "codes",
    [
        _RANDOM.integers(0, 65536, (37, 53)),
        _RANDOM.choice([0, 65535], (16, 9)),
        np.add.outer(np.arange(64) ** 2, 5 * np.arange(96)),
        np.full((5, 7), 65535),
        np.zeros((3, 4)),
        np.full((1, 1), 40_000),
        _RANDOM.integers(0, 65536, (1, 20)),
        _RANDOM.integers(0, 65536, (20, 1)),
        _RANDOM.integers(0, 65536, (8, 12)).T,
    ],
    ids=["random", "ends", "smooth", "constant", "zero", "pixel", "row", "column", "transposed"],
)
def test_packed_codes_are_read_back_as_they_were(codes: np.ndarray[Any, Any]) -> None:
    given = codes.astype(np.uint16)
    file = packed_codes(given, "codes.gz")
    assert np.array_equal(_codes(file, codes.shape), codes)
    assert np.array_equal(given, codes)  # the caller's is left alone


def test_pictures_are_decoded_one_at_a_time(
    service: ModelService,
    models: list[str],
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever asks for it: events in the queue, and what pages ask for beside it."""
    in_turn: list[bool] = []
    decode = read_image
    holders: list[int] = []
    take = service.turns.take

    @contextlib.contextmanager
    def taken(*arguments: Any, **options: Any) -> Iterator[None]:
        with take(*arguments, **options):
            holders.append(threading.get_ident())
            yield
            holders.pop()

    def watched(source: Any) -> Any:
        in_turn.append(holders == [threading.get_ident()])
        return decode(source)

    payload = {"path": str(image)}
    handlers, batch = Handlers(service), BatchHandlers(service)
    kan = KanHandlers(service, handlers.runs)
    run = _look(handlers, image, models)["run"]
    edge = {"run": run, "model": models[0], "layer": 0, "input": 0, "output": 0}
    monkeypatch.setattr(service.turns, "take", taken)
    monkeypatch.setattr(uploads, "read_image", watched)
    monkeypatch.setattr(batch_items, "read_image", watched)
    monkeypatch.setattr(batch_tab, "read_item", lambda item: watched(item.path))
    shown = Batch(tmp_path / "shown", [BatchItem("clip", image, 0)], thumbnails=False)
    shown.add(BatchRow(1, "clip", thumbnail=image), None)
    event: Any = SimpleNamespace(number=1)
    asked: list[Callable[[], Any]] = [
        lambda: batch.choose(shown, event),
        lambda: _look(handlers, image, models),
        lambda: handlers.explain_run({"run": run, "x": 1, "y": 1}),
        lambda: handlers.smooth_run({"run": run, "smoothing": 0.01}),
        lambda: handlers.export_run({"run": run, "kind": "npz"}),
        lambda: handlers.segment(payload, models[1], "msp"),
        lambda: kan.kan_edge(edge),
        lambda: batch.batch([payload] * 3, models[0], models[1], "msp", "order given"),
    ]
    with ThreadPoolExecutor(len(asked)) as several:
        for waiting in [several.submit(ask) for ask in asked]:
            waiting.result()
    shown.discard()
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


def test_the_first_result_lies_ready_and_lasts(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    service = ModelService(device="cpu", catalog=Catalog(models[:2]))
    handlers, place = Handlers(service), tmp_path / "first" / "first.json"
    place.parent.mkdir()
    handlers.first(place)
    first: Result = json.loads(place.read_text(encoding="utf-8"))
    example = samples()[0]
    assert (first["token"], first["example"]) == (0, example.name)
    assert [side["source"] for side in first["sides"]] == models[:2]
    assert {side["score"] for side in first["sides"]} == {default_score()}
    again = _look(handlers, example.path, models, default_score(), example=example.name)
    lasting, cached = map(viewer_values.files_of, (first, again))
    assert len(lasting) == len(cached) == 6  # ground truth among them
    for kept, passing in zip(lasting, cached, strict=True):
        assert Path(kept["path"]).parent == place.parent
        assert tmp_path / "cache" in Path(passing["path"]).parents
        assert Path(kept["path"]).read_bytes() == Path(passing["path"]).read_bytes()
    shutil.rmtree(tmp_path / "cache")  # as Gradio cleans up, after an hour
    assert viewer_values.still_there(first)
    assert not viewer_values.still_there(again)
    for number in range(1001):
        handlers.runs.add(str(number), Run({"path": str(number)}, ("a", "b"), "msp"))
    with pytest.raises(ConfigError, match="no longer kept"):
        handlers.explain_run({"run": again["run"], "x": 7, "y": 5})
    told = handlers.explain_run({"run": first["run"], "x": 7, "y": 5})
    for model, side in zip(models, ("left", "right"), strict=False):
        score = _predicted(model, example.path).anomaly(default_score())[5, 7]
        assert told[side]["value"] == pytest.approx(float(score), abs=1e-5)


def test_the_page_prepares_the_first_result_and_tells_the_viewer_where(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the app's own folder stays behind
    demo = build_demo(service=ModelService(device="cpu", catalog=Catalog(models[:2])))
    assert _component(demo, "viewer").props["first"] == demo.first.as_posix()
    assert not demo.first.exists()
    demo.prepare().join(timeout=300)
    first: Result = json.loads(demo.first.read_text(encoding="utf-8"))
    assert demo.handlers.runs.find(first["run"]).sources == (*models[:2],)


@pytest.mark.parametrize(("offered", "logged"), [([], False), (["/nowhere/m.safetensors"], True)])
def test_without_a_first_result_the_page_goes_on(
    offered: list[str], logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    demo = build_demo(service=ModelService(device="cpu", catalog=Catalog(offered)))
    demo.prepare().join(timeout=300)
    assert not demo.first.exists()
    assert ("/nowhere/m.safetensors" in caplog.text) == logged


def test_a_link_sets_what_is_here_and_says_what_is_not(service: ModelService) -> None:
    handlers, skip = Handlers(service), gr.skip()

    def linked(query: str) -> tuple[list[Any], list[str]]:
        *pickers, said = handlers.linked(_visit(query))
        assert said.keys() == {"linked"}
        return pickers, said["linked"]

    assert linked("") == linked("left=&score=&view=swipe") == ([skip] * 3, [])
    assert linked("right=%20owner/name&score=rba") == ([skip, "owner/name", "rba"], [])
    pickers, vain = linked("left=unicorn&right=mask2kan_road")
    assert pickers == [skip, "mask2kan_road", skip]
    assert ["no model 'unicorn'" in sentence for sentence in vain] == [True]
    pickers, vain = linked("left=mask2kan_raod&right=unicorn&score=shine")
    assert pickers == [skip] * 3
    assert "Nearest: mask2kan_road" in vain[0]
    assert "'unicorn'" in vain[1]
    assert len(vain) == 2  # scores are the viewer's to judge: it has their list


def test_a_picture_of_a_batch_is_handed_on_each_time(service: ModelService) -> None:
    handlers = Handlers(service)
    first, again = (handlers.open_file("/uploads/frame_7.png") for _ in range(2))
    assert first["open"] == again["open"] == {"path": "/uploads/frame_7.png", "name": "frame_7.png"}
    assert first != again  # Gradio passes on what differs
    with pytest.raises(ConfigError, match="Choose a picture"):
        handlers.open_file(None)


def test_the_same_picture_is_not_computed_twice(
    service: ModelService, models: list[str], image: Path
) -> None:
    pixels = read_upload({"path": str(image)})
    first = service.models.answers([models[0]], pixels, "msp")[0]
    again = service.models.answers([models[0]], pixels.copy(), "entropy")[0]
    assert again is first
    other = pixels.copy()
    other[0, 0] ^= 255
    assert service.models.answers([models[0]], other, "msp")[0] is not first
    turned = np.ascontiguousarray(pixels.reshape(WIDTH, HEIGHT, 3))
    assert service.models.answers([models[0]], turned, "msp")[0].prediction.size == (WIDTH, HEIGHT)


def test_a_checkpoint_written_again_is_loaded_again(
    service: ModelService, models: list[str], loads: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    pixels = np.zeros((64, 64, 3), np.uint8)
    scores = []
    for moment, source in enumerate((models[0], models[2])):
        path.write_bytes(Path(source).read_bytes())
        os.utime(path, (moment, moment))
        scores.append(
            service.models.answers([str(path)], pixels, "msp")[0].prediction.anomaly("msp")
        )
    assert len(loads) == 2
    assert not np.array_equal(scores[0], scores[1])


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
    service.models.answers([models[0]], pixels, "msp")
    inputs = service.models.inside(models[0], pixels).queries
    kept = weakref.ref(inputs)
    del inputs

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "__call__", fail)
        with pytest.raises(OutOfMemoryError, match="64×32"):
            service.run(Models.answers, [models[1]], pixels, "msp")
    assert not service.models._models
    gc.collect()
    assert kept() is None
    assert service.models.answers([models[0]], pixels, "msp")


def test_another_runtime_error_is_not_called_a_lack_of_memory(
    service: ModelService, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Predictor, "__call__", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        service.models.answers([models[0]], np.zeros((32, 32, 3), np.uint8), "msp")


def test_compare_and_segment_deliver_summary_and_files(
    service: ModelService, models: list[str], image: Path
) -> None:
    handlers = Handlers(service)
    payload = {"path": str(image)}
    summary, files = handlers.compare(payload, models[0], models[1], "rba")
    assert set(summary) == {"left", "right"}
    assert summary["left"]["score"] == "rba"
    names = [Path(path).name for path in files]
    kinds = ("semantic.png", "mask.png", "overlay.png", "score16.png", "score.npz")
    assert names == [f"{side}_{kind}" for side in ("left", "right") for kind in kinds]
    summary, files = handlers.segment(payload, models[1], "msp")
    assert summary["model"]["model"] == models[1]
    assert len(files) == 5


def test_a_users_mistake_is_shown_as_it_is(models: list[str], service: ModelService) -> None:
    compare = shows_errors(Handlers(service).compare)
    with pytest.raises(gr.Error, match="not sent as a file"):
        compare({"path": None}, models[0], models[1], "msp")
    with pytest.raises(gr.Error, match="shine"):
        compare({"path": "x"}, models[0], models[1], "shine")
    with pytest.raises(gr.Error, match="Choose a picture of the batch"):
        shows_errors(Handlers(service).open_file)(None)


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
        service.models.answers([source], np.zeros((8, 8, 3), np.uint8), "msp")


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


def test_the_pickers_offer_the_models_and_all_of_the_manifest_by_title(models: list[str]) -> None:
    demo = build_demo(models=[models[0], "mask2former_road"])
    left, right = _component(demo, "left"), _component(demo, "right")
    assert (left.value, right.value) == (models[0], "mask2former_road")
    assert left.choices == right.choices
    titles = {name: title for title, name in left.choices}
    assert list(titles)[:2] == [models[0], "mask2former_road"]
    assert titles == {entry["name"]: entry["title"] for entry in manifest()} | {
        models[0]: "model_0.safetensors"
    }
    assert len(titles) == len(left.choices)
    assert not any("/" in title for title in titles.values())
    assert INDOOR in titles
    assert left.allow_custom_value


def test_what_is_typed_never_joins_the_choices(image: Path) -> None:
    catalog = Catalog(["mask2kan_road", "mask2former_road"])
    service = ModelService(device="cpu", catalog=catalog)
    demo = build_demo(service=service)

    def choices() -> list[Any]:
        """Those of every picker, as a visitor gets them, and of the next page."""
        parts = [part["props"] for part in demo.get_config_file()["components"]]
        return [props["choices"] for props in parts if "choices" in props] + [catalog.choices()]

    before = copy.deepcopy(choices())
    typed = ["unicorn", "/nowhere/m.safetensors", "owner/name"]
    for name in typed:
        pickers = demo.handlers.linked(_visit(f"left={name}&right={name}"))[:2]
        assert all(picker in (gr.skip(), name) for picker in pickers)
        for pair, score in (([name, "mask2kan_road"], "shine"), (["mask2kan_road", name], "msp")):
            if (name, score) != ("owner/name", "msp"):  # that one would be fetched
                assert "error" in _ask(demo.handlers, pair, score, path=str(image))
    assert choices() == before
    assert not any(name in str(before) for name in typed)


def test_models_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MASK2KAN_MODELS", "/a/b.safetensors:owner/name")
    assert offered_models() == ["/a/b.safetensors", "owner/name"]
    with caplog.at_level("WARNING"):
        Catalog.of_environment()
    assert "/a/b.safetensors: there is no such file" in caplog.text
    assert "owner/name" not in caplog.text


def test_importing_the_app_switches_analytics_off() -> None:
    check: Callable[[], bool] = gr.analytics.analytics_enabled
    assert not check()


def test_shared_stages_are_named_on_the_page(models: list[str], tmp_path: Path) -> None:
    """A copy of a model under another name: the hash, not the name, finds the common trunk."""
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(Path(models[0]).read_bytes())
    pixels = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    first, second = Models().answers([models[0], str(copied)], pixels, "msp")
    assert second.prediction.shared == ("backbone", "pixel_decoder")
    np.testing.assert_array_equal(first.prediction.pred_masks, second.prediction.pred_masks)
    alone, shared = (
        side["stages"] for side in viewer_values.show(pixels, [first, second], "msp")["sides"]
    )
    assert "backbone shared" in shared
    assert "pixel decoder shared" in shared
    assert "shared" not in alone
