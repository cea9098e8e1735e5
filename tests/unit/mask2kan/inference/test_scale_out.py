"""Many images: resumed, one broken among them, and the same bytes with Ray as without."""

from __future__ import annotations

import functools
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from mask2kan.checkpoints import save_model
from mask2kan.cli.main import main
from mask2kan.errors import BackendError, ConfigError, ImageError
from mask2kan.inference import scale_out
from mask2kan.inference.scale_out import run_actors, run_here
from tests.tiny_models import tiny


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (40, 64, 3), dtype=np.uint8)).save(
            folder / f"{name}.png"
        )
    return folder


@pytest.fixture
def command(tmp_path, images):
    save_model(tiny("mask2kan", "mobilenetv2"), tmp_path / "tiny.safetensors")
    options = ["--model", str(tmp_path / "tiny.safetensors"), "--device", "cpu"]
    return ["predict", str(images), *options, "--dtype", "float32", "--out"]


def contents(folder):
    """Read every file's bytes; of summaries all but the time."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in [name for name in files if name.endswith(".json")]:
        files[name] = {k: v for k, v in json.loads(files[name]).items() if k != "milliseconds"}
    return files


def half(number):
    if number == 3:
        raise ImageError("three is odd")
    return number // 2


def make_half():
    return half


def test_outcomes_carry_results_and_errors():
    outcomes = {outcome.item: outcome for outcome in run_here(make_half, [2, 3, 4])}
    assert (outcomes[2].result, outcomes[4].result) == (1, 2)
    assert str(outcomes[3].error) == "three is odd"
    assert not list(run_here(make_half, []))


def test_resume_does_what_is_missing(command, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*command, str(out)]) == 0
    whole = contents(out)
    assert len(whole) == 18
    for name in ("b.json", "b_semantic.png"):
        (out / name).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert main([*command, str(out), "--resume"]) == 0
    assert "2 of 3 images were done before" in capsys.readouterr().out
    assert contents(out) == whole
    for path in out.iterdir():
        assert path.name.startswith("b") or path.stat().st_mtime_ns == before[path.name]


def test_resume_redoes_what_an_older_version_made(command, tmp_path, capsys):
    """Its 16-bit scores had another range, which the summary did not state."""
    out = tmp_path / "old"
    assert main([*command, str(out)]) == 0
    for path in out.rglob("*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts.pop("score16", None)
        path.write_text(json.dumps(facts), encoding="utf-8")
    capsys.readouterr()
    assert main([*command, str(out), "--resume"]) == 0
    assert "were done before" not in capsys.readouterr().out


def test_resume_redoes_what_other_settings_or_images_made(command, images, tmp_path, capsys):
    out = tmp_path / "out"

    def done_before(*options):
        capsys.readouterr()
        assert main([*command, str(out), "--resume", *options]) == 0
        return capsys.readouterr().out.count("images were done before")

    assert not done_before()
    assert not done_before("--score", "entropy")
    assert json.loads((out / "a.json").read_text())["score"] == "entropy"
    assert done_before("--score", "entropy")
    other = tiny("mask2kan", "mobilenetv2")
    torch.nn.init.zeros_(other.transformer_decoder.class_embed.weight)
    save_model(other, tmp_path / "tiny.safetensors")
    assert not done_before("--score", "entropy")
    (out / "a.json").write_text("[1")  # cut off
    Image.new("RGB", (64, 40)).save(images / "b.png")
    os.utime(images / "b.png", (0, 0))  # another image, though an older one
    assert main([*command, str(out), "--resume", "--score", "entropy"]) == 0
    assert "1 of 3 images were done before" in capsys.readouterr().out
    (out / "c_overlay.png").unlink()
    assert main([*command, str(out), "--resume", "--score", "entropy"]) == 0
    assert (out / "c_overlay.png").is_file()


def test_resume_does_not_take_a_namesake_for_an_image(command, images, tmp_path, capsys):
    other = tmp_path / "other" / "a.png"
    other.parent.mkdir()
    Image.new("RGB", (64, 40)).save(other)
    out = tmp_path / "out"
    assert main([*command, str(out)]) == 0
    command[1] = str(other)
    assert main([*command, str(out), "--resume"]) == 0
    pictures = [json.loads((out / name).read_text())["picture"] for name in ("a.json", "a_2.json")]
    assert pictures == [str(images / "a.png"), str(other)]


def test_one_broken_image_does_not_stop_the_others(command, images, tmp_path, capsys):
    (images / "b.png").write_bytes(b"nothing")
    assert main([*command, str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "b.png" in error
    assert "1 of 3 images failed." in error
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"a.json", "c.json"}


def test_without_ray_it_says_what_to_install(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scale_out, "find_spec", lambda _: None)
    assert main([*command, str(tmp_path / "out"), "--ray"]) == 1
    assert "pip install 'ray[data]'" in capsys.readouterr().err
    with pytest.raises(BackendError):
        list(run_actors(make_half, [1]))


def test_no_worker_is_no_way_to_work():
    with pytest.raises(ConfigError, match="at least 1"):
        list(run_actors(make_half, [1], workers=0))


@pytest.fixture
def two_cores(monkeypatch):
    """Give Ray two cores, and this process one thread, as each actor: sums are then equal."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", functools.partial(ray.init, num_cpus=2, num_gpus=0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("two_cores")
def test_ray_writes_the_same_bytes_and_reports_the_broken_image(
    command, images, tmp_path, capsys, monkeypatch
):
    (images / "b.png").write_bytes(b"nothing")
    assert main([*command, str(tmp_path / "here")]) == 1
    here = capsys.readouterr().err
    monkeypatch.chdir(tmp_path)  # a relative folder is the same one for the actors
    assert main([*command, "ray", "--workers", "2"]) == 1
    spread = capsys.readouterr().err
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    assert next(line for line in here.splitlines() if "b.png" in line) in spread
    assert json.loads((tmp_path / "ray" / "a.json").read_text())["classes"]


@pytest.mark.slow
@pytest.mark.usefixtures("two_cores")
def test_a_model_that_actors_cannot_load_is_one_error(images, tmp_path, capfd):
    missing = str(tmp_path / "missing.safetensors")
    command = ["predict", str(images), "--model", missing, "--out", str(tmp_path / "out")]
    assert main([*command, "--ray", "--workers", "1"]) == 1
    error = capfd.readouterr().err
    assert error.count(f"Can't load {missing}: no such file") == 1
    assert "Traceback" not in error
    assert "retries" not in error
