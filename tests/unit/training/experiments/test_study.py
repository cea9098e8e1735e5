"""The study: pairs that differ in the head alone, runs done once, statistics by a worked case."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from scipy import stats

from mask2kan.checkpoints.manifest import WEIGHTS
from mask2kan.errors import ConfigError
from tests.tiny_runs import TINY
from training.evaluation.checkpoint_evaluation import evaluate
from training.experiments.study import HEADS, TUNING_SEED, Plan, Study, head_config
from training.reporting.statistics import holm, mean_of, paired_difference
from training.reporting.study import as_markdown
from training.study import main

MEMBERS = {"kan": "mask2kan", "mlp": "mask2former"}
TRUNKS = {"kan-trained": "mask2kan_road", "mlp-trained": "mask2former_road"}
QUICK = (
    *("steps=2", "batch_size=2", "num_points=32", "eval_pictures=1", "views=1"),
    *("augmentation.crop=(64, 64)", "grid_update_steps=(1,)", "data=synthetic"),
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_runs_of_a_pair_differ_in_the_head_alone():
    plan = Plan("head_only", "camvid", TRUNKS, 2)
    configs = {head: head_config(plan, "mlp-trained", head, 1) for head in HEADS}
    same = [dataclasses.replace(config, name="", model_options={}) for config in configs.values()]
    assert same[0] == same[1] == same[2]
    assert configs["kan"].model_options == {"mask_embed": "kan"}
    assert configs["mlp_equal"].model_options == {"mask_embed": "mlp", "mask_embed_width": 429}
    full = [head_config(dataclasses.replace(plan, mode="full"), "", head, 0) for head in HEADS]
    assert {config.init for config in full} == {""}
    differing = {
        key
        for config in full
        for key, value in config.model_options.items()
        if full[0].model_options.get(key) != value
    }
    assert differing == {"mask_embed", "mask_embed_width"}


def test_means_and_paired_tests_equal_scipy():
    first, second = [0.5, 0.6, 0.55, 0.7], [0.4, 0.62, 0.5, 0.6]
    found = paired_difference(first, second)
    expected = stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.wins, found.losses, found.n) == (3, 1, 4)
    mean = mean_of(first)
    odds = 0.5875 / 0.4125
    interval = stats.t.interval(0.95, 3, math.log(odds), stats.sem(first) / (0.5875 * 0.4125))
    shares = [1 / (1 + math.exp(-value)) for value in interval]
    assert (mean.mean, mean.low, mean.high) == pytest.approx((0.5875, *shares))
    assert math.isnan(mean_of([1.0]).low)


def test_intervals_of_shares_stay_within_their_bounds():
    wide = [0.95, 1.0, 0.3, 0.99, 0.93]  # the plain t interval ends above 1
    mean = mean_of(wide)
    assert stats.t.interval(0.95, 4, np.mean(wide), stats.sem(wide))[1] > 1
    assert 0 < mean.low < mean.mean < mean.high < 1
    narrow = [0.5, 0.501, 0.502]  # far from both ends: the plain t interval
    plain = stats.t.interval(0.95, 2, 0.501, stats.sem(narrow))
    assert (mean_of(narrow).low, mean_of(narrow).high) == pytest.approx(plain, abs=1e-5)
    assert (mean_of([1.0, 1.0]).low, mean_of([1.0, 1.0]).high) == (1.0, 1.0)
    apart = paired_difference([1.0, 0.9, 0.1], [0.0, 0.1, 0.0])
    assert apart.high == 1.0
    assert -1.0 < apart.low < 0
    assert apart.p > 0.05
    assert (paired_difference([0.5, 0.6], [0.5, 0.6]).low, apart.n) == (0.0, 3)


def test_holm_by_hand():
    # sorted: .01 * 4, .02 * 3, .03 * 2, .5 * 1; no value below one before it
    adjusted = holm([0.02, 0.5, 0.01, float("nan"), 0.03])
    assert adjusted[:3] == pytest.approx([0.06, 0.5, 0.04])
    assert math.isnan(adjusted[3])
    assert adjusted[4] == pytest.approx(0.06)


def test_a_study_runs_each_pair_once_and_goes_on_where_it_was(tmp_path, monkeypatch):
    trained, measured = [], []

    def quick_training(self, config, trunk, folder):
        trained.append(config)
        folder.mkdir(parents=True)
        (folder / "last.safetensors").write_bytes(b"weights")
        (folder / "state.pt").write_bytes(b"state")
        return 0.5 + config.lr  # the largest rate looks best

    def quick_measurement(self, weights):
        measured.append(sorted(weights))
        return {
            head: {"head_parameters": len(head), "miou": 0.5, "x/msp/fpr95": 0.1 * len(head)}
            for head in weights
        }

    monkeypatch.setattr(Study, "_train", quick_training)
    monkeypatch.setattr(Study, "_measure", quick_measurement)
    plan = Plan(
        *("head_only", "synthetic", TRUNKS, 1, QUICK),
        rates=(1e-2, 1e-3),
        tuning_steps=1,
        anomalies=("synthetic_anomaly",),
    )
    content = Study(plan, tmp_path).run()
    tuning = [config for config in trained if config.seed == TUNING_SEED]
    assert len(tuning) == 12  # two rates, three heads, two trunks
    assert len(trained) == 12 + 6
    assert measured == [sorted(HEADS)] * 2
    assert {config.lr for config in trained if config not in tuning} == {1e-2}
    (tmp_path / "kan-trained" / "mlp" / "seed_0" / "result.json").unlink()
    trained.clear()
    again = Study(plan, tmp_path).run()
    assert not trained  # its weights are there; only the measurement is repeated
    assert measured[2:] == [["mlp"]]
    assert again["results"] == content["results"]
    files = {path.name for path in tmp_path.iterdir()}
    assert {"study.json", "study.md", "study.png", "plan.json"} <= files
    with pytest.raises(ConfigError, match="holds results with seeds = 1, now it is 2"):
        Study(dataclasses.replace(plan, seeds=2), tmp_path)


def test_a_run_leaves_the_process_s_accelerate_state_alone(tmp_path):
    before = Accelerator()
    settings = [one for one in TINY if not one.startswith(("data=", "grid_update"))]
    plan = Plan("full", "synthetic", {"": ""}, 1, (*settings, "steps=1"), anomalies=())
    study = Study(plan, tmp_path)
    for head in ("kan", "mlp"):
        study._train(head_config(plan, "", head, 0), "", tmp_path / head)
        assert (tmp_path / head / "last.safetensors").is_file()
    assert before.mixed_precision == "no"  # of the state that all accelerators of a process share


@pytest.mark.slow
def test_heads_share_what_a_trunk_makes_of_the_crops(tmp_path):
    plan = Plan(
        *("head_only", "synthetic", {"one": "mask2former_road"}, 1, QUICK),
        anomalies=("synthetic_anomaly",),
        limit=1,
    )
    study = Study(plan, tmp_path)
    content = study.run()
    assert [one["head"] for one in content["results"]] == list(HEADS)
    assert study._shared is not None
    cache = study._shared[1]
    assert cache.misses == 4  # two steps of two crops; three heads


@pytest.mark.slow
def test_full_training_is_studied_too(tmp_path):
    settings = [one for one in TINY if not one.startswith(("data=", "grid_update"))]
    plan = Plan(
        *("full", "synthetic", {"": ""}, 2, (*settings, "steps=1")),
        anomalies=("synthetic_anomaly",),
        limit=1,
    )
    content = Study(plan, tmp_path).run()
    sizes = {one["head"]: one["head_parameters"] for one in content["results"]}
    assert sizes["mlp_equal"] == pytest.approx(sizes["kan"], rel=0.02)
    assert sizes["mlp"] < sizes["kan"] / 3
    assert len(content["results"]) == 6
    assert "synthetic_anomaly/msp/ap" in content["results"][0]["metrics"]
    assert "### full training" in (tmp_path / "study.md").read_text()


def rows_of(text, *starts):
    """The other cells of a Markdown table's rows that begin with these."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [row[len(starts) :] for row in rows if row[: len(starts)] == list(starts)]


