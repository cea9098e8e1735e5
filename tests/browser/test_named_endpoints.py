"""The named endpoints, as ``gradio_client`` calls them."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from tests.serving import App

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "examples" / "road_sofa.webp"


@pytest.fixture(scope="module")
def client(app: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("downloads")
    opened = Client(app.url, download_files=str(folder), verbose=False, analytics_enabled=False)
    yield opened
    opened.close()


def test_only_the_named_endpoints_are_public(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    asked = {
        name: [
            entry["parameter_name"] + ("" if entry["parameter_has_default"] else " *")
            for entry in told["parameters"]
        ]
        for name, told in named.items()
    }
    pair = ["left", "right", "score"]
    assert asked == {
        "/compare": ["image *", *pair],
        "/segment": ["image *", "model", "score"],
        "/explain": ["image *", "x *", "y *", *pair],
        "/export": [
            "image *", *pair, "left_threshold", "right_threshold", "min_region", "truth",
        ],
        "/kan": ["image *", "model", "layer", "input", "output"],
        "/batch": ["files *", *pair, "order"],
        "/models": [],
    }  # fmt: skip


def test_the_api_page_says_what_the_docstrings_say(app: App) -> None:
    """As the tools for language models do; and its examples can be run as they stand."""
    info = httpx.get(f"{app.url}/gradio_api/info").json()["named_endpoints"]
    pair = "a model the app offers, or a Hub repository id."
    words = {
        name: {
            one["parameter_name"]: one["python_type"]["description"] for one in told["parameters"]
        }
        for name, told in info.items()
    }
    assert all(all(said.values()) for said in words.values())
    assert words["/explain"]["x"] == "Column of the pixel, counted from 0 at the left."
    assert words["/segment"]["model"] == pair.capitalize().replace("hub", "Hub")
    assert words["/segment"]["score"].startswith("msp, ")
    assert words["/export"]["truth"].startswith("Optional mask")
    snippet = info["/segment"]["code_snippets"]["python"]
    address = f"{app.url}/gradio_api/file={ROOT}/examples/road_sheep.webp"
    assert f"image=handle_file('{address}')" in snippet
    assert httpx.get(address).content == (ROOT / "examples/road_sheep.webp").read_bytes()
    assert f"files=[handle_file('{address}')]" in info["/batch"]["code_snippets"]["python"]
    assert all("gradio-app" not in str(told) for told in info.values())
    assert "root.invalid" not in str(info)


def test_the_page_brings_its_own_link_preview(app: App) -> None:
    page = httpx.get(f"{app.url}/")
    tags = dict(re.findall(r'<meta (?:property|name)="([\w:]+)" content="([^"]*)"', page.text))
    assert tags["og:title"] == tags["twitter:title"] == "Mask2KAN"
    assert "Kolmogorov" in tags["og:description"] == tags["description"]
    assert tags["og:url"] == f"{app.url}/"
    picture = httpx.get(tags["og:image"])
    assert picture.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(picture.content)) as opened:
        assert opened.width > 1000
    assert len(re.findall(r"<meta[^>]*og:", page.text)) == 7  # Gradio's own are gone
    assert httpx.head(f"{app.url}/").status_code == 200
    proxied = httpx.get(
        f"{app.url}/", headers={"X-Forwarded-Host": "kan.example", "X-Forwarded-Proto": "https"}
    )
    assert '"og:image" content="https://kan.example/gradio_api/file=' in proxied.text


def test_compare_needs_nothing_but_a_picture(client: Client) -> None:
    summary, files = client.predict(handle_file(IMAGE), api_name="/compare")
    names = {Path(path).name for path in files}
    for side in ("left", "right"):
        for kind in ("semantic.png", "mask.png", "overlay.png", "score16.png", "score.npz"):
            assert f"{side}_{kind}" in names
        assert side in summary


def test_segment_gives_the_predictors_numbers(client: Client, app: App) -> None:
    from mask2kan.checkpoints import load_model
    from mask2kan.inference.predictor import Predictor

    source = str(app.models[1])
    summary, files = client.predict(
        image=handle_file(IMAGE), model=source, score="entropy", api_name="/segment"
    )
    assert summary
    paths = {Path(path).name: path for path in files}
    prediction = Predictor(load_model(source, device="cpu"))(IMAGE)
    labels = next(path for name, path in paths.items() if name.endswith("_semantic.png"))
    # Another process may add up with another number of threads, and random classes nearly tie.
    assert (np.asarray(Image.open(labels)) == prediction.semantic).mean() > 0.999
    raw = np.load(next(path for name, path in paths.items() if name.endswith("_score.npz")))
    np.testing.assert_allclose(
        raw[raw.files[0]], prediction.anomaly("entropy"), rtol=1e-4, atol=1e-5
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
            handle_file(IMAGE),
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
            client.predict(handle_file(IMAGE), str(path), "msp", api_name="/segment")
        text = str(caught.value)
        assert path.name in text or "os" in text
        assert "Something went wrong" not in text
    assert client.predict(handle_file(IMAGE), api_name="/segment")


def test_a_text_file_is_refused_over_the_api(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture", encoding="utf-8")
    with pytest.raises(AppError, match="Can't read this image"):
        client.predict(handle_file(path), api_name="/compare")


def test_what_explains_a_pixel_adds_up(client: Client, app: App) -> None:
    """The listed contributions make the class score, the class scores the anomaly score."""
    from mask2kan.checkpoints import load_model
    from mask2kan.inference.predictor import Predictor

    told = client.predict(
        handle_file(IMAGE), 700, 401, str(app.models[0]), str(app.models[1]), "msp",
        api_name="/explain",
    )  # fmt: skip
    for side, model in zip(("left", "right"), app.models, strict=True):
        prediction = Predictor(load_model(str(model), device="cpu"), "cpu")(IMAGE)
        one = told[side]
        assert one["value"] == pytest.approx(prediction.anomaly("msp")[401, 700], abs=1e-6)
        for entry in one["classes"]:
            score = prediction.class_scores[entry["index"], 401, 700]
            assert entry["score"] == pytest.approx(score, abs=1e-4)
        summed = sum(part["contribution"] for part in one["queries"]) + one["rest"]
        best = prediction.class_scores[:, 401, 700].max()
        assert summed == pytest.approx(best, abs=1e-4)
    with pytest.raises(AppError, match="1024"):
        client.predict(handle_file(IMAGE), 1024, 0, api_name="/explain")
    with pytest.raises(AppError, match="whole number"):
        client.predict(handle_file(IMAGE), None, 0, api_name="/explain")


def test_export_takes_thresholds_and_ground_truth(client: Client, tmp_path: Path) -> None:
    truth = IMAGE.with_name(f"{IMAGE.stem}_anomaly.png")
    summary, archive = client.predict(
        handle_file(IMAGE),
        left_threshold=-0.25,
        min_region=100,
        truth=handle_file(truth),
        api_name="/export",
    )
    assert summary["left"]["threshold"] == -0.25
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    told = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert told == summary
    with Image.open(tmp_path / f"{IMAGE.stem}_kan_score16.png") as image:
        codes = np.asarray(image).astype(float)
        low, high = json.loads(image.text["mask2kan"])["range"]  # type: ignore[attr-defined]
    sizes = np.bincount(
        ndimage.label(low + codes * (high - low) / 65535 >= -0.25, np.ones((3, 3)))[0].ravel()
    )[1:]
    regions = json.loads((tmp_path / f"{IMAGE.stem}_kan_regions.json").read_text(encoding="utf-8"))
    areas = sorted(one["area"] for one in regions["annotations"])
    assert areas == sorted(sizes[sizes >= 100])
    assert told["left"]["regions_share"] == sum(areas) / codes.size
    assert {"precision", "recall", "f1", "iou", "ap", "false_regions"} <= set(told["left"]["truth"])


def test_a_kans_curves_are_what_its_layers_compute(client: Client, app: App) -> None:
    """What an input changes in an output of the layer's own forward is the edge's curve."""
    from mask2kan.checkpoints import load_model
    from mask2kan.inference.kan_view import kan_head

    told = client.predict(handle_file(IMAGE), api_name="/kan", layer=1, input=3, output=5)
    layer = kan_head(load_model(str(app.models[0]), device="cpu")).layers[1]
    edge = told["edge"]
    x = torch.tensor(edge["x"])
    asked = torch.zeros(len(x), layer.in_features)
    with torch.no_grad():
        silent = layer(asked)[:, 5]  # what all edges give at 0
        asked[:, 3] = x
        moved = layer(asked)[:, 5] - silent
    curve = np.array(edge["total"]) - np.interp(0, edge["x"], edge["total"])
    np.testing.assert_allclose(curve, moved.numpy(), atol=1e-5)
    assert [entry["index"] for entry in told["layers"]] == list(range(len(told["layers"])))
    with pytest.raises(AppError, match="MLP"):
        client.predict(handle_file(IMAGE), str(app.models[1]), api_name="/kan")
    with pytest.raises(AppError, match="does not exist"):
        client.predict(handle_file(IMAGE), layer=9, api_name="/kan")


def test_models_says_what_the_other_endpoints_take(client: Client, app: App) -> None:
    listed = client.predict(api_name="/models")
    assert [str(app.models[0]), str(app.models[1])] == [one["source"] for one in listed][:2]
