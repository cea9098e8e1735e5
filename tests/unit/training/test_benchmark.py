"""The benchmark command: its figures, its restarts, its images; and evaluation on Cityscapes."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mask2kan import create_model, load_model
from mask2kan.checkpoints import save_model
from mask2kan.errors import CheckpointError, ConfigError, ImageError
from mask2kan.inference.predictor import Predictor
from mask2kan.modeling.classes import CITYSCAPES
from tests.tiny_models import BACKBONES, TINY
from training import calibrate, cards, evaluate
from training.benchmark import main
from training.data import open_anomaly
from training.evaluation.anomaly_benchmark import Benchmark, checkpoint_names, sets_to_measure
from training.evaluation.checkpoint_evaluation import open_labelled
from training.evaluation.saved_scores import Scorer, ScoringPlan, read_score, save_scores
from training.experiments.thesis_tables import results
from training.metrics import AnomalyEvaluator, CityscapesEvaluator
from training.reporting.benchmark import as_markdown

SETS = ["--sets", "synthetic_anomaly", "--limit", "3", "--scores", "msp", "rba"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two tiny models, as two runs leave them."""
    paths = []
    for seed, head in enumerate(("kan", "mlp")):
        torch.manual_seed(seed)
        family = {"kan": "mask2kan", "mlp": "mask2former"}[head]
        options = {**TINY, "num_classes": 19, "class_names": tuple(CITYSCAPES)}
        model = create_model(f"{family}_mobilenetv2", **options, **BACKBONES["mobilenetv2"])
        folder = tmp_path_factory.mktemp("runs") / f"thesis_swin_t_{head}"
        save_model(model, folder / "best.safetensors")
        (folder / "config.json").write_text(json.dumps({"name": folder.name}))
        paths.append(str(folder / "best.safetensors"))
    return paths