def test_the_report_says_who_is_better_the_right_way_round():
    results = [
        {
            "trunk": "t",
            "head": head,
            "seed": seed,
            "head_parameters": 10,
            "metrics": {
                "miou": 0.5 + (0.1 + 0.01 * seed) * (head == "kan"),
                "d/msp/fpr95": 0.4 - (0.1 + 0.01 * seed) * (head == "kan"),
                "d/rba/ap": 0.3,
                "d/rba/fpr95": 1.0,
            },
        }
        for head in HEADS
        for seed in range(3)
    ]
    rates = [{"trunk": "t", "head": head, "lr": 1e-3} for head in HEADS]
    text = as_markdown({"results": results, "learning_rates": rates})
    adjusted, other = text.split("### The other scores, p unadjusted")
    first, second = rows_of(adjusted, "t", "MLP")
    assert first[:2] + first[-1:] == ["test mIoU ↑", "+0.1100", "3 of 3"]
    assert second[:2] + second[-1:] == ["d msp FPR95 ↓", "-0.1100", "3 of 3"]
    assert "p (Holm)" in adjusted
    assert "d rba AP ↑" in other
    ties = [row for name in ("MLP", "MLP, equal size") for row in rows_of(other, "t", name)]
    assert len(ties) == 4
    assert all(row[-1] == "0 of 3" for row in ties)  # equal is not better


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trunks", "one"], "is not NAME=CHECKPOINT"),
        (["--seeds", "0"], "must be a number of at least 1"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--data", "synthetic", "--anomalies", "camvid_anomly"], "camvid_anomly"),
        (["--data", "synthetic", "--anomalies", "--split", "tset"], "tset"),
        (["--data", "synthetic", "--limit", "-1"], "--limit is -1"),
        (["--data", "synthetic", "--tuning-steps", "0"], "--tuning-steps is 0"),
        (["--data", "synthetic", "--rates", "-1"], "--rates is -1.0"),
        (["--threads", "-1"], "--threads is -1"),
        (
            ["--rates", "--trunks", "a=/nowhere.safetensors", "--data", "synthetic", "--anomalies"],
            "/no",
        ),
    ],
)
def test_bad_input_is_one_line_and_a_failure(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_a_damaged_plan_is_named(tmp_path, capsys):
    (tmp_path / "plan.json").write_text("{")
    command = ["--data", "synthetic", "--anomalies", "synthetic_anomaly", "--out", str(tmp_path)]
    assert main(command) == 2
    assert "plan.json is damaged" in capsys.readouterr().err


def test_finer_models_are_measured_in_the_classes_of_the_data(tmp_path):
    settings = tuple(one for one in QUICK if not one.startswith(("data=", "eval_pictures")))
    plan = Plan("head_only", "synthetic:camvid", TRUNKS, 1, settings, anomalies=())
    weights = {head: WEIGHTS / f"{name}_road.safetensors" for head, name in MEMBERS.items()}
    study = Study(plan, tmp_path)
    found = study._measure(weights)
    for head, path in weights.items():
        expected = evaluate(str(path), "synthetic:camvid", device="cpu")
        assert found[head]["miou"] == pytest.approx(expected["miou"], abs=1e-6)
        assert found[head]["miou"] > 0.02
