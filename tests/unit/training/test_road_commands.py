"""From packed data to bundled files: the commands of the road pair, one after the other, tiny."""

from __future__ import annotations

import itertools
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch

from mask2kan import load_model
from mask2kan.checkpoints.files.opened import sha256_of
from tests.tiny_runs import SMALL_BACKBONES, SMALL_DECODERS
from tests.unit.training.data_trees import save
from training import bundle, choose_settings, pack, spline_trials, visit
from training.data.folders import VARIABLE
from training.experiments.spline_trials import TRIALS

SETTINGS = [
    *("pretrained_backbone=random", "num_points=64", "augmentation.crop=(64, 64)"),
    *("eval_pictures=1", "grid_update_steps=(1,)", "outliers.source=procedural"),
    *("outliers.ground=('road',)", "outliers.without=()", "model=mask2kan_mobilenetv2"),
    *("data=camvid", *SMALL_DECODERS, *SMALL_BACKBONES["mobilenetv2"], "model.num_queries=40"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A tiny CamVid with one extra file, packed."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, name in itertools.product(("train", "val", "test"), ("a", "b")):
        place = folder / "camvid" / split
        save(place / "images" / f"{name}.png", rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
        label = np.full((96, 128), 3, np.uint8)  # road
        label[:40] = 0  # sky
        save(place / "labels" / f"{name}.png", label)
    (folder / "extra.txt").write_text("kept", encoding="utf-8")
    path = folder / "packed" / "road.tar.xz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder))
        arguments = [str(path), "--data", "camvid", "--extra", "extra.txt", "--longest-side", "128"]
        assert pack.main(arguments) == 0
    return path


@pytest.fixture(scope="module")
def visited(archive, tmp_path_factory):
    """What a visit of some steps brought back."""
    out = tmp_path_factory.mktemp("visited")
    minutes = ["--minutes", "0.02", "--end-minutes", "0.02", "--batch-size", "2", "--workers", "0"]
    settings = [word for one in SETTINGS for word in ("--set", one)]
    arguments = [str(archive), "--out", str(out), "--precision", "no", *minutes, *settings]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "/nowhere")  # restored afterwards
        assert visit.main(arguments) == 0
    for name in ("constant", "end", "outliers"):
        with tarfile.open(out / f"{name}.tar") as tar:
            tar.extractall(out, filter="data")
    return out


def test_what_is_packed_is_what_training_reads(archive):
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert "data/extra.txt" in names
    assert all(name.startswith(("data/camvid/", "data/extra")) for name in names)
    assert len([name for name in names if name.endswith(".webp")]) == len(
        [name for name in names if name.endswith(".png")]
    )


def test_an_extra_that_is_no_image_is_named(archive, tmp_path, monkeypatch, capsys):
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "cow.png").write_bytes(b"no image")
    shutil.copytree(archive.parents[1] / "camvid", tmp_path / "camvid")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    out = tmp_path / "out.tar.xz"
    assert pack.main([str(out), "--data", "camvid", "--extra", "objects"]) == 2
    assert "cow.png: damaged-image: it is a text file" in capsys.readouterr().err
    assert not out.exists()


def test_a_visit_brings_back_three_pairs_and_what_was_logged(visited):
    facts = json.loads((visited / "visit.json").read_text(encoding="utf-8"))
    assert facts["steps"] >= 1
    assert facts["end steps"] >= 20
    assert len((visited / "outliers.jsonl").read_text(encoding="utf-8").splitlines()) >= 1
    kinds = [
        load_model(visited / "end" / f"{name}.safetensors").config.mask_embed
        for name in ("kan", "mlp")
    ]
    assert kinds == ["kan", "mlp"]
    constant = load_model(visited / "constant" / "kan.safetensors", device="cpu").state_dict()
    end = load_model(visited / "end" / "kan.safetensors", device="cpu").state_dict()
    assert any(not torch.equal(constant[key], end[key]) for key in constant)


def test_a_visit_is_bundled_with_its_settings_and_what_its_splines_do(
    visited, archive, tmp_path, capsys, monkeypatch
):
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"sides": [64, 96], "sigma": 0.01}), encoding="utf-8")
    out = tmp_path / "weights"
    arguments = [str(visited / "outliers"), "--settings", str(settings), "--data", "camvid"]
    assert bundle.main([*arguments, "--name", "tiny", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "mask2former_tiny.safetensors",
        "mask2kan_tiny.safetensors",
        "tiny_trunk.safetensors",
    ]
    kan = load_model(out / "mask2kan_tiny.safetensors", device="cpu")
    assert kan.settings.sides == (64, 96)
    assert {"curvature", "spline share", "splines set to zero"} <= kan.card.keys()
    assert "spline share" not in load_model(out / "mask2former_tiny.safetensors").card
    capsys.readouterr()
    arguments = [str(out / "mask2kan_tiny.safetensors"), "--data", "synthetic_anomaly"]
    assert choose_settings.main([*arguments, "--sides", "64", "96", "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert "64 + 96" in shown
    assert "entropy" in shown


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (pack, ["a.tar.xz", "--data", "camvid", "--quality", "0"], "--quality is 0"),
        (visit, ["a.tar.xz", "--out", "out", "--minutes", "0"], "--minutes is 0"),
        (
            choose_settings,
            ["mask2kan_road", "--data", "synthetic_anomaly", "--limit", "0"],
            "at least 1",
        ),
        (
            choose_settings,
            ["mask2kan_road", "--data", "synthetic_anomaly", "--sides", "8"],
            "sides",
        ),
        (spline_trials, ["--init", "mask2kan_road", "--seeds", "0"], "--seeds is 0"),
    ],
)
def test_bad_arguments_end_with_one_line(command, arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_damaged_archive_is_named_and_nothing_is_trained(archive, tmp_path, capsys):
    damaged = tmp_path / "road.tar.xz"
    content = archive.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    assert visit.main([str(damaged), "--out", str(tmp_path / "out")]) == 2
    assert "cannot be unpacked" in capsys.readouterr().err
    with tarfile.open(damaged, "w:xz") as tar:
        tar.add(archive.parents[1] / "extra.txt", "other/extra.txt")
    assert visit.main([str(damaged), "--out", str(tmp_path / "out")]) == 2
    assert "no folder data" in capsys.readouterr().err


@pytest.mark.slow
def test_trials_are_done_once_and_not_mixed(visited, archive, tmp_path, capsys, monkeypatch):
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    init = visited / "end" / "mlp.safetensors"
    out = tmp_path / "trials"
    arguments = ["--init", str(init), "--anomalies", "synthetic_anomaly", "--out", str(out)]
    arguments += ["--seeds", "1", "--steps", "2"]
    assert spline_trials.main(arguments) == 0
    table = (out / "trials.md").read_text(encoding="utf-8")
    assert all(name in table for name in TRIALS)
    before = {path: sha256_of(path) for path in out.rglob("trial.json")}
    assert len(before) == len(TRIALS)
    assert spline_trials.main(arguments) == 0
    assert before == {path: sha256_of(path) for path in out.rglob("trial.json")}
    capsys.readouterr()
    assert spline_trials.main([*arguments[:-1], "3"]) == 2
    assert "holds results with steps = 2, now it is 3" in capsys.readouterr().err
