"""The callbacks of the KAN tab: whose picture they look at, and what they send."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.files.samples import sample_pictures
from app.services.results import Run, Runs
from app.services.service import ModelService
from app.tabs.kan import KanHandlers
from mask2kan.checkpoints import load_model, save_model
from mask2kan.errors import ConfigError
from mask2kan.inference.kan_view import kan_head, layer_views, query_norms
from mask2kan.inference.predictor import Predictor
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A KAN and an MLP."""
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / f"{family}.safetensors" for family in ("mask2kan", "mask2former")]
    for path in paths:
        save_model(tiny(path.stem, num_decoder_layers=1), path)
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def runs(image: Path, models: list[str]) -> Runs:
    """One comparison, ``run``."""
    known = Runs()
    picture = {"path": str(image), "orig_name": "mine.png"}
    known.add("run", Run(picture, (models[1], models[1]), "msp"))
    return known


@pytest.fixture
def handlers(service: ModelService, runs: Runs, models: list[str]) -> KanHandlers:
    service.catalog.offered = tuple(models)
    return KanHandlers(service, runs)


def unpacked(matrix: Any, shape: tuple[int, ...]) -> Any:
    codes = np.frombuffer(gzip.decompress(Path(matrix["codes"]["path"]).read_bytes()), "<u2")
    return codes.reshape(shape) / 65535 * matrix["largest"]


def event(**data: Any) -> Any:
    return SimpleNamespace(**data)


def test_sizes_shares_and_masks_of_the_compared_picture(
    handlers: KanHandlers, models: list[str], image: Path
) -> None:
    shown = handlers.see({"run": "run", "model": models[0]})
    assert (shown["run"], shown["picture"], shown["model"]) == ("run", "mine.png", models[0])
    model = load_model(models[0], device="cpu")
    queries = torch.from_numpy(Predictor(model, device="cpu")(image).queries)
    views = layer_views(kan_head(model), queries)
    assert shown["spline_share"] == pytest.approx(np.mean([view.spline_share for view in views]))
    for view, layer in zip(views, shown["layers"], strict=True):
        for name, norms in (
            ("spline", view.spline_norms),
            ("total", view.norms),
            ("grid", view.grid_norms),
        ):
            read = unpacked(layer[name], norms.shape)
            np.testing.assert_allclose(read, norms, atol=norms.max() / 65535)
    assert shown["num_queries"] == len(queries) == len(shown["queries"]) == 7
    assert [one["weight"] for one in shown["queries"]] == sorted(
        (one["weight"] for one in shown["queries"]), reverse=True
    )

    question = {"run": "run", "model": models[0], "layer": 1, "query": 3}
    sizes = handlers.kan_query(question)
    norms = query_norms(kan_head(model), 1, queries, 3)
    for name, expected in (("spline", norms.spline), ("total", norms.total)):
        read = unpacked(sizes[name], tuple(expected.shape))
        np.testing.assert_allclose(read, expected, atol=float(expected.max()) / 65535)


@pytest.mark.parametrize("run", [None, "of a server before", 3, ["run"]])
def test_without_a_known_comparison_the_first_example_is_shown(
    handlers: KanHandlers, models: list[str], run: object
) -> None:
    shown = handlers.see({"run": run, "model": models[0]})
    assert (shown["run"], shown["picture"]) == (None, sample_pictures()[0].stem)


def test_a_question_about_a_forgotten_comparison_is_refused(
    handlers: KanHandlers, models: list[str]
) -> None:
    """What is on screen is not of the example, so an answer about that would be wrong."""
    for ask in (handlers.kan_edge, handlers.kan_query):
        question = {"run": "gone", "model": models[0], "layer": 0, "input": 0, "output": 0}
        with pytest.raises(ConfigError, match="no longer kept"):
            ask(question | {"query": 0})


def test_answers_and_refusals_bear_their_questions_token(
    handlers: KanHandlers, models: list[str]
) -> None:
    shown = handlers.asked(event(run="run", model=models[0], token=5))
    assert shown["token"] == 5
    assert "error" not in shown
    refused = handlers.asked(event(run="run", model=models[1], token=6))
    assert refused == {"error": refused["error"], "token": 6}
    assert "is an MLP" in refused["error"]
    assert "No model was chosen" in handlers.asked(event(run=None, model=None, token=7))["error"]


def test_a_file_says_whether_its_head_may_be_a_kan(
    service: ModelService, models: list[str], tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no safetensors file")
    service.catalog.offered = (*models, str(other), "owner/name")
    offered = [name for name in service.catalog.offered if service.catalog.may_have_kan(name)]
    assert offered == [models[0], str(other), "owner/name"]
