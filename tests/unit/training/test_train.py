"""What goes wrong around a run: faulty data, unreadable images, a full disk, absent trackers."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from mask2kan import load_model
from mask2kan.errors import ImageError, WriteError
from tests.tiny_runs import TINY, reduced, tiny_trainer
from tests.unit.training.data_trees import own
from training import evaluate, train
from training.data import CamVid
from training.engine.run_folder import RunFolder
from training.reporting.run_card import describe_run, without_paths
from training.train import main, parser, resolve

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    AcceleratorState._reset_state(reset_partial_state=True)


def _camvid(root, images=4):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True)
        for n in range(images):
            image = rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)
            label = rng.integers(0, 11, (96, 128), dtype=np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{split}{n}.png")
            Image.fromarray(label).save(root / split / "labels" / f"{split}{n}.png")
    return root


def test_faults_of_the_data_are_listed_before_the_first_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "cache"))
    root = _camvid(tmp_path / "camvid")
    (root / "train" / "labels" / "train2.png").unlink()
    Image.new("L", (128, 96), 200).save(root / "val" / "labels" / "val1.png")
    out = tmp_path / "run"
    settings = [part for one in TINY for part in ("--set", one)]
    command = ["camvid_kan", *settings, "--data", f"camvid={root}", "--out", str(out), "--quiet"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "train2.png: missing-label: " in error
    assert "val1.png: label-range: " in error
    assert "error: 2 faults in camvid=" in error
    assert not out.exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_image_that_breaks_while_training_stops_the_run_by_its_name(tmp_path, workers):
    root = _camvid(tmp_path / "camvid")
    trainer = tiny_trainer(tmp_path / "run", f"data=camvid={root}", f"workers={workers}")
    assert isinstance(trainer.train_images, CamVid)
    for path in (root / "train" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageError, match=r"train\d\.png: damaged-image") as caught:
        trainer.fit()
    assert "Traceback" not in str(caught.value)


# TensorBoard's own thread fails on the disk too
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    trainer = tiny_trainer(tmp_path, "steps=2", "eval_every=1", "save_every=1")
    save = trainer._save

    def on_a_full_disk(**how):
        if trainer.step == 1:
            return save(**how)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            return save(**how)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    trainer._save = on_a_full_disk
    with pytest.raises(WriteError, match=r"Can't write .*Free some space"):
        trainer.fit()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 1
    load_model(tmp_path / "last.safetensors", device="cpu")
    assert not list(tmp_path.glob(".*"))


def test_a_tracker_hears_what_the_folder_is_told(tmp_path, monkeypatch):
    heard = []
    service = types.ModuleType("wandb")
    service.init = lambda **about: heard.append(about) or service
    service.log = lambda values, step: heard.append((step, dict(values)))
    service.finish = lambda: heard.append("finished")
    monkeypatch.setitem(sys.modules, "wandb", service)
    trainer = tiny_trainer(tmp_path, "steps=2", tracker="wandb")
    trainer.fit()
    assert heard[0]["config"]["name"] == "camvid_kan"
    assert heard[-1] == "finished"
    lines = [{"step": step, **values} for step, values in heard[1:-1]]
    assert lines == trainer.run.metrics()
    del heard[:]
    RunFolder(tmp_path, "wandb").close()  # as of a process that is not the main one
    assert not heard


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("service down")], ids=str
)
def test_a_tracker_that_fails_does_not_end_the_run(tmp_path, caplog, error):
    def log(values, step):
        raise error

    trainer = tiny_trainer(tmp_path, "steps=2", "eval_every=1")
    trainer.run._trackers[0].log = log
    trainer.fit()
    assert trainer.step == 2
    assert len(trainer.run.metrics()) == 3
    assert caplog.text.count("tensorboard gets no more of this run") == 1


def test_an_absent_tracker_is_one_line_and_a_failure(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    command = ["camvid_kan", "--data", "synthetic", "--tracker", "trackio"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "pip install trackio" in capsys.readouterr().err


def test_images_of_a_run(tmp_path):
    trainer = tiny_trainer(tmp_path, "steps=2", "eval_every=1", draw=True)
    trainer.fit()
    for name in ("curves.png", "confusion.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 5
    assert len(list((tmp_path / "samples").iterdir())) == 2
    page = (tmp_path / "README.md").read_text()
    assert ["|", "recipe", "|", "camvid_kan", "|"] in map(str.split, page.splitlines())
    assert load_model(tmp_path / "best.safetensors", device="cpu").card["data"] == "synthetic"


def tiny_command(name, *settings):
    return [name, *(part for one in [*settings] for part in ("--set", one)), "--quiet"]


def test_a_mistyped_recipe_is_refused_before_pytorch_is_imported():
    script = (
        "import sys; from training.train import main; status = main(['camvid_kna']); "
        "print(status, [name for name in ('torch', 'timm', 'cv2', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "2 []"
    assert "Unknown recipe 'camvid_kna'. Nearest: camvid_kan, camvid_mlp" in done.stderr


@pytest.mark.parametrize("data", ["synthetic:cityscapes", "1 synthetic:camvid + 1 synthetic"])
def test_drawn_images_need_no_backbone_weights(data, capsys):
    config = resolve(parser().parse_args(["mask2former_r50", "--data", data]))
    assert not config.pretrained
    assert f"{data} is drawn: the backbone starts from random weights" in capsys.readouterr().err
    asked = ["--set", "pretrained_backbone=backbones/resnet.pth"]
    config = resolve(parser().parse_args(["mask2former_r50", "--data", data, *asked]))
    assert config.pretrained
    assert resolve(parser().parse_args(["mask2former_r50"])).pretrained
    capsys.readouterr()
    resolve(parser().parse_args(["finetune", "--data", data]))
    assert capsys.readouterr().err == ""


def test_a_downloading_recipe_trains_on_drawn_images_without_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(RunFolder, "draw", lambda *_: None)
    settings = [one for one in reduced("mask2former_r50") if not one.startswith("pretrained")]
    command = tiny_command("mask2former_r50", *settings, "steps=1", "eval_every=1")
    data = ["--data", "synthetic:cityscapes", "--out", str(tmp_path / "run")]
    assert main([*command, *data, "--set", "warmup_steps=0"]) == 0
    assert "warm-up" not in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["pretrained_backbone"] == ""


def test_own_data_are_noted_trained_and_evaluated_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "draw", lambda *_: None)  # takes longer than the run
    own(tmp_path / "garden", 0, 1, 2)
    settings = [one for one in TINY if not one.startswith("data=")]
    command = tiny_command("camvid_kan", *settings, "model.hidden_dim=64", "steps=2")
    assert main([*command, "--data", "garden", "--out", "run"]) == 0
    error = capsys.readouterr().err
    assert "garden/classes.txt: not there, so the masks' values make" in error
    assert "\n2 steps end inside the warm-up of 50 steps; --set warmup_steps=0\n" in error
    for weights in ("run/best.safetensors", "run"):
        assert evaluate.main([weights, "--data", "garden", "--json", "out.json"]) == 0
        result = json.loads(Path("out.json").read_text())
        assert list(result["iou_per_class"]) == ["class_0", "class_1", "class_2"]
        assert result["recipe"] == "camvid_kan"
        assert result["sha256"]
    assert (tmp_path / "run" / "evaluation_garden_val" / "evaluation.json").is_file()
    Path("garden/classes.txt").write_text("lawn\npath\nwall\n")
    capsys.readouterr()
    # a checkpoint that only numbers its classes fits any names
    assert evaluate.main(["run", "--data", "garden"]) == 0
    assert main([*command, "--data", "garden", "--out", "named"]) == 0
    Path("garden/classes.txt").write_text("lawn\npath\nfence\n")
    assert evaluate.main(["named", "--data", "garden"]) == 2
    assert "only named has wall; only garden has fence" in capsys.readouterr().err


def test_damaged_pictures_are_named_before_a_distillation(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MASK2KAN_CACHE", str(tmp_path / "cache"))
    pictures = own(tmp_path / "set", 0, images=3) / "train" / "images"
    out = ["--out", str(tmp_path / "run")]
    command = ["distill_kan", "--data", f"pictures:{pictures}", *out, "--quiet"]
    path = pictures / "01.png"
    path.write_bytes(path.read_bytes()[:200])
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{path}: damaged-image: " in error
    assert "error: 1 fault in pictures:" in error
    assert not (tmp_path / "run").exists()
    assert main([*command, "--skip-check", *tiny_command("", "batch_size=2")[1:-1]]) == 2
    assert f"error: {path}: damaged-image: " in capsys.readouterr().err


def test_progress_shows_a_dash_before_the_first_validation(tmp_path, capsys):
    trainer = tiny_trainer(tmp_path, "steps=1", "eval_every=1")
    trainer.progress = True
    trainer.fit()
    error = capsys.readouterr().err
    assert "best=–" in error
    assert "best=-" not in error


def test_a_run_card_does_not_tell_where_things_lie(tmp_path):
    changes = {
        "data": f"2 camvid={tmp_path}/cv + 1 {tmp_path}/own photos/",
        "init": f"{tmp_path}/runs/first/best.safetensors",
        "outliers": f"cutouts:{tmp_path}/things",
    }
    options = [f"--{key}={value}" for key, value in changes.items()]
    config = resolve(parser().parse_args(["finetune", *options]))
    card = describe_run(config, {"versions": {}, "commit": ""}, 1, -1.0)
    assert card["data"] == "2 camvid=cv + 1 own photos"
    assert card["started from"] == "first/best.safetensors"
    assert card["outliers"] == "cutouts:things"
    assert card["best validation mIoU"] == "not measured"
    assert str(tmp_path) not in json.dumps(card)
    assert without_paths(r"C:\Users\me\own") == "own"
    assert without_paths("pictures:/home/me/pics") == "pictures:pics"
    assert without_paths("synthetic:cityscapes") == "synthetic:cityscapes"
    hub = resolve(parser().parse_args(["finetune", "--init", "facebook/mask2former-swin-tiny"]))
    card = describe_run(hub, {"versions": {}, "commit": ""}, 1, -1.0)
    assert card["started from"] == "facebook/mask2former-swin-tiny"


def test_what_the_extra_brings_is_asked_for_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None if name == "accelerate" else name)
    assert train.main(["camvid_kan", "--data", "synthetic", "--out", str(tmp_path / "run")]) == 2
    assert "Training needs accelerate, of the extra [training]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
