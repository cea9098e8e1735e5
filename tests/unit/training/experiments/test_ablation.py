"""The ablation of Table 3.6 on few images and small networks."""

from __future__ import annotations

import dataclasses
import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.special import expit, logit

from mask2kan.errors import ConfigError, NumericsError
from training import ablation
from training.evaluation.job_folder import JobFolder
from training.experiments.kan_ablation import classifier, runner
from training.experiments.kan_ablation.classifier import KANClassifier, Protocol
from training.experiments.kan_ablation.digits import (
    MNIST_FILES,
    Digits,
    load,
    read_idx,
    scikit_digits,
)
from training.experiments.kan_ablation.experiments import EXPERIMENTS, choose
from training.experiments.kan_ablation.report import summarize
from training.experiments.published import ABLATION

TINY = Protocol(epochs=2, batch_size=64, width=8)


@pytest.fixture(scope="module")
def digits() -> Digits:
    whole = scikit_digits()
    return dataclasses.replace(whole, pixels=whole.pixels[:400], labels=whole.labels[:400])


def write_mnist(folder: Path, *, packed: bool) -> dict[str, np.ndarray]:
    """Six images of each digit for training and for testing, 4x5 pixels."""
    rng = np.random.default_rng(0)
    written = {}
    for part, (images, labels) in MNIST_FILES.items():
        pixels = rng.integers(0, 256, (60, 4, 5), dtype=np.uint8)
        classes = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 6))
        save_idx(folder / images, pixels, packed=packed)
        save_idx(folder / labels, classes, packed=packed)
        written[part] = pixels
        written[f"{part} labels"] = classes
    return written


def save_idx(path: Path, values: np.ndarray, *, packed: bool = False) -> None:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    content = head + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def test_splits_are_apart_complete_stratified_and_repeatable() -> None:
    whole = scikit_digits()
    split, again, other = whole.split(3), whole.split(3), whole.split(4)
    assert [len(part) for part in (split.train, split.val, split.test)] == [1078, 359, 360]
    rows = np.concatenate([split.train, split.val, split.test])
    assert sorted(rows.tolist()) == list(range(1797))
    for part in (split.train, split.val, split.test):
        shares = np.bincount(whole.labels[part]) / len(part)
        assert np.abs(shares - np.bincount(whole.labels) / 1797).max() < 1.5 / len(part)
    np.testing.assert_array_equal(split.test, again.test)
    assert set(split.test.tolist()) != set(other.test.tolist())


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_and_keeps_its_test_set(tmp_path: Path, packed: bool) -> None:
    written = write_mnist(tmp_path, packed=packed)
    found = load("mnist", tmp_path)
    np.testing.assert_array_equal(found.pixels[:60], written["train"].reshape(60, 20))
    np.testing.assert_array_equal(found.pixels[60:], written["test"].reshape(60, 20))
    np.testing.assert_array_equal(found.labels[60:], written["test labels"])
    for seed in (0, 1):
        split = found.split(seed)
        assert split.test.tolist() == list(range(60, 120))
        assert (len(split.train), len(split.val)) == (50, 10)
        assert sorted(found.labels[split.val].tolist()) == list(range(10))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def other_kind(path: Path) -> None:
    path.write_bytes(b"\x89PNG" + path.read_bytes()[4:])


