"""What a prediction offers by itself: its files, its figure, its line; lists and addresses."""

import functools
import http.server
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from mask2kan import Comparison, Predictor, load_model, save_model
from mask2kan.errors import CheckpointError, ConfigError, ImageError
from mask2kan.media.images import find_images
from mask2kan.outputs.drawing import colorize
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import RESULTS
from tests.tiny_models import calibrated, tiny


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "road.png"
    values = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture(scope="module")
def predictor(photo):
    return Predictor(calibrated(tiny("mask2kan"), photo, 90), device="cpu")


@pytest.fixture(scope="module")
def server(photo):
    """The photo's folder, and its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=photo.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_its_line_names_image_model_and_score(predictor, photo):
    line = repr(predictor(photo))
    assert line == f"Prediction({photo}: 52 x 40 pixels, 5 classes, model, msp calibrated)"
    assert "cpu" in repr(predictor)


def test_saved_files_are_those_of_the_command_line(predictor, photo, tmp_path):
    prediction = predictor(photo)
    paths = prediction.save(tmp_path, threshold=0.25)
    assert [path.name for path in paths] == [*(f"road_{name}" for name in RESULTS), "road.json"]
    assert all(path.is_file() for path in paths)
    facts = json.loads(paths[-1].read_bytes())
    assert facts["picture"] == str(photo)
    assert facts["threshold"] == 0.25
    assert facts["files"] == [path.name for path in paths[:-1]]
    with np.load(tmp_path / "road_score.npz") as stored:
        np.testing.assert_array_equal(stored["score"], prediction.anomaly())
    with Image.open(tmp_path / "road_mask.png") as mask:
        inside = Analysis(prediction, None, 0.25).outlined
        np.testing.assert_array_equal(np.asarray(mask) == 255, inside)


def test_saving_replaces_only_results_of_the_same_image(predictor, photo, tmp_path):
    other = tmp_path / "other" / "road.png"
    other.parent.mkdir()
    Image.new("RGB", (40, 32)).save(other)
    out = tmp_path / "out"
    stems = [predictor(path).save(out)[-1].stem for path in (photo, other, photo)]
    assert stems == ["road", "road_2", "road"]
    pixels = np.zeros((32, 40, 3), np.uint8)
    stems = [predictor(pixels).save(out)[-1].stem for _ in range(2)]
    assert stems == ["image", "image_2"]
    assert predictor(pixels).save(out, "mine")[-1].stem == "mine"
    # what was saved is not segmented by the next run over the folder
    with pytest.raises(ImageError, match="No image"):
        find_images([str(out)])


def test_a_threshold_that_is_no_number_writes_nothing(predictor, photo, tmp_path):
    with pytest.raises(ConfigError, match="finite"):
        predictor(photo).save(tmp_path / "out", threshold=float("nan"))
    assert not (tmp_path / "out").exists()


def test_the_figure_shows_the_image_and_both_maps(predictor, photo, tmp_path):
    figure = predictor(photo).plot("entropy")
    assert len(figure.axes) == 4  # image, classes, score and its scale
    said = [text.get_text() for text in figure.texts]
    assert any("score entropy >=" in text for text in said)
    assert "road.png" in said
    figure.savefig(tmp_path / "road.pdf")
    assert (tmp_path / "road.pdf").read_bytes().startswith(b"%PDF")


def test_a_list_gives_a_list(predictor, photo):
    both = predictor([photo, Image.open(photo)])
    np.testing.assert_array_equal(both[0].anomaly(), both[1].anomaly())
    assert both[0].path == both[1].path == str(photo)
    pairs = Comparison(predictor, predictor)([photo])
    assert [prediction.path for prediction in pairs[0]] == [str(photo)] * 2
    assert predictor([]) == []


def test_an_address_is_downloaded(predictor, photo, server):
    prediction = predictor(f"{server}/road.png")
    assert prediction.path == f"{server}/road.png"
    np.testing.assert_array_equal(prediction.anomaly(), predictor(photo).anomaly())


@pytest.mark.parametrize(
    ("name", "said"), [("none.png", "answers 404"), ("", "it is a text file"), ("a b", "Can't")]
)
def test_an_address_without_an_image_is_refused(predictor, server, name, said):
    with pytest.raises(ImageError, match=said):
        predictor(f"{server}/{name}")


def test_nobody_at_an_address_is_said(predictor):
    with pytest.raises(ImageError, match="Can't download http://127.0.0.1:1/a.png: .*network"):
        predictor("http://127.0.0.1:1/a.png")


@pytest.mark.parametrize("num_classes", [255, 256, 257, 846])
def test_labels_of_many_classes_are_whole_everywhere(tmp_path, photo, num_classes):
    model = tiny("mask2kan", num_classes=num_classes, num_queries=8)
    last = num_classes - 1
    with torch.no_grad():  # so that the largest label is there
        model.transformer_decoder.class_embed.bias[last - 1 :][:2] += torch.tensor([9.0, 9.3])
    path = tmp_path / "many.safetensors"
    save_model(model, path)
    prediction = Predictor(load_model(path, device="cpu"), device="cpu")(photo)
    expected = prediction.class_scores.argmax(0)
    assert expected.max() == last
    assert prediction.semantic.dtype == (np.uint8 if num_classes <= 255 else np.uint16)
    np.testing.assert_array_equal(prediction.semantic, expected)
    *_, summary = prediction.save(tmp_path)
    with Image.open(tmp_path / "road_semantic.png") as labels:
        np.testing.assert_array_equal(np.asarray(labels), expected)
    colours = colorize(prediction.semantic, prediction.palette)
    np.testing.assert_array_equal(colours, prediction.palette[expected])
    shares = {row["index"]: row["share"] for row in json.loads(summary.read_bytes())["classes"]}
    assert shares[last] == pytest.approx((expected == last).mean())


@pytest.mark.parametrize("convert", ["half", "bfloat16"])
def test_a_converted_model_is_refused_in_a_sentence(convert):
    model = getattr(tiny("mask2former"), convert)()
    for use in (lambda: Predictor(model, device="cpu"), lambda: model(torch.zeros(1, 3, 32, 32))):
        with pytest.raises(ConfigError, match="float32.*dtype"):
            use()


@pytest.mark.parametrize("what", ["mask2kan_road", ["a", "b"], None])
def test_what_is_no_model_or_no_predictor_is_refused_at_once(predictor, what):
    with pytest.raises(ConfigError, match="needs one model"):
        Predictor(what)
    with pytest.raises(ConfigError, match=r"Comparison\(Predictor\(left\)"):
        Comparison(predictor, what)
    with pytest.raises(ConfigError, match="Comparison got a Mask2KAN"):
        Comparison(predictor.model, predictor.model)
    if not isinstance(what, str):
        with pytest.raises(CheckpointError, match="loads one model"):
            load_model(what)
