"""Recipes, their overrides, and what the optimizer makes of them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from mask2kan import create_model, load_model
from mask2kan.errors import ConfigError
from mask2kan.modeling.kan.layers import KAN
from tests.tiny_runs import reduced, tiny_trainer
from training.config.recipes import RECIPES, recipe
from training.config.train_config import override
from training.engine.batch_norm import reestimate_statistics
from training.engine.optimizer import build_optimizer, build_schedule, parameter_groups, rate_factor
from training.engine.trainer import Trainer


def test_the_pair_differs_only_in_the_mask_head():
    kan, mlp = recipe("camvid_kan"), recipe("camvid_mlp")
    assert kan.model_options["mask_embed"] == "kan"
    assert mlp.model_options["mask_embed"] == "mlp"
    same = dataclasses.replace(
        kan,
        name=mlp.name,
        model=mlp.model,
        model_options={**kan.model_options, "mask_embed": "mlp"},
    )
    assert same == mlp
    configs = [create_model(config.model, **config.model_options).config for config in (kan, mlp)]
    assert dataclasses.replace(configs[0], mask_embed="mlp") == configs[1]


@pytest.mark.parametrize("name", ["camvid_kan", "camvid_mlp"])
def test_a_float16_checkpoint_stays_under_eight_megabytes(name):
    config = recipe(name)
    state = create_model(config.model, **config.model_options).state_dict()
    assert sum(value.numel() for value in state.values()) * 2 < 8e6


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_configuration_is_json(name):
    assert json.loads(json.dumps(recipe(name).to_dict()))["name"] == name


def test_an_unknown_recipe_lists_the_nearest():
    with pytest.raises(ConfigError, match="Nearest: camvid_kan"):
        recipe("camvid_can")


def test_overrides():
    config = override(
        recipe("camvid_kan"),
        [
            "lr=1",
            "model.num_queries=7",
            "augmentation.crop=(64, 96)",
            "train_batch_norm=false",
            "grid_update_steps=()",
            "data=some/folder",
        ],
    )
    assert config.lr == 1.0
    assert config.model_options["num_queries"] == 7
    assert config.augmentation.crop == (64, 96)
    assert config.train_batch_norm is False
    assert config.grid_update_steps == ()
    assert config.data == "some/folder"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr", "no '='"),
        ("learning=1", "Unknown setting"),
        ("augmentation.crap=(1, 2)", "Unknown setting 'crap'. Nearest: crop"),
        ("lr=fast", "expected float"),
        ("steps=0", "at least 1"),
        ("augmentation.crop=(8, 8)", "at least 32"),
        ("average_decay=1.0", "of at least 0 and less than 1"),
        ("seed=-1", r"seed is -1; it must be a number from 0 to 4294967295"),
        ("lr=-1.0", "lr is -1.0; it must be a number greater than 0"),
        ("lr=1e400", "lr is inf"),
        ("clip_norm=0", "clip_norm is 0.0; it must be a number greater than 0"),
        ("weight_decay=-1", "weight_decay is -1.0; it must be a number of at least 0"),
        ("grid_update_steps=('a',)", "grid_update_steps is .*expected"),
        ("augmentation.crop=(64,)", "expected 2 finite numbers"),
        ("augmentation.crop=('a', 'b')", "expected the form of"),
        ("augmentation.crop=(64.5, 64)", "expected the form of"),
        ("augmentation.scale=(0.5,)", "expected 2 finite numbers"),
        (
            "augmentation.colour=-3.0",
            "augmentation.colour is -3.0; it must be a number from 0 to 1",
        ),
        ("augmentation.flip=7", r"augmentation.flip is 7.0"),
        ("outliers.scale=(1,)", "expected 2 finite numbers"),
        (
            "outliers.probability=2",
            "outliers.probability is 2.0; it must be a number from 0 to 1",
        ),
        ("model.num_queries=abc", "model.num_queries is 'abc'"),
    ],
)
def test_wrong_overrides_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(recipe("camvid_kan"), [setting])


def _tiny():
    return create_model(
        "mask2kan_mobilenetv2", hidden_dim=32, num_queries=5, backbone_width=8, num_classes=4
    )


def test_every_parameter_is_in_exactly_one_group():
    model = _tiny()
    groups = parameter_groups(model, lr=1.0, backbone_factor=0.1, weight_decay=0.05)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    where = {id(p): group for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        group = where[id(parameter)]
        assert group["lr"] == (0.1 if name.startswith("backbone.") else 1.0)
    decay = {name: where[id(p)]["weight_decay"] for name, p in model.named_parameters()}
    assert decay["transformer_decoder.query_feat.weight"] == 0.0
    assert decay["transformer_decoder.decoder_norm.weight"] == 0.0
    assert decay["pixel_decoder.level_embed"] == 0.05
    assert decay["transformer_decoder.level_embed.weight"] == 0.0
    assert decay["backbone.bn1.weight"] == 0.0
    assert decay["backbone.conv_stem.weight"] == 0.05
    assert decay["transformer_decoder.mask_embed.layers.0.spline_weight"] == 0.05
    assert decay["transformer_decoder.class_embed.weight"] == 0.05


def test_relative_position_tables_do_not_decay_and_frozen_parameters_are_left_out():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.relative_position_bias_table = nn.Parameter(torch.zeros(3, 2))
            self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)

    groups = parameter_groups(Attention(), lr=1.0, backbone_factor=0.1, weight_decay=0.05)
    assert len(groups) == 1
    assert groups[0]["weight_decay"] == 0.0
    assert len(groups[0]["params"]) == 1


def test_the_schedule_warms_up_and_ends_at_zero():
    factors = [rate_factor("poly", n, steps=100, warmup_steps=10) for n in range(101)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5**0.9)
    assert factors[100] == 0.0
    optimizer = build_optimizer(_tiny(), lr=1e-3, backbone_factor=0.1, weight_decay=0.05)
    schedule = build_schedule(optimizer, "poly", steps=100, warmup_steps=10)
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([1e-4, 1e-3])


def test_new_statistics_leave_the_function_and_normalise_in_training():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    )
    model[1].weight.data.uniform_(0.5, 2)
    model[1].bias.data.normal_()
    data = [3 * torch.randn(4, 3, 16, 16) + 1 for _ in range(3)]
    model.eval()
    before = [model(x) for x in data]
    assert reestimate_statistics(model, data) == 2
    assert not model.training
    for x, expected in zip(data, before, strict=True):
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    inputs = model[0](torch.cat(data))
    torch.testing.assert_close(model[1].running_mean, inputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        model[1].running_var, inputs.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-4
    )
    # The data it was measured on now gives the same output with batch statistics.
    torch.testing.assert_close(
        model.train()(torch.cat(data)), torch.cat(before), rtol=1e-3, atol=1e-3
    )


def test_the_thesis_recipe_is_section_3_2():
    config = recipe("thesis_swin_t_kan")
    assert (config.batch_size, config.steps, config.lr) == (8, 90_000, 1e-4)
    assert (config.weight_decay, config.trainable) == (0.05, "frozen_backbone")
    assert config.augmentation.crop == (340, 680)
    assert config.augmentation.scale == (0.1, 2.0)
    assert config.model_options["num_decoder_layers"] == 1
    assert recipe("thesis_swin_t_kan_9").model_options["num_decoder_layers"] == 9
    assert (config.contrastive_weight, config.contrastive_margin) == (1.0, 1.0)
    mlp = recipe("thesis_swin_t_mlp")
    assert mlp.model == "mask2former_swin_t"
    assert dataclasses.replace(mlp, name="", model="", model_options={}) == dataclasses.replace(
        config, name="", model="", model_options={}
    )


def test_mask2anomaly_s_second_stage_starts_from_the_first_and_pastes_coco():
    config = recipe("mask2anomaly_r50_stage2")
    assert config.init == "runs/mask2anomaly_r50_stage1/last.safetensors"
    assert (config.lr, config.batch_size, config.steps) == (1e-5, 8, 5000)
    assert config.outliers.active
    assert config.outliers.probability == 0.2
    assert not recipe("mask2anomaly_r50_stage1").outliers.active


def _two_steps(name, folder):
    settings = reduced(name)
    if "stage2" in name:
        first = name.replace("stage2", "stage1")
        _two_steps(first, folder / "stage1")
        settings += [f"init={folder / 'stage1' / 'last.safetensors'}"]
        settings += ["outliers.source=procedural", "outliers.probability=1.0"]
    config = override(recipe(name), settings)
    trainer = Trainer(config, folder, progress=False)
    trainer.fit()
    assert trainer.step == 2
    loaded = load_model(folder / "last.safetensors", device="cpu")
    assert loaded.card["recipe"] == name
    family = config.model.partition("_")[0]
    assert loaded.config.family == family or config.init
    return trainer


@pytest.mark.parametrize("name", ["thesis_r50_kan", "mask2anomaly_swin_t_stage2"])
def test_a_recipe_runs(name, tmp_path):
    _two_steps(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_runs(name, tmp_path):
    _two_steps(name, tmp_path)


def test_a_frozen_backbone_stays(tmp_path):
    trainer = Trainer(
        override(recipe("thesis_r50_mlp"), [*reduced("thesis_r50_mlp"), "steps=1"]),
        tmp_path,
        progress=False,
    )
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.fit()
    changed = {k for k, v in trainer.model.state_dict().items() if not torch.equal(v, before[k])}
    assert any(key.startswith("transformer_decoder.") for key in changed)
    assert any(key.startswith("pixel_decoder.") for key in changed)
    assert not any(key.startswith("backbone.") for key in changed)


def test_kan_is_what_the_recipe_builds():
    config = recipe("camvid_kan")
    model = create_model(config.model, **{**config.model_options, "hidden_dim": 32})
    assert isinstance(model.transformer_decoder.mask_embed, KAN)


def test_frozen_batch_norm_is_neither_measured_nor_learnt(tmp_path):
    trainer = tiny_trainer(tmp_path, "steps=1", "train_batch_norm=false")
    norms = [m for m in trainer.model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [{k: v.clone() for k, v in norm.state_dict().items()} for norm in norms]
    trainer.fit()
    assert norms
    for norm, known in zip(norms, before, strict=True):
        assert all(torch.equal(value, known[key]) for key, value in norm.state_dict().items())


def test_a_constant_rate_stays_and_a_falling_one_ends_at_nothing():
    constant = [rate_factor("constant", n, steps=100, warmup_steps=10) for n in (9, 10, 99, 500)]
    assert constant == [10 / 11, 1.0, 1.0, 1.0]
    falling = [rate_factor("falling", n, steps=100, warmup_steps=0) for n in (0, 25, 100)]
    assert falling == [1.0, 0.75, 0.0]


def test_splines_learn_at_a_rate_and_decay_of_their_own():
    model = create_model("mask2kan_mobilenetv2", hidden_dim=32, num_heads=4)
    options = {"lr": 1.0, "backbone_factor": 0.1, "weight_decay": 0.05}
    plain = parameter_groups(model, **options)
    assert not any(group["name"].startswith("splines") for group in plain)
    groups = parameter_groups(model, **options, spline_factor=2.0, decay_splines=False)
    (splines,) = [group for group in groups if group["name"] == "splines_undecayed"]
    assert (splines["lr"], splines["weight_decay"]) == (2.0, 0.0)
    assert len(splines["params"]) == 4  # weights and scalers of two layers
    count = sum(len(group["params"]) for group in groups)
    assert count == sum(len(group["params"]) for group in plain)
