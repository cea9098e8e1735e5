"""The loop: exact resume, clean stops, and errors that name the step; on a tiny model."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mask2kan.checkpoints import load_model
from mask2kan.errors import CheckpointError, ConfigError, ImageError, NumericsError
from tests.tiny_runs import TINY, tiny_trainer
from training.engine import trainer as trainer_module
from training.engine.ema import WeightAverage
from training.train import main

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    whole = tiny_trainer(tmp_path / "whole")
    whole.fit()
    first = tiny_trainer(tmp_path / "parts")
    update = first._update

    def stop_after_two(batch):
        first.interrupted = first.step + 1 == 2
        return update(batch)

    first._update = stop_after_two
    first.fit()
    assert first.step == 2
    second = tiny_trainer(tmp_path / "parts", resume=True)
    assert second.step == 2
    second.fit()
    assert second.step == 4
    assert second.best == whole.best
    for resumed, expected in (
        (second.model.state_dict(), whole.model.state_dict()),
        (second.average.model.state_dict(), whole.average.model.state_dict()),
    ):
        assert all(torch.equal(resumed[key], expected[key]) for key in expected)


def test_the_run_folder_holds_what_is_needed(tmp_path):
    trainer = tiny_trainer(tmp_path, name="camvid_mlp")
    trainer.fit()
    files = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "provenance.json", "metrics.jsonl", "state.pt"} < files
    assert {"best.safetensors", "last.safetensors"} < files
    assert any(name.startswith("events.") for name in files)
    assert not any(name.endswith(".partial") for name in files)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_options"]["hidden_dim"] == 32
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert {"seed", "commit", "versions"} <= set(provenance)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/miou" in line] == [2, 4]
    loaded = load_model(tmp_path / "last.safetensors", device="cpu")
    assert loaded.class_names[0] == "sky"
    expected = trainer.average.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    assert load_file(tmp_path / "best.safetensors").keys() == expected.keys()


def test_an_existing_run_is_not_overwritten(tmp_path):
    tiny_trainer(tmp_path, "steps=1").fit()
    with pytest.raises(ConfigError, match="--resume"):
        tiny_trainer(tmp_path, "steps=1")


def test_a_used_folder_is_refused_before_anything_is_read_or_built(tmp_path, monkeypatch, capsys):
    (tmp_path / "state.pt").touch()
    command = ["camvid_kan", "--data", "nothing", "--init", "nothing", "--out", str(tmp_path)]
    assert main(command) == 2
    assert "already holds a run" in capsys.readouterr().err
    for name in ("open_images", "build_model"):
        monkeypatch.delattr(trainer_module, name)
    with pytest.raises(ConfigError, match="already holds a run"):
        tiny_trainer(tmp_path)


def test_the_learning_rate_logged_is_the_one_outside_the_backbone(tmp_path):
    settings = ["steps=1", "warmup_steps=0", "lr=0.001"]
    for factor, expected in ((0.25, 0.00025), (1.0, None)):
        trainer = tiny_trainer(tmp_path / str(factor), *settings, f"backbone_factor={factor}")
        before = trainer.optimizer.param_groups[0]["lr"]
        trainer._log([{"loss": torch.tensor(1.0)}], 1.0)
        line = trainer.run.metrics()[-1]
        assert before == line["train/lr"] == pytest.approx(0.001)
        assert line.get("train/lr_backbone") == (expected and pytest.approx(expected))


def test_a_resumed_run_forgets_what_was_logged_after_its_state(tmp_path):
    trainer = tiny_trainer(tmp_path, "eval_every=1", "save_every=2", "steps=4")
    save, states = trainer.run.save_state, []
    trainer.run.save_state = lambda state: (states.append(copy.deepcopy(state)), save(state))
    trainer.fit()
    save(next(state for state in states if state["step"] == 2))
    again = tiny_trainer(tmp_path, "eval_every=1", "steps=3", resume=True)
    assert again.step == 2
    again.fit()
    assert [line["step"] for line in again.run.metrics() if "val/miou" in line] == [1, 2, 3]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("val/miou")] == [1, 2, 3]
    assert [event.step for event in events.Images("val/image_prediction_truth")] == [1, 2, 3]


def test_a_run_of_the_code_before_goes_on(tmp_path):
    """Its folder was written at 5a44bb1; every weight of it is a constant, which packs well."""
    with tarfile.open(Path(__file__).with_name("previous_run.tar.xz")) as packed:
        packed.extractall(tmp_path, filter="data")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    trainer = tiny_trainer(tmp_path, resume=True)
    assert (trainer.step, trainer.best) == (2, saved["best"])
    assert trainer.order == saved["order"]
    assert trainer._validated == saved["validated"] == 2
    assert trainer.average.updates == 2
    for state, expected in (
        (trainer.model.state_dict(), saved["model"]),
        (trainer.average.model.state_dict(), saved["average"]["model"]),
    ):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], value) for key, value in expected.items())
    moments = trainer.optimizer.optimizer.state[trainer.model.pixel_decoder.level_embed]
    name = "pixel_decoder.level_embed"
    assert torch.equal(moments["exp_avg"], saved["optimizer"]["state"][name]["exp_avg"])
    assert [line["step"] for line in trainer.run.metrics()] == [2, 2]
    trainer.fit()
    assert trainer.step == 4


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        (["seed=3"], "camvid_kan", "seed was 0 and is 3"),
        (["augmentation.colour=0.0"], "camvid_kan", r"augmentation.colour was 0.3 and is 0.0"),
        (["model.num_queries=9"], "camvid_kan", "num_queries was 12 and is 9"),
        ([], "camvid_mlp", "name was 'camvid_kan' and is 'camvid_mlp'"),
    ],
)
def test_a_run_is_not_continued_as_another(tmp_path, settings, name, said):
    tiny_trainer(tmp_path, "steps=1").fit()
    known = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=said):
        tiny_trainer(tmp_path, "steps=2", *settings, name=name, resume=True)
    assert (tmp_path / "config.json").read_bytes() == known


def test_a_state_of_another_model_is_refused(tmp_path):
    tiny_trainer(tmp_path, "steps=1").fit()
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="another model or version"):
        tiny_trainer(tmp_path, "steps=2", "model.num_queries=9", resume=True)


def test_a_run_stopped_in_its_validation_validates_when_resumed(tmp_path, monkeypatch):
    whole = tiny_trainer(tmp_path / "whole")
    whole.fit()
    first = tiny_trainer(tmp_path / "parts")
    read = first.val_images.arrays

    def asked_to_stop(index):
        first.interrupted = True
        return read(index)

    monkeypatch.setattr(first.val_images, "arrays", asked_to_stop)
    first.fit()
    monkeypatch.undo()
    assert first.step == 2
    assert first.best == -1
    second = tiny_trainer(tmp_path / "parts", resume=True)
    second.fit()
    assert second.best == whole.best
    logged = [
        [
            (line["step"], line["val/miou"])
            for line in map(
                json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            )
            if "val/miou" in line
        ]
        for name in ("whole", "parts")
    ]
    assert logged[0] == logged[1]


def test_the_finished_weights_outlive_a_validation_that_fails(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path, "steps=2", "eval_every=2")

    def broken(index):
        raise ImageError("no image")

    monkeypatch.setattr(trainer.val_images, "arrays", broken)
    with pytest.raises(ImageError):
        trainer.fit()
    load_model(tmp_path / "last.safetensors", device="cpu")
    monkeypatch.undo()
    again = tiny_trainer(tmp_path, "steps=2", "eval_every=2", resume=True)
    assert again.fit() > -1
    assert again.step == 2


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"PK not a state")
    with pytest.raises(CheckpointError, match="Cannot continue from"):
        tiny_trainer(tmp_path, resume=True)


def test_a_grid_update_moves_the_grid_and_restarts_the_average(tmp_path):
    trainer = tiny_trainer(tmp_path, "steps=1")
    head = trainer.model.transformer_decoder.mask_embed
    before = head.layers[0].grid.clone()
    trainer.fit()
    assert not torch.equal(head.layers[0].grid, before)
    averaged = trainer.average.model.transformer_decoder.mask_embed.state_dict()
    assert all(torch.equal(averaged[key], value) for key, value in head.state_dict().items())


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path):
    trainer = tiny_trainer(tmp_path, "grid_update_steps=()")
    with torch.no_grad():
        trainer.model.transformer_decoder.class_embed.bias.fill_(float("nan"))
    kept = trainer.model.pixel_decoder.mask_features.weight.clone()
    with pytest.raises(NumericsError, match=r"step 1, images train_\d+, train_\d+: .*pred_logits"):
        trainer.fit()
    assert torch.equal(trainer.model.pixel_decoder.mask_features.weight, kept)


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path):
    trainer = tiny_trainer(tmp_path, "grid_update_steps=()")
    weight = trainer.model.pixel_decoder.mask_features.weight
    weight.register_hook(lambda grad: grad * float("inf"))
    kept = weight.detach().clone()
    with pytest.raises(NumericsError, match=r"step 1, .*gradient.*pixel_decoder\.mask_features"):
        trainer.fit()
    assert torch.equal(weight, kept)


def test_bfloat16_autocast_trains(tmp_path):
    trainer = tiny_trainer(tmp_path, "steps=2", mixed_precision="bf16")
    trainer.fit()
    assert trainer.step == 2
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_the_average_follows_with_a_growing_window():
    model = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(2.0)
    start = average.model.weight.item()
    average.update(model)
    expected = start + (2.0 - start) * (1 - 1 / 11)
    assert average.model.weight.item() == pytest.approx(expected)
    for _ in range(200):
        average.update(model)
    assert average.model.weight.item() == pytest.approx(2.0, abs=1e-4)
    slow = WeightAverage(torch.nn.Linear(1, 1, bias=False), decay=0.99)
    for _ in range(30):  # without the window 0.74 of the start would be left
        slow.update(model)
    assert slow.model.weight.item() == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["camvid_can"], "Nearest: camvid_kan"),
        (["camvid_kan", "--data", "/nowhere"], "No data at /nowhere"),
        (["camvid_kan", "--set", "nothing=1"], "Unknown setting"),
    ],
)
def test_bad_input_is_one_line_and_a_failure(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "python -m training.train camvid_kan" in capsys.readouterr().out


@pytest.mark.slow
def test_sigterm_saves_and_the_command_resumes(tmp_path):
    settings = [part for setting in TINY for part in ("--set", setting)]
    command = [sys.executable, "-m", "training.train", "camvid_kan", *settings, "--out"]
    command += [str(tmp_path / "run"), "--steps", "100000", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "val mIoU" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stdout.read()
        assert process.wait(timeout=600) == 0, rest
    assert "stopped at step" in rest
    step = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"]
    done = subprocess.run(
        [*command, "--resume", "--steps", str(step + 1), "--quiet"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"starting at step {step}" in done.stdout
    assert f"done: {step + 1} steps" in done.stdout
