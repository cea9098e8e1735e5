"""What goes wrong around a run: faulty data, unreadable images, a full disk, absent trackers."""

from __future__ import annotations

import resource
import sys
import types

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from mask2kan import load_model
from mask2kan.errors import ImageError, WriteError
from tests.tiny_runs import TINY, tiny_trainer
from training.data import CamVid
from training.engine.run_folder import RunFolder
from training.train import main


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