def test_figures_are_the_evaluator_s_and_the_tables_find_them(checkpoints, tmp_path, capsys):
    out = tmp_path / "benchmark"
    assert main([*checkpoints, *SETS, "--out", str(out), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    images = open_anomaly("synthetic_anomaly")
    chosen = np.linspace(0, len(images.names) - 1, 3).round().astype(int)
    for path, (name, _) in zip(checkpoints, checkpoint_names(checkpoints), strict=True):
        found = json.loads((out / name / "benchmark.json").read_text())
        assert found["recipe"] == name.removesuffix("_best")
        predictor = Predictor(load_model(path, device="cpu"), "cpu", "float32")
        for score in ("msp", "rba"):
            direct = AnomalyEvaluator()
            for index in chosen:
                image, label = images.arrays(int(index))
                direct.update(predictor(image).anomaly(score), label)
            expected = direct.compute()
            stored = found["sets"]["synthetic_anomaly"]["scores"][score]
            for key in ("ap", "auroc", "fpr95", "best_f1"):
                assert stored[key] == pytest.approx(expected[key], abs=1e-12)
            assert f"{expected['ap']:.4f}" in text
    assert not (out / "scores").exists()
    for kind in ("pr", "roc"):
        drawn = np.asarray(Image.open(out / f"{kind}_synthetic_anomaly.png").convert("L"))
        assert drawn.std() > 5
    shown = list((out / "best_and_worst" / "synthetic_anomaly").glob("*/*.png"))
    assert len(shown) == 6
    assert not results.find([out]).unused


def test_stopped_it_goes_on_and_does_nothing_twice(checkpoints, tmp_path, monkeypatch):
    scored = []
    score = Scorer.__call__

    def until(stop):
        def call(self, task):
            if len(scored) == stop:
                raise KeyboardInterrupt
            scored.append(task)
            return score(self, task)

        return call

    command = [checkpoints[0], *SETS, "--out", str(tmp_path), "--device", "cpu", "--keep-scores"]
    monkeypatch.setattr(Scorer, "__call__", until(2))
    assert main(command) == 130
    first = list(scored)
    monkeypatch.setattr(Scorer, "__call__", until(-1))
    assert main(command) == 0
    assert len(first) == 2
    assert len(scored) == len(set(scored)) == 3
    assert not list(tmp_path.rglob("*.tmp"))
    before = (tmp_path / "best" / "benchmark.json").read_text()
    assert main(command) == 0
    assert len(scored) == 3
    assert (tmp_path / "best" / "benchmark.json").read_text() == before


def test_scores_of_other_weights_are_refused(checkpoints, tmp_path, capsys):
    options = [*SETS, "--out", str(tmp_path), "--device", "cpu"]
    assert main([checkpoints[0], *options, "--keep-scores"]) == 0
    assert main([checkpoints[1], *options]) == 2
    assert f"{tmp_path / 'scores'} holds results with checkpoints = " in capsys.readouterr().err
    [plan] = tmp_path.rglob("plan.json")
    plan.write_text(plan.read_text()[:-20])
    assert main([checkpoints[0], *options]) == 2
    assert f"{plan} is damaged" in capsys.readouterr().err


def test_a_broken_image_is_listed_and_the_others_are_kept(
    checkpoints, tmp_path, capsys, monkeypatch
):
    score = Scorer.__call__

    def broken(self, task):
        if task[1] == 0:
            raise ImageError("no image")
        return score(self, task)

    command = [checkpoints[0], *SETS, "--out", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(Scorer, "__call__", broken)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "synthetic_anomaly, image 0: no image" in error
    assert "error: 1 of 3 images could not be scored" in error
    assert len(list(tmp_path.rglob("*.npz"))) == 2
    assert not (tmp_path / "benchmark.md").exists()


def test_scores_of_other_images_are_refused(checkpoints, tmp_path):
    def benchmark(folder):
        plan = ScoringPlan(
            checkpoints=(("best", checkpoints[0]),),
            sets=("road_anomaly",),
            root=str(folder),
            scores=("msp",),
            out=str(tmp_path / "scores"),
        )
        return Benchmark(plan, tmp_path)

    for name in ("a", "b"):
        frames = tmp_path / name / "road_anomaly" / "frames"
        (frames / "0.labels").mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(frames / "0.png")
        label = np.array([[0, 2]], np.uint8).repeat(8, 0).repeat(4, 1)
        Image.fromarray(label).save(frames / "0.labels" / "labels_semantic.png")
    benchmark(tmp_path / "a")
    benchmark(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"holds results with sets\.road_anomaly = "):
        benchmark(tmp_path / "b")


def test_a_cut_off_score_file_is_named(tmp_path):
    path = tmp_path / "0.npz"
    score = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    save_scores(path, {"msp": score})
    assert np.array_equal(read_score(path, "msp"), score)
    for length in (0, 40, path.stat().st_size - 10):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(CheckpointError, match="0.npz"):
            read_score(path, "msp")
        save_scores(path, {"msp": score})


@pytest.mark.slow
def test_ray_gives_the_same_scores(checkpoints, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", functools.partial(ray.init, num_cpus=2, num_gpus=0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of two actors on two cores
    command = [*checkpoints, *SETS, "--device", "cpu", "--keep-scores", "--out"]
    try:
        assert main([*command, str(tmp_path / "here")]) == 0
        assert main([*command, str(tmp_path / "ray"), "--ray", "--workers", "2"]) == 0
    finally:
        torch.set_num_threads(threads)
    files = sorted((tmp_path / "here" / "scores").rglob("*.npz"))
    assert len(files) == 6
    for file in files:
        other = tmp_path / "ray" / file.relative_to(tmp_path / "here")
        for score in ("msp", "rba"):
            assert np.array_equal(read_score(file, score), read_score(other, score))
    tables = [(tmp_path / name / "benchmark.md").read_text() for name in ("here", "ray")]
    assert tables[0] == tables[1]


def test_a_track_has_component_figures(checkpoints, tmp_path, capsys):
    root = tmp_path / "dataset_ObstacleTrack"
    rng = np.random.default_rng(0)
    for folder in ("images", "labels_masks"):
        (root / folder).mkdir(parents=True)
    for index in range(2):
        name = f"validation_{index}"
        image = rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)
        label = np.zeros((96, 128), np.uint8)
        label[20:50, 30:70] = 1
        label[90:] = 255
        Image.fromarray(image).save(root / "images" / f"{name}.webp", lossless=True)
        Image.fromarray(label).save(root / "labels_masks" / f"{name}_labels_semantic.png")
    command = [checkpoints[0], "--root", str(tmp_path), "--protocol", "smiyc", "--scores", "msp"]
    assert main([*command, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "sIoU ↑ |  PPV ↑ | F1\\* ↑" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "best" / "benchmark.json").read_text())
    about = found["sets"]["road_obstacle_21"]
    assert about["track"] == "obstacle"
    assert about["notes"][0].startswith("counted as SegmentMeIfYouCan's ObstacleTrack-validation")
    assert about["notes"][1] == "2 images, not the 30 of RoadObstacle21"
    assert {"siou", "ppv", "f1_star"} < set(about["scores"]["msp"])


def own_folder(root, count=2):
    rng = np.random.default_rng(len(root.name))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        image = rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)
        mask = np.zeros((96, 128), np.uint8)
        mask[20:50, 30 + index : 70] = 255
        Image.fromarray(image).save(root / "images" / f"{index}.bmp")
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    return root


def test_a_folder_of_one_s_own_goes_under_its_own_name(checkpoints, tmp_path, capsys):
    root, out = own_folder(tmp_path / "my_rocks"), tmp_path / "out"
    command = [checkpoints[0], "--scores", "msp", "--device", "cpu", "--out", str(out)]
    assert main([*command, "--root", str(root)]) == 0
    table = capsys.readouterr().out
    assert "### my_rocks: 2 images, 0.0964 of the area anomalous" in table
    assert "- 255 is the anomaly in its masks: none holds a 1" in table
    benchmark = out / "best" / "benchmark.json"
    about = json.loads(benchmark.read_text())["sets"]["my_rocks"]
    assert (about["title"], about["track"], about["own"]) == ("my_rocks", None, True)
    images, direct = open_anomaly(root), AnomalyEvaluator()
    predictor = Predictor(load_model(checkpoints[0], device="cpu"), "cpu", "float32")
    for index in range(2):
        image, label = images.arrays(index)
        direct.update(predictor(image).anomaly("msp"), label)
    assert about["scores"]["msp"]["ap"] == pytest.approx(direct.compute()["ap"], abs=1e-12)
    at_threshold = about["scores"]["msp"]["fpr95_at_threshold"]
    assert at_threshold == pytest.approx(direct.fpr95_at_threshold(), abs=1e-12)
    assert (out / "pr_my_rocks.png").is_file()
    assert not results.find([out]).unused  # the thesis's tables pass by what is a user's

    # Several, by path and by name, each under its own name; alike, with their parents'.
    more = [f"folder_anomaly={own_folder(tmp_path / 'b' / 'my_rocks')}", "synthetic_anomaly"]
    assert main([*command, "--limit", "1", "--sets", str(root), *more]) == 0
    assert set(json.loads(benchmark.read_text())["sets"]) == {
        f"{tmp_path.name}_my_rocks",
        "b_my_rocks",
        "synthetic_anomaly",
    }


def test_an_own_folder_is_evaluated_and_calibrated_under_its_name(checkpoints, tmp_path, capsys):
    root = own_folder(tmp_path / "my_rocks")
    remark = "255 is the anomaly in its masks: none holds a 1"
    assert evaluate.main([checkpoints[0], "--data", str(root), "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("my_rocks: 2 images, 0.0964 of the area anomalous")
    assert remark in table
    found = evaluate.evaluate(checkpoints[0], "folder_anomaly", root=root, device="cpu")
    assert (found["data"], found["set"], found["notes"]) == ("my_rocks", "folder_anomaly", [remark])
    assert "--data folder_anomaly=my_rocks`" in cards._measured("best", found)
    calibrated = tmp_path / "calibrated.safetensors"
    for data in (["folder_anomaly", "--root", str(root)], [f"folder_anomaly={root}"], [str(root)]):
        command = [checkpoints[0], "--out", str(calibrated), "--device", "cpu", "--data", *data]
        assert calibrate.main(command) == 0
        assert capsys.readouterr().out.startswith(f"my_rocks: {remark}\n")
        model = load_model(str(calibrated), device="cpu")
        assert {own["data"] for own in model.calibration.values()} == {"my_rocks, 2 images"}
        calibrated.unlink()


def test_where_scores_tie_the_table_names_the_other_fpr95():
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1], (40, 50), p=[0.8, 0.2]).astype(np.uint8)
    score = np.round(rng.normal(size=label.shape) + label).astype(np.float32)
    about = {"pictures": 1, "prevalence": 0.2, "track": None, "title": "Made", "notes": []}
    found = {}
    for name, values in (("tied", score), ("untied", rng.normal(size=label.shape) + label)):
        evaluator = AnomalyEvaluator()
        evaluator.update(values.astype(np.float32), label)
        figures = {**evaluator.compute(), "fpr95_at_threshold": evaluator.fpr95_at_threshold()}
        found[name] = figures
    result = {"protocol": "exact", "sets": {"made": {**about, "scores": found}}}
    table = as_markdown({"model": result}, ["tied", "untied"])
    other = found["tied"]["fpr95_at_threshold"]
    assert other > found["tied"]["fpr95"] + 0.01
    note = "- FPR95 at the first threshold that reaches 0.95, where scores tie: model tied "
    assert table.rstrip().endswith(f"{note}{other:.4f}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sets", "road_anomoly"], "Nearest: road_anomaly"),
        (["--sets", "synthetic_anomaly", "--scores", "mps"], "Nearest: msp"),
        (["--sets", "synthetic_anomaly", "--limit", "0"], "at least 1"),
        (["--root", "/nowhere"], "--root /nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line_and_a_failure(arguments, message, checkpoints, tmp_path, capsys):
    assert main([checkpoints[0], *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_own_folders_below_the_root_are_named(tmp_path):
    root = tmp_path / "all of them"
    for name in ("odd", "two words"):
        own_folder(root / name)
    classes = own_folder(root / "classes")
    (classes / "classes.txt").write_text("ground\nrock\n")
    with pytest.raises(ConfigError) as caught:
        sets_to_measure(None, root)
    assert str(caught.value).endswith(
        f" It holds a folder of your own: --root '{root}/odd' or --root '{root}/two words'."
    )
    with pytest.raises(ConfigError, match=r"No anomaly data set in .*needs none\.$"):
        sets_to_measure(None, root / "odd" / "images")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (
            ["runs/a/best.safetensors", "runs/b/best.safetensors", "org/name"],
            ["a_best", "b_best", "org_name"],
        ),
        (["../runs/own", "../../runs/more", "./.tmp/x"], ["runs_own", "runs_more", "tmp_x"]),
        (["../runs/own", "runs/own"], ["0_runs_runs_own", "1_runs_runs_own"]),
        (["..", ".hidden.safetensors"], ["first", "hidden"]),
        (["runs/own", "/runs/v1.5"], ["runs_own", "v1"]),
    ],
)
def test_names_of_checkpoints_are_distinct_and_visible(sources, expected, tmp_path, monkeypatch):
    (tmp_path / "first" / "second").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "first" / "second")
    named = checkpoint_names(sources)
    assert [name for name, _ in named] == expected
    assert [source for _, source in named] == sources


def test_cityscapes_figures_and_images_lie_beside_the_run(checkpoints, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for index in range(2):
        stem = f"town_{index:06d}_000019"
        image = rng.integers(0, 255, (64, 128, 3), dtype=np.uint8)
        labels = np.repeat(np.repeat(rng.choice([7, 11, 23, 24, 26], (4, 8)), 16, 0), 16, 1)
        instances = np.where(labels >= 24, labels * 1000, labels)
        place = tmp_path / "gtFine" / "val" / "town" / stem
        for path, values in (
            (tmp_path / "leftImg8bit" / "val" / "town" / f"{stem}_leftImg8bit.png", image),
            (place.with_name(f"{stem}_gtFine_labelIds.png"), labels.astype(np.uint8)),
            (place.with_name(f"{stem}_gtFine_instanceIds.png"), instances.astype(np.uint16)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    command = [checkpoints[0], "--data", f"cityscapes={tmp_path}", "--device", "cpu"]
    out = tmp_path / "out"
    assert evaluate.main([*command, "--out", str(out)]) == 0
    assert "category_iiou" in capsys.readouterr().out
    found = json.loads((out / "evaluation.json").read_text())
    images, name, split = open_labelled(str(tmp_path))
    assert (name, split) == ("cityscapes", "val")
    predictor = Predictor(load_model(checkpoints[0], device="cpu"), "cpu", "float32")
    direct = CityscapesEvaluator()
    for index in range(2):
        semantic = predictor(images.arrays(index)[0]).semantic
        direct.update(semantic, images.label_ids(index), images.instance_ids(index))
    expected = direct.compute()
    for key in ("iou", "iiou", "category_iou", "category_iiou"):
        assert found[key] == pytest.approx(expected[key])
    assert found["recipe"] == "thesis_swin_t_kan"
    assert found["split"] == "val"
    assert (out / "confusion.png").is_file()
    assert len(list((out / "best_and_worst").iterdir())) == 2


def test_a_checkpoint_of_other_classes_is_refused(checkpoints, capsys):
    assert evaluate.main([checkpoints[0], "--data", "synthetic:ade20k"]) == 2
    error = capsys.readouterr().err
    assert "has 19 classes and synthetic:ade20k has 150" in error
    assert "only synthetic:ade20k has floor, tree, ceiling, bed, windowpane and 132 more" in error
