"""The command line end to end, on tiny checkpoints and small images."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mask2kan.checkpoints import load, load_model, save_model
from mask2kan.cli.main import main
from mask2kan.errors import WriteError
from mask2kan.inference.predictor import Predictor
from mask2kan.media.files import write_bytes
from mask2kan.modeling.mask2kan import create_model
from mask2kan.outputs.names import unique_stems
from mask2kan.outputs.summary import MAX_REGIONS, Analysis
from mask2kan.outputs.writer import write_results

TINY = {
    "backbone_depths": (1,) * 7,
    "backbone_width": 8,
    "hidden_dim": 64,
    "num_heads": 2,
    "num_queries": 7,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "encoder_feedforward_dim": 16,
    "decoder_feedforward_dim": 16,
    "num_classes": 19,
}
COMMANDS = ("predict", "compare", "info", "models", "convert")
CALIBRATION = {
    "msp": {"range": [0.0, 0.9], "fpr05": 0.55, "tpr95": 0.2, "best_f1": 0.6, "data": "a test"}
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A calibrated KAN and an uncalibrated MLP checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name, family in (("kan", "mask2kan"), ("mlp", "mask2former")):
        model = create_model(f"{family}_mobilenetv2", **TINY)
        model.calibration = CALIBRATION if name == "kan" else {}
        save_model(model, folder / f"{name}.safetensors")
    return folder / "kan.safetensors", folder / "mlp.safetensors"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.webp"):
        Image.fromarray(rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)).save(folder / name)
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_predict_writes_what_the_prediction_holds(checkpoints, images, tmp_path, capsys):
    out = tmp_path / "out"
    image = images / "a.png"
    assert run("predict", image, "--model", checkpoints[0], "--device", "cpu", "--out", out) == 0
    names = ["semantic.png", "mask.png", "overlay.png", "score16.png", "score.npz"]
    assert {p.name for p in out.iterdir()} == {*(f"a_{name}" for name in names), "a.json"}
    prediction = Predictor(load_model(checkpoints[0], device="cpu"), device="cpu")(image)
    labels = Image.open(out / "a_semantic.png")
    assert labels.mode == "P"
    np.testing.assert_array_equal(np.asarray(labels), prediction.semantic)
    stored = np.load(out / "a_score.npz", allow_pickle=False)
    np.testing.assert_allclose(stored["score"], prediction.anomaly("msp"), atol=1e-6)
    assert stored["range"].tolist() == [0.0, 0.9]
    assert str(stored["name"]) == "msp"
    wide = Image.open(out / "a_score16.png")
    facts = json.loads(wide.text["mask2kan"])
    back = facts["low"] + np.asarray(wide) * facts["step"]
    np.testing.assert_allclose(back, stored["score"], atol=facts["step"] / 2 + 1e-6)
    assert facts["calibrated_range"] == [0.0, 0.9]
    assert Image.open(out / "a_overlay.png").size == (52, 40)
    summary = json.loads((out / "a.json").read_text())
    assert summary["score16"] == {key: facts[key] for key in ("low", "high", "step")}
    assert summary["threshold"] == 0.55
    assert summary["threshold_from"] == "fpr05"
    assert summary["calibrated"] is True
    assert summary["picture"] == str(image)
    assert summary["files"] == [f"a_{name}" for name in names]
    assert {"decode", "backbone", "postprocess"} <= set(summary["milliseconds"])
    assert "fpr05: 5 % false alarms on its calibration data" in capsys.readouterr().out


def test_compare_two_models_on_a_folder(checkpoints, images, tmp_path):
    out = tmp_path / "out"
    sides = ["--left", checkpoints[0], "--right", checkpoints[1], "--right-threshold", "0.2"]
    assert run("compare", images, *sides, "--score", "msp", "--out", out) == 0
    assert {p.name for p in out.iterdir()} == {"a", "b"}
    expected = {
        f"{side}_{name}"
        for side in ("left", "right")
        for name in ("semantic.png", "mask.png", "overlay.png", "score16.png", "score.npz")
    } | {"comparison.png", "comparison.json"}
    assert {p.name for p in (out / "a").iterdir()} == expected
    facts = json.loads((out / "a" / "comparison.json").read_text())
    assert facts["left"]["threshold"] == 0.55
    assert facts["right"]["threshold"] == 0.2
    assert facts["right"]["threshold_from"] == "given"
    assert any("uncalibrated" in note for note in facts["right"]["notes"])
    assert facts["left"]["parameters"] > facts["right"]["parameters"]
    assert Image.open(out / "a" / "comparison.png").size[0] > 1000


@pytest.mark.skipif(sys.platform == "win32", reason="names of any bytes")
def test_a_name_that_is_no_text_is_compared(checkpoints, images, tmp_path, capsys):
    path = images / "a.png"
    path = path.rename(images / "odd\udcff\x1b[31m$\\frac$.png")
    out, sides = tmp_path / "out", ("--left", checkpoints[0], "--right", checkpoints[1])
    assert run("compare", path, *sides, "--score", "msp", "--out", out) == 0
    assert "\x1b" not in capsys.readouterr().out
    (written,) = out.glob("*/comparison.png")
    with Image.open(written) as opened:
        assert opened.width > 100


def test_goes_on_past_a_bad_image_and_fails_at_the_end(checkpoints, images, tmp_path, capsys):
    (images / "aa.jpg").write_text("this is text")
    out = tmp_path / "out"
    assert run("predict", images, "--model", checkpoints[0], "--out", out) == 1
    assert {p.stem for p in out.glob("*.json")} == {"a", "b"}
    assert not list(out.glob("aa*"))
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 2
    assert errors[0].endswith(
        "Can't read this image: it is a text file. Use JPEG, PNG or WebP up to 40 MP."
    )
    assert errors[1] == "1 of 3 images failed."


def test_what_is_no_image_in_spite_of_its_name_is_passed_over(
    checkpoints, images, tmp_path, capsys
):
    (images / "._a.png").write_bytes(b"Mac OS X")
    (images / "folder.png").mkdir()
    (images / "gone.png").symlink_to("nowhere.png")
    out = tmp_path / "out"
    assert run("predict", images, "--model", checkpoints[0], "--out", out) == 0
    assert {p.name for p in out.glob("*.json")} == {"a.json", "b.json"}
    assert capsys.readouterr().err == ""


def test_info_reads_a_checkpoint_once(checkpoints, monkeypatch, capsys):
    reads = []
    read_file = load.read_file
    monkeypatch.setattr(load, "read_file", lambda *a, **k: reads.append(a) or read_file(*a, **k))
    assert run("info", checkpoints[0], "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == "native"
    assert len(reads) == 1


def test_info_prints_a_calibration_without_range_and_with_data_of_any_kind(
    checkpoints, tmp_path, capsys
):
    model = load_model(checkpoints[0], device="cpu")
    model.calibration = {"msp": {"fpr05": 0.25, "data": ["a", "b"]}}
    save_model(model, tmp_path / "odd.safetensors")
    assert run("info", tmp_path / "odd.safetensors") == 0
    text = capsys.readouterr().out
    assert "0.2500" in text
    assert "on ['a', 'b']" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "missing.png", "--model", "KAN"], "No image at 'missing.png'"),
        (["predict", "PICTURE", "--model", "missing.pth"], "missing.pth"),
        (["predict", "PICTURE", "--model", "KAN", "--max-side", "3"], "max_side is 3"),
        (["predict", "PICTURE", "--model", "KAN", "--device", "abacus"], "Unknown device"),
        (["predict", "PICTURE", "--model", "KAN", "--device", "cuda:97"], "CUDA GPUs were found"),
        (["predict", "PICTURE", "--model", "KAN", "--device", "hpu"], "this machine has none"),
        (["predict", "PICTURE", "--model", "KAN", "--device", "cpu", "--compile"], "CXX"),
        (["predict", "PICTURE", "--model", "KAN", "--threshold", "nan"], "finite number"),
        (["predict", "PICTURE", "--model", "CUT"], "CUT"),
        (["info", "nothing-like-this"], "nothing-like-this"),
        (["convert", "KAN", "model.pth"], "ends in .safetensors"),
        (["convert", "KAN", "KAN"], "--force"),
    ],
)
def test_bad_input_is_one_line_and_a_non_zero_status(
    checkpoints, images, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.setenv("CXX", "no such compiler")
    cut = tmp_path / "CUT"
    cut.write_bytes(checkpoints[0].read_bytes()[:5000])
    names = {"KAN": checkpoints[0], "PICTURE": images / "a.png", "CUT": cut}
    out = tmp_path / "out"
    extra = ["--out", out] if arguments[0] == "predict" else []
    assert run(*(names.get(argument, argument) for argument in arguments), *extra) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_arguments_that_make_no_sense(capsys):
    for arguments in ([], ["predict"], ["predict", "x.png", "--score", "best"], ["fly"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [[], ["predict"], ["compare"], ["info"], ["models"], ["convert"]]
)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    assert f"python -m mask2kan {' '.join(command)}".strip() in capsys.readouterr().out


def test_info_of_a_checkpoint_and_of_an_architecture(checkpoints, capsys):
    assert run("info", checkpoints[0], "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["architecture"]["mask_embed"] == "kan"
    assert facts["class_names"][0] == "road"
    assert facts["calibration"]["msp"]["fpr05"] == 0.55
    model = load_model(checkpoints[0], device="cpu")
    assert facts["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert run("info", checkpoints[0]) == 0
    text = capsys.readouterr().out
    assert "0.5500" in text
    assert "classes (19): road, sidewalk" in text
    assert run("info", "mask2former_mobilenetv2") == 0
    assert "calibration: none" in capsys.readouterr().out


def test_models_lists_architectures(capsys):
    assert run("models") == 0
    assert "mask2anomaly_swin_b" in capsys.readouterr().out
    assert run("models", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["architectures"]) == 21


def test_convert_halves_and_keeps_everything(checkpoints, tmp_path, capsys):
    half = tmp_path / "new" / "half.safetensors"
    assert run("convert", checkpoints[0], half, "--dtype", "float16") == 0
    assert half.stat().st_size < 0.6 * checkpoints[0].stat().st_size
    original, converted = (load_model(path, device="cpu") for path in (checkpoints[0], half))
    assert converted.calibration == original.calibration
    assert converted.config == original.config
    for name, value in original.state_dict().items():
        torch.testing.assert_close(converted.state_dict()[name], value, atol=2e-3, rtol=2e-3)
    assert "MB" in capsys.readouterr().out


def test_repeated_names_do_not_overwrite(tmp_path):
    paths = [tmp_path / name for name in ("x/road.png", "y/road.jpg", "y/ROAD.png", "z/sea.png")]
    assert unique_stems(list(map(str, paths))) == ["road", "road_2", "ROAD_3", "sea"]


def test_equal_names_of_two_folders_and_of_two_runs_keep_their_results(checkpoints, tmp_path):
    for folder, value in (("day", 90), ("night", 20)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 32), (value, value, value)).save(tmp_path / folder / "road.png")
    out = tmp_path / "out"
    for folder in ("day", "night", "day"):
        assert run("predict", tmp_path / folder, "--model", checkpoints[0], "--out", out) == 0
    pictures = {path.stem: json.loads(path.read_text())["picture"] for path in out.glob("*.json")}
    assert pictures == {
        "road": str(tmp_path / "day" / "road.png"),
        "road_2": str(tmp_path / "night" / "road.png"),
    }


def test_a_second_run_in_the_same_folder_leaves_out_the_results_of_the_first(
    checkpoints, images, capsys
):
    for _ in range(2):
        assert run("predict", images, "--model", checkpoints[0], "--out", images) == 0
    assert not list(images.glob("*_overlay_overlay.png"))


def test_nothing_half_written(tmp_path, monkeypatch, checkpoints, images):
    target = tmp_path / "deep" / "file.bin"
    write_bytes(target, b"old")
    with pytest.raises(TypeError):
        write_bytes(target, "not bytes")
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    prediction = Predictor(load_model(checkpoints[1], device="cpu"))(images / "a.png")
    with pytest.raises(WriteError, match="Can't write"):
        write_results(Analysis(prediction), blocked, "left")


def test_summary_regions_and_areas(checkpoints, images):
    prediction = Predictor(load_model(checkpoints[0], device="cpu"))(images / "a.png")
    score = np.zeros((40, 52), np.float32)
    score[5:15, 10:20] = 0.8
    score[30:32, 30:45] = 0.6
    score[39, 0] = 0.9
    prediction._maps.anomaly["msp", False] = score
    summary = Analysis(prediction, "msp", 0.5, min_region_pixels=5).summary()
    assert summary["regions_found"] == 2
    first, second = summary["regions"]
    assert first["box"] == [10, 5, 20, 15]
    assert first["pixels"] == 100
    assert first["max"] == pytest.approx(0.8)
    assert second["box"] == [30, 30, 45, 32]
    assert summary["anomalous_share"] == pytest.approx(131 / 2080)
    assert sum(entry["share"] for entry in summary["classes"]) == pytest.approx(1)
    shares = [entry["share"] for entry in summary["classes"]]
    assert shares == sorted(shares, reverse=True)
    json.dumps(summary, allow_nan=False)
    many = np.zeros((40, 52), np.float32)
    many[::2, ::2] = 1
    prediction._maps.anomaly["msp", False] = many
    summary = Analysis(prediction, "msp", 0.5, min_region_pixels=0).summary()
    assert summary["regions_found"] == 520
    assert len(summary["regions"]) == MAX_REGIONS


def test_settings_are_told_and_files_hold_the_plain_and_the_smoothed_score(
    images, tmp_path, capsys
):
    assert run("info", "mask2kan_road") == 0
    assert "run with: msp at 480 + 640 + 960 px, smoothed by 1.2 %" in capsys.readouterr().out
    out = tmp_path / "out"
    image = images / "a.png"
    assert run("predict", image, "--model", "mask2kan_road", "--device", "cpu", "--out", out) == 0
    prediction = Predictor(load_model("mask2kan_road", device="cpu"), device="cpu")(image)
    stored = np.load(out / "a_score.npz", allow_pickle=False)
    np.testing.assert_allclose(stored["score"], prediction.anomaly("msp"), atol=1e-5)
    np.testing.assert_allclose(stored["smoothed"], prediction.anomaly_map("msp"), atol=1e-5)
    assert float(np.abs(stored["score"] - stored["smoothed"]).max()) > 1e-3
    assert float(stored["sigma"]) == prediction.settings.sigma
    record = json.loads((out / "a.json").read_text())
    assert record["settings"]["sides"] == [480, 640, 960]
    assert record["options"]["settings"] == "checkpoint"


def test_a_file_a_revision_and_a_set_of_weights_can_be_chosen(
    checkpoints, images, tmp_path, capsys, caplog
):
    folder = tmp_path / "several"
    folder.mkdir()
    kan, mlp = (load_model(path, device="cpu") for path in checkpoints)
    save_model(kan, folder / "kan.safetensors")
    save_model(mlp, folder / "mlp.safetensors")
    assert run("info", folder, "--file", "mlp.safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["mask_embed"] == "mlp"
    other = {key: value + 1 for key, value in kan.state_dict().items()}
    torch.save({"model": other, "ema": kan.state_dict()}, tmp_path / "both.pth")
    options = ("--model", tmp_path / "both.pth", "--device", "cpu")
    for name, weights in (("ema", []), ("model", ["--weights", "model"])):
        assert run("predict", images / "a.png", *options, *weights, "--out", tmp_path / name) == 0
    assert "ema was taken" in caplog.text
    torch.save(kan.state_dict(), tmp_path / "one.pth")  # assumed to have 8 heads, as the others
    one = load_model(tmp_path / "one.pth", device="cpu")
    expected = Predictor(one, device="cpu")(images / "a.png").anomaly("msp")
    for name, same in (("ema", True), ("model", False)):
        with np.load(tmp_path / name / "a_score.npz") as stored:
            assert np.allclose(stored["score"], expected, atol=1e-6) is same
    assert run("info", tmp_path / "both.pth", "--weights", "x") == 1
    assert "no weights 'x'; it has model, ema" in capsys.readouterr().err


def test_another_set_of_weights_is_another_result(checkpoints, images, tmp_path, capsys):
    state = load_model(checkpoints[0], device="cpu").state_dict()
    torch.save({"model": state, "ema": state}, tmp_path / "both.pth")
    command = ("predict", images / "a.png", "--model", tmp_path / "both.pth")
    out = ("--out", tmp_path / "out", "--resume")
    assert run(*command, *out) == 0
    assert run(*command, *out) == 0
    assert "1 of 1 images were done before" in capsys.readouterr().out
    assert run(*command, "--weights", "model", *out) == 0
    assert "done before" not in capsys.readouterr().out


def test_a_run_folder_gives_its_best(checkpoints, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, path in zip(("best", "last"), checkpoints, strict=True):
        (folder / f"{name}.safetensors").write_bytes(path.read_bytes())
    assert run("info", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["mask_embed"] == "kan"


def test_an_architecture_is_no_model_to_predict_with(images, tmp_path, capsys):
    assert run("predict", images, "--model", "mask2kan_swin_t", "--out", tmp_path / "out") == 1
    assert "an architecture without weights" in capsys.readouterr().err


def test_a_revision_stands_behind_the_repository_or_is_an_option(monkeypatch, checkpoints):
    asked = []

    def fetch(*address):
        asked.append(address)
        return checkpoints[0].parent, checkpoints[0].name

    monkeypatch.setattr(load, "fetch", fetch)
    for arguments in (("someone/model@v2",), ("someone/model", "--revision", "v2")):
        assert run("info", *arguments, "--file", "kan.safetensors") == 0
    assert asked == [("someone/model", "kan.safetensors", "v2")] * 2


def test_an_address_is_an_image(checkpoints, images, tmp_path, monkeypatch):
    content = (images / "a.png").read_bytes()
    monkeypatch.setattr("mask2kan.inference.predictor.fetch", lambda _: content)
    out = tmp_path / "out"
    address = "https://example.org/photos/a%20road.png?size=large"
    assert run("predict", address, images / "a.png", "--model", checkpoints[0], "--out", out) == 0
    assert json.loads((out / "a road.json").read_bytes())["picture"] == address
    with np.load(out / "a road_score.npz") as one, np.load(out / "a_score.npz") as other:
        np.testing.assert_array_equal(one["score"], other["score"])