def header_alone(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


def one_short(path: Path) -> None:
    save_idx(path, np.zeros((59, 4, 5), np.uint8))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-images-idx3-ubyte", cut, "cut short"),
        ("train-images-idx3-ubyte", other_kind, "begins with the bytes 89 50 4e 47"),
        ("train-images-idx3-ubyte", header_alone, "cut short within its header"),
        ("train-images-idx3-ubyte", one_short, "holds 59 images"),
        ("t10k-labels-idx1-ubyte", Path.unlink, "neither t10k-labels-idx1-ubyte nor"),
        (
            "t10k-labels-idx1-ubyte",
            lambda path: save_idx(path, np.full(60, 10, np.uint8)),
            "holds the label 10",
        ),
        (
            "t10k-labels-idx1-ubyte",
            lambda path: save_idx(path, np.zeros(60, np.uint8)),
            "only 0 images of the digit 1",
        ),
        (
            "t10k-images-idx3-ubyte",
            lambda path: save_idx(path, np.zeros((60, 4, 4), np.uint8)),
            "have 20 pixels, the test images 16",
        ),
    ],
)
def test_faults_of_mnist_are_named(
    tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    write_mnist(tmp_path, packed=False)
    damage(tmp_path / name)
    with pytest.raises(ConfigError, match=message):
        load("mnist", tmp_path)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    save_idx(tmp_path / "labels", np.zeros(500, np.uint8), packed=True)
    path = tmp_path / "labels.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match="Cannot read .*labels.gz"):
        read_idx(path, 1)


def test_experiments_differ_from_the_default_in_what_they_name() -> None:
    assert list(EXPERIMENTS) == list(ABLATION)
    default = dataclasses.asdict(EXPERIMENTS["default"])
    changed = {
        name: {k: v for k, v in dataclasses.asdict(one).items() if v != default[k]}
        for name, one in EXPERIMENTS.items()
    }
    for one in changed.values():
        one.pop("name", None)
        one.pop("title", None)
    assert changed == {
        "default": {},
        "grid_3": {"grid_size": 3},
        "grid_7": {"grid_size": 7},
        "order_2": {"spline_order": 2},
        "order_4": {"spline_order": 4},
        "no_spline_scaler": {"spline_scaler": False},
        "relu": {"base_activation": "relu"},
        "no_regularization": {"regularized": False},
        "no_grid_update": {"grid_updated": False},
    }
    assert [one.name for one in choose(["relu"])] == ["default", "relu"]


def test_the_network_is_the_mask_head_inside_a_classifier() -> None:
    for experiment in EXPERIMENTS.values():
        model = KANClassifier(64, 16, experiment)
        assert model(torch.rand(3, 64)).shape == (3, 10)
        first = model.mask_embed.layers[0]
        assert (first.grid_size, first.spline_order) == (
            experiment.grid_size,
            experiment.spline_order,
        )
        assert first.base_activation == experiment.base_activation
        assert hasattr(first, "spline_scaler") == experiment.spline_scaler
    sizes = sum(p.numel() for p in KANClassifier(64, 256, EXPERIMENTS["default"]).parameters())
    assert sizes == 1_310_720 + 64 * 256 + 256 + 2 * 256 + 2570


def test_grid_updates_and_regularization_do_what_they_say(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[KANClassifier] = []

    class Kept(KANClassifier):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            kept.append(self)

    monkeypatch.setattr(classifier, "KANClassifier", Kept)
    strong = dataclasses.replace(TINY, regularization=1.0, epochs=6)
    for name in ("default", "no_grid_update", "no_regularization"):
        classifier.train(EXPERIMENTS[name], digits, 0, strong)
    moved, still, free = (model.mask_embed for model in kept)
    uniform = torch.linspace(-2.2, 2.2, 12).expand(8, -1)  # step 0.4, three beyond either end
    for layer in still.layers:
        torch.testing.assert_close(layer.grid, uniform)
    for layer in moved.layers:
        assert (layer.grid - uniform).abs().max() > 0.1
    assert moved.regularization_loss() < 0.95 * free.regularization_loss()


def test_a_run_repeats_and_learns(digits: Digits) -> None:
    longer = dataclasses.replace(TINY, epochs=10, width=16, learning_rate=3e-2)
    first, again = (classifier.train(EXPERIMENTS["default"], digits, 0, longer) for _ in range(2))
    first.pop("seconds"), again.pop("seconds")
    assert first == again
    assert first["test_accuracy"] > 0.7  # chance is 0.1
    assert classifier.train(EXPERIMENTS["default"], digits, 1, longer) != first


def test_a_diverging_run_says_so(digits: Digits) -> None:
    with pytest.raises(NumericsError, match="loss of no_grid_update, seed 0, is .* lower --lr"):
        classifier.train(
            EXPERIMENTS["no_grid_update"], digits, 0, dataclasses.replace(TINY, learning_rate=1e30)
        )


def command(out: Path, *more: str) -> list[str]:
    return ["--out", str(out), "--seeds", "2", "--epochs", "1", "--workers", "1", *more]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, digits: Digits) -> list[tuple[str, int]]:
    """The command on few images and narrow networks; the runs it really trains."""
    trained: list[tuple[str, int]] = []

    def train(experiment: object, data: Digits, seed: int, protocol: Protocol) -> object:
        trained.append((experiment.name, seed))
        return classifier.train(experiment, data, seed, dataclasses.replace(protocol, width=8))

    monkeypatch.setattr(runner, "train", train)
    monkeypatch.setattr(runner, "load", lambda name, root: digits)
    return trained


def test_the_command_writes_its_report_and_continues(
    tmp_path: Path, small: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main(command(tmp_path, "--experiments", "relu")) == 0
    assert small == [("default", 0), ("relu", 0), ("default", 1), ("relu", 1)]
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "ablation.md").read_text().strip()
    content = json.loads((tmp_path / "ablation.json").read_text())
    assert [one["experiment"] for one in content["summary"]] == ["default", "relu"]
    assert content["provenance"]["commit"]
    assert content["provenance"]["versions"]["scikit-learn"]
    assert content["settings"]["protocol"]["epochs"] == 1
    image = np.asarray(Image.open(tmp_path / "ablation.png").convert("RGB"))
    assert (image[0, 0] == 255).all()
    assert image.std() > 10

    # one run is missing, an experiment is new: only these are trained
    (tmp_path / "runs" / "relu_1.json").unlink()
    small.clear()
    assert ablation.main(command(tmp_path, "--experiments", "relu", "order_2")) == 0
    assert small == [("order_2", 0), ("order_2", 1), ("relu", 1)]
    again = json.loads((tmp_path / "ablation.json").read_text())
    before = {(r["experiment"], r["seed"]): r["test_accuracy"] for r in content["runs"]}
    after = {(r["experiment"], r["seed"]): r["test_accuracy"] for r in again["runs"]}
    assert before.items() <= after.items()
    assert len(after) == 6


def test_other_settings_and_damaged_results_are_refused(
    tmp_path: Path, small: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(tmp_path, "--experiments", "relu")
    assert ablation.main(arguments) == 0
    capsys.readouterr()
    assert ablation.main([*arguments, "--lr", "0.01"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(
        f"error: {tmp_path} holds results with protocol.learning_rate = 0.001"
    )
    run = tmp_path / "runs" / "relu_0.json"
    good = run.read_text()
    for text, said in (
        ("{", "is damaged"),
        ("[]", "not a JSON object"),
        (good.replace('"relu"', '"order_2"'), "holds the run 'order_2'"),
        (good.replace('"val_accuracy"', '"other"'), "no number 'val_accuracy'"),
    ):
        run.write_text(text)
        assert ablation.main(arguments) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("error: ")
        assert said in message
        assert str(run) in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digit"], "Nearest: digits"),
        (["--data", "mnist"], "pass --root"),
        (["--data", "mnist", "--root", "nowhere"], "No MNIST in nowhere"),
        (["--root", "somewhere"], "digits comes with scikit-learn"),
        (["--experiments", "grid_4"], "Unknown experiment 'grid_4'"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--lr", "nan"], "--lr is nan"),
        (["--regularization", "-1"], "--regularization is -1.0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablation.main(["--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        ablation.main(["--help"])
    assert stopped.value.code == 0
    assert "python -m training.ablation" in capsys.readouterr().out


def runs_of(**values: list[float]) -> list[dict[str, object]]:
    return [
        {"experiment": name, "seed": seed, "test_accuracy": accuracy}
        for name, accuracies in values.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def test_the_summary_is_scipys_paired_test() -> None:
    default, relu, order = (
        [0.97, 0.96, 0.98, 0.95, 0.97],
        [0.98, 0.975, 0.985, 0.97, 0.975],
        [0.96, 0.97, 0.98, 0.955, 0.965],
    )
    summary = summarize(runs_of(default=default, order_2=order, relu=relu)[::-1])
    assert [one["experiment"] for one in summary] == ["default", "order_2", "relu"]
    p = {}
    for one, values in zip(summary, (default, order, relu), strict=True):
        odds, slope = (f(np.mean(values)) for f in (logit, lambda mean: mean * (1 - mean)))
        interval = expit(stats.t.interval(0.95, 4, odds, stats.sem(values) / slope))
        assert (one["low"], one["high"]) == pytest.approx(tuple(interval))
        assert one["mean"] == pytest.approx(np.mean(values))
        assert one["std"] == pytest.approx(np.std(values, ddof=1))
        assert one["published"] == ABLATION[one["experiment"]]
        if one["experiment"] == "default":
            assert one["difference"] is one["p"] is one["p_holm"] is None
            continue
        paired = stats.ttest_rel(values, default)
        ends = paired.confidence_interval(0.95)
        assert one["p"] == pytest.approx(paired.pvalue)
        assert (one["difference_low"], one["difference_high"]) == pytest.approx(
            (ends.low, ends.high)
        )
        p[one["experiment"]] = one["p"]
    # Holm with two: the smaller p doubles, the larger stays but not below it
    assert p["relu"] < p["order_2"]
    assert summary[2]["p_holm"] == pytest.approx(2 * p["relu"])
    assert summary[1]["p_holm"] == pytest.approx(max(2 * p["relu"], p["order_2"]))


def test_one_seed_has_no_interval() -> None:
    summary = summarize(runs_of(default=[0.9], relu=[0.95]))
    assert summary[1]["difference"] == pytest.approx(0.05)
    assert all(summary[1][name] is None for name in ("std", "low", "difference_low", "p"))


@pytest.mark.slow
def test_several_workers_find_the_same(tmp_path: Path, digits: Digits) -> None:
    chosen = choose(["relu"])
    found = [
        runner.run_all(
            *(chosen, [0, 1], digits, TINY),
            folder=JobFolder(tmp_path / str(count), {}),
            workers=count,
        )
        for count in (1, 2)
    ]
    for one, other in zip(*found, strict=True):
        one.pop("seconds"), other.pop("seconds")
        assert one == other
