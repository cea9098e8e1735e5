"""The named endpoints, as ``gradio_client`` calls them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

if TYPE_CHECKING:
    from tests.browser.conftest import App

ROOT = Path(__file__).resolve().parents[2]
PICTURE = sorted((ROOT / "examples").glob("street_*.webp"))[0]


@pytest.fixture(scope="module")
def client(app: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("downloads")
    opened = Client(app.url, download_files=str(folder), verbose=False, analytics_enabled=False)
    yield opened
    opened.close()


def test_only_the_named_endpoints_are_public(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/compare", "/segment"}
    compare = {entry["parameter_name"]: entry for entry in named["/compare"]["parameters"]}
    assert list(compare) == ["image", "left", "right", "score"]
    assert not compare["image"]["parameter_has_default"]
    assert all(compare[name]["parameter_has_default"] for name in ("left", "right", "score"))
    segment = [entry["parameter_name"] for entry in named["/segment"]["parameters"]]
    assert segment == ["image", "model", "score"]


def test_compare_needs_nothing_but_a_picture(client: Client) -> None:
    summary, files = client.predict(handle_file(PICTURE), api_name="/compare")
    names = {Path(path).name for path in files}
    for side in ("left", "right"):
        for kind in ("semantic.png", "overlay.png", "score16.png", "score.npz"):
            assert f"{side}_{kind}" in names
        assert side in summary


def test_segment_gives_the_predictors_numbers(client: Client, app: App) -> None:
    from mask2kan.checkpoints import load_model
    from mask2kan.predictor import Predictor

    source = str(app.models[1])
    summary, files = client.predict(
        image=handle_file(PICTURE), model=source, score="entropy", api_name="/segment"
    )
    assert summary
    paths = {Path(path).name: path for path in files}
    prediction = Predictor(load_model(source, device="cpu"))(PICTURE)
    labels = next(path for name, path in paths.items() if name.endswith("_semantic.png"))
    assert np.array_equal(np.asarray(Image.open(labels)), prediction.semantic)
    raw = np.load(next(path for name, path in paths.items() if name.endswith("_score.npz")))
    np.testing.assert_allclose(
        raw[raw.files[0]], prediction.anomaly("entropy"), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("model", "score", "message"),
    [
        ("/nowhere/model.safetensors", "msp", "/nowhere/model.safetensors"),
        ("", "msp", "No model was chosen"),
        (None, "shine", "shine"),
    ],
)
def test_bad_requests_get_one_clear_line(
    client: Client, app: App, model: str | None, score: str, message: str
) -> None:
    with pytest.raises(AppError) as caught:
        client.predict(
            handle_file(PICTURE),
            str(app.models[0]) if model is None else model,
            score,
            api_name="/segment",
        )
    assert message in str(caught.value)


def test_damaged_and_unsafe_checkpoints_are_refused(
    client: Client, app: App, tmp_path: Path
) -> None:
    whole = app.models[0].read_bytes()
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(whole[: len(whole) // 2])
    unsafe = tmp_path / "unsafe.pkl"
    unsafe.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    foreign = tmp_path / "foreign.safetensors"
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, foreign)
    for path in (truncated, unsafe, foreign):
        with pytest.raises(AppError) as caught:
            client.predict(handle_file(PICTURE), str(path), "msp", api_name="/segment")
        text = str(caught.value)
        assert path.name in text or "os" in text
        assert "Something went wrong" not in text
    assert client.predict(handle_file(PICTURE), api_name="/segment")


def test_a_text_file_is_refused_over_the_api(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture", encoding="utf-8")
    with pytest.raises(AppError, match="Can't read this image"):
        client.predict(handle_file(path), api_name="/compare")
