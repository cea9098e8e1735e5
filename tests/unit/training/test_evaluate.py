"""The evaluation command on small images and a tiny model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask2kan import create_model
from mask2kan.checkpoints import load_model, save_model
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import SCORES
from mask2kan.modeling.classes import CAMVID
from training import calibrate, cards, evaluate
from training.data.sets.camvid_anomaly import CamVidAnomaly
from training.evaluation.calibration import stored
from training.evaluation.checkpoint_evaluation import open_labelled
from training.metrics import AnomalyEvaluator, SegmentationEvaluator

TINY = {
    "num_queries": 5,
    "hidden_dim": 32,
    "num_encoder_layers": 1,
    "encoder_feedforward_dim": 32,
    "num_decoder_layers": 1,
    "decoder_feedforward_dim": 32,
}
COLORS = "128 64 64 OtherMoving\n192 128 64 Child\n64 0 192 CartLuggagePram\n128 64 128 Road\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_model(
        "mask2kan_mobilenetv2", num_classes=len(CAMVID), class_names=tuple(CAMVID), **TINY
    )
    model.card = {"recipe": "made of figs"}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(model, path, dtype=torch.float16)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CamVid and RoadAnomaly in their layouts, three images of 48x64 each."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for index in range(3):
        photo = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        anomalous = np.zeros((48, 64), bool)
        anomalous[10:20, 10 + index : 30] = True
        classes = rng.integers(0, 12, (48, 64), dtype=np.uint8)
        for split in ("test", "val"):
            save(root / "camvid" / split / "images" / f"{index}.png", photo)
            save(root / "camvid" / split / "labels" / f"{index}.png", classes)
        colors = np.where(anomalous[..., None], (192, 128, 64), (128, 64, 128)).astype(np.uint8)
        save(root / "camvid" / "val" / "labels_32class" / f"{index}.png", colors)
        frames = root / "road_anomaly" / "frames"
        save(frames / f"{index}.png", photo)
        save(frames / f"{index}.labels" / "labels_semantic.png", 2 * anomalous.astype(np.uint8))
    (root / "camvid" / "val" / "label_colors_32class.txt").write_text(COLORS)
    return root


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_segmentation_command(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "camvid.json"
    arguments = [str(checkpoint), "--data", "camvid", "--root", str(data), "--json", str(out)]
    assert evaluate.main([*arguments, "--pictures", str(tmp_path / "pictures")]) == 0
    result = json.loads(out.read_text())
    predictor = Predictor(load_model(str(checkpoint), device="cpu"), "cpu", dtype="float32")
    expected = SegmentationEvaluator(11)
    for index in range(3):
        label = np.array(Image.open(data / "camvid" / "test" / "labels" / f"{index}.png"))
        label[label == 11] = 255
        image = data / "camvid" / "test" / "images" / f"{index}.png"
        expected.update(predictor(image).semantic, label)
    assert result["miou"] == pytest.approx(expected.compute()["miou"], abs=1e-12)
    assert list(result["iou_per_class"]) == list(CAMVID)
    assert result["pictures"] == 3
    assert result["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert f"{result['miou']:.4f}" in capsys.readouterr().out
    written = sorted((tmp_path / "pictures").iterdir())
    assert [Image.open(path).size for path in written] == [(128, 96)] * 3


def test_the_split_and_the_name_do_not_depend_on_how_a_set_is_named(data: Path) -> None:
    for text, root in (
        ("camvid", data),
        ("camvid", data / "camvid"),
        (f"camvid={data / 'camvid'}", None),
        (str(data / "camvid"), None),
    ):
        assert open_labelled(text, root)[1:] == ("camvid", "test")


def test_an_anomaly_set_may_be_named_with_its_folder(checkpoint: Path, data: Path) -> None:
    named = evaluate.evaluate(str(checkpoint), f"road_anomaly={data / 'road_anomaly'}")
    rooted = evaluate.evaluate(str(checkpoint), "road_anomaly", root=data)
    assert named["data"] == "road_anomaly"
    assert named["scores"] == rooted["scores"]


def test_anomaly_command(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "road.json"
    arguments = [str(checkpoint), "--data", "road_anomaly", "--root", str(data), "--limit", "2"]
    images = ["--pictures", str(tmp_path / "pictures"), "--score", "rba"]
    assert evaluate.main([*arguments, *images, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    predictor = Predictor(load_model(str(checkpoint), device="cpu"), "cpu", dtype="float32")
    expected = AnomalyEvaluator()
    for index in (0, 2):  # evenly spread
        path = data / "road_anomaly" / "frames" / f"{index}.labels" / "labels_semantic.png"
        label = (np.array(Image.open(path)) == 2).astype(np.uint8)
        prediction = predictor(data / "road_anomaly" / "frames" / f"{index}.png")
        expected.update(prediction.anomaly("rba"), label)
    assert list(result["scores"]) == list(SCORES)
    assert result["scores"]["rba"] == pytest.approx(expected.compute(), abs=1e-9)
    assert 0 < result["prevalence"] < 0.1
    assert "rba" in capsys.readouterr().out
    assert len(list((tmp_path / "pictures").iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "cityscape"], "Unknown data set"),
        (["--limit", "0"], "limit"),
        (["--root", "nowhere"], "not found"),
        (["--score", "mps"], "Nearest: msp"),
        (["--split", "tets"], "tets"),
        (["--data", "camvid="], "'camvid=' names no folder; expected camvid=<folder>"),
        (["--data", "road_anomaly="], "'road_anomaly=' names no folder"),
        (["--data", "name="], "'name=' names no folder"),
        (["--data", ""], "names no folder"),
        (["--data", "folder=/"], "/ holds no folder 'images', 'train' or 'val'"),
    ],
)
def test_bad_arguments_end_with_one_line(
    checkpoint: Path,
    data: Path,
    change: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(checkpoint), "--data", "camvid", "--root", str(data), *change]
    assert evaluate.main(arguments) != 0
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_other_classes_are_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cityscapes.safetensors"
    save_model(create_model("mask2former_mobilenetv2", num_classes=7, **TINY), path)
    assert evaluate.main([str(path), "--data", "camvid", "--root", str(data)]) != 0
    assert "7 classes" in capsys.readouterr().err


def test_a_folder_of_either_kind_is_measured_on_the_classes_of_the_model(
    checkpoint: Path, tmp_path: Path
) -> None:
    root, path = tmp_path / "rocks", tmp_path / "two.safetensors"
    rng = np.random.default_rng(0)
    for index in range(2):
        photo = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        save(root / "images" / f"{index}.png", photo)
        save(root / "masks" / f"{index}.png", rng.choice(np.array([0, 255], np.uint8), (48, 64)))
    names = ("background", "foreground")
    save_model(
        create_model("mask2former_mobilenetv2", num_classes=2, class_names=names, **TINY), path
    )
    found = evaluate.evaluate(str(path), str(root), device="cpu")
    label = np.array(Image.open(root / "masks" / "0.png")) // 255
    expected = SegmentationEvaluator(2)
    predictor = Predictor(load_model(str(path), device="cpu"), "cpu", dtype="float32")
    expected.update(predictor(root / "images" / "0.png").semantic, label)
    assert found["miou"] == pytest.approx(expected.compute()["miou"], abs=1e-12)
    assert found == {
        **evaluate.evaluate(str(path), f"folder={root}", device="cpu"),
        "data": str(root),
        "seconds": found["seconds"],
    }
    other = evaluate.evaluate(str(checkpoint), str(root), device="cpu")
    assert (other["data"], other["set"]) == ("rocks", "folder_anomaly")
    assert list(other["scores"]) == list(SCORES)


def test_finer_classes_are_added_up(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "cityscapes.safetensors"
    save_model(create_model("mask2former_mobilenetv2", num_classes=19, **TINY), path)
    found = evaluate.evaluate(str(path), "camvid", root=data, device="cpu")
    assert set(found["iou_per_class"]) == set(CAMVID)


def test_calibration_is_written_and_true(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibrated.safetensors"
    arguments = [str(checkpoint), "--out", str(out), "--root", str(data), "--device", "cpu"]
    assert calibrate.main(arguments) == 0
    model = load_model(str(out), device="cpu")
    assert list(model.calibration) == list(SCORES)
    predictor = Predictor(model, device="cpu", dtype="float32")
    images = CamVidAnomaly(data / "camvid")
    for score in ("msp", "energy"):
        values, labels = [], []
        for index in range(3):
            image, label = images.arrays(index)
            values.append(predictor(image).anomaly(score).ravel())
            labels.append(label.ravel())
        value, label = np.concatenate(values), np.concatenate(labels)
        found = model.calibration[score]
        assert found["range"] == pytest.approx(np.percentile(value, [0.5, 99.5]), abs=1e-5)
        assert 0.045 < (value[label == 0] >= found["fpr05"]).mean() <= 0.05
        assert (value[label == 1] >= found["tpr95"]).mean() == pytest.approx(0.95, abs=0.01)
        assert "3 images" in found["data"]
    # The weights themselves are what they were, bit by bit, in the same small type.
    before = load_model(str(checkpoint), device="cpu").state_dict()
    for name, value_after in model.state_dict().items():
        assert torch.equal(before[name], value_after), name
    assert stored(out)[0] is torch.float16
    assert out.stat().st_size < 1.1 * checkpoint.stat().st_size + 4096


def test_a_run_folder_s_best_is_calibrated(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = tmp_path / "run" / "best.safetensors"
    best.parent.mkdir()
    best.write_bytes(checkpoint.read_bytes())
    command = [str(best.parent), "--device", "cpu", "--limit", "1", "--root"]
    assert calibrate.main([*command, str(tmp_path / "nowhere")]) != 0
    assert "No data at camvid_anomaly" in (error := capsys.readouterr().err)
    assert error.endswith("images and masks of your own: --data <your folder>.\n")
    assert calibrate.main([*command, str(data)]) == 0
    assert list(load_model(str(best), device="cpu").calibration) == list(SCORES)
    assert [path.name for path in best.parent.iterdir()] == [best.name]


def test_calibrating_another_format_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate.main([str(tmp_path / "model.pth")]) != 0
    assert "convert" in capsys.readouterr().err


def test_card_says_what_the_command_printed(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights" / "small.safetensors"
    weights.parent.mkdir()
    calibrate.main([str(checkpoint), "--out", str(weights), "--root", str(data)])
    results = []
    for name in ("camvid", "road_anomaly"):
        results.append(tmp_path / f"{name}.json")
        arguments = [str(weights), "--data", name, "--root", str(data)]
        evaluate.main([*arguments, "--json", str(results[-1])])
    command = [str(weights), "--title", "Small", "--results"]
    assert cards.main([*command, *map(str, results)]) == 0
    card = (weights.parent / "small.md").read_text()
    measured = json.loads(results[0].read_text())
    cells = [line.split() for line in card.splitlines()]
    assert ["|", "**mIoU**", "|", f"**{measured['miou']:.4f}**", "|"] in cells
    for words in (
        "made of figs",
        "non-commercial",
        "python -m training.evaluate small --data camvid",
    ):
        assert words in card
    manifest = json.loads((weights.parent / "manifest.json").read_text())
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert [entry["sha256"] for entry in manifest["weights"]] == [sha256]
    evaluated = json.loads(results[1].read_text())
    assert manifest["weights"][0]["measured"] == {
        "data": "road_anomaly",
        "pictures": evaluated["pictures"],
        "score": "msp",
        "ap": round(evaluated["scores"]["msp"]["ap"], 4),
    }
    assert cards.main([*command, *map(str, results)]) == 0  # again: replaced, not doubled
    manifest = json.loads((weights.parent / "manifest.json").read_text())
    assert len(manifest["weights"]) == 1
    # Figures of another file do not come onto the card.
    results[0].write_text(json.dumps({**measured, "sha256": "0" * 64}))
    capsys.readouterr()
    assert cards.main([*command, *map(str, results)]) != 0
    assert "Evaluate this file" in capsys.readouterr().err
