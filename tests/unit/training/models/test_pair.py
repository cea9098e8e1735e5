"""One trunk, two heads: what is shared, what is equal, and what a stopped joint run becomes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mask2kan import load_model
from mask2kan.checkpoints import save_again, save_model, save_pair
from mask2kan.errors import CheckpointError, ConfigError
from mask2kan.inference.comparison import TrunkHashes
from mask2kan.modeling.classes import CITYSCAPES
from mask2kan.modeling.transformer_decoder import TransformerDecoder
from tests.tiny_runs import QUICK, SMALL_BACKBONES, SMALL_DECODERS
from training.config.recipes import recipe
from training.config.train_config import override
from training.data import open_split
from training.data.augmentation import OUTLIER
from training.engine.trainer import Trainer
from training.models.build import build_model
from training.models.pair import HeadPair, load_pair, members

SETTINGS = [
    *(one for one in QUICK if not one.startswith("data=")),
    *SMALL_DECODERS,
    *SMALL_BACKBONES["mobilenetv2"],
    "data=2 synthetic:cityscapes + 1 synthetic",
    "grid_update_steps=(1, 3)",
    "warmup_steps=1",
    "outliers.source=procedural",
    "outliers.probability=0.5",
]


def _trainer(folder, *settings, name="road_pair", **options):
    config = override(recipe(name), [*SETTINGS, *settings])
    trainer = Trainer(config, folder, progress=False, **options)
    trainer.run.draw = lambda *_: None
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A joint run of four steps that saved after every second."""
    folder = tmp_path_factory.mktemp("runs") / "pair"
    trainer = _trainer(folder, "save_every=2")
    trainer.fit()
    return folder, trainer


def _equal(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_decoders_start_equal_but_for_the_head():
    config = override(recipe("road_pair"), SETTINGS)
    pair = build_model(config, open_split(config.data, "train"), pretrained=False)
    kan, mlp = members(pair).values()
    assert kan.backbone is mlp.backbone
    assert kan.pixel_decoder is mlp.pixel_decoder
    first, second = (one.transformer_decoder.state_dict() for one in (kan, mlp))
    common = [key for key in first if not key.startswith("mask_embed.")]
    assert common == [key for key in second if not key.startswith("mask_embed.")]
    assert all(torch.equal(first[key], second[key]) for key in common)


def test_each_member_answers_as_the_pair_does(run):
    pair = run[1].average.model
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        together = pair(images)
        for name, model in members(pair).items():
            alone = model(images)
            assert torch.equal(alone["pred_masks"], together[name]["pred_masks"])


def test_the_loss_is_the_mean_of_both(tmp_path):
    trainer = _trainer(tmp_path)
    losses = trainer.objective(next(iter(trainer._batches()))).losses
    shares = []
    for name, head in (("kan", trainer.model.kan), ("mlp", trainer.model.mlp())):
        own = {k.removeprefix(f"{name}/"): v for k, v in losses.items() if k.startswith(name)}
        total = trainer.objective.criterion.total(own, head.transformer_decoder.mask_embed)
        shares.append(total + own["loss_contrastive"])
    torch.testing.assert_close(losses["loss"], sum(shares) / 2)


def test_a_stopped_joint_run_goes_on_bit_for_bit(run, tmp_path):
    first = _trainer(tmp_path / "stopped", "save_every=2")
    update = first._update

    def stop_after_two(batch):
        losses = update(batch)
        first.interrupted = first.step == 2
        return losses

    first._update = stop_after_two
    first.fit()
    assert first.step == 2
    second = _trainer(tmp_path / "stopped", "save_every=2", resume=True)
    second.fit()
    assert second.order == run[1].order
    assert _equal(second.model, run[1].model)
    assert _equal(second.average.model, run[1].average.model)


def test_a_run_ends_after_its_minutes(tmp_path):
    trainer = _trainer(tmp_path, minutes=0.0)
    trainer.fit()
    assert trainer.step == 1
    assert trainer.run.has_state


def test_the_run_folder_holds_two_ordinary_checkpoints_with_one_trunk(run):
    folder = run[0]
    with pytest.raises(CheckpointError, match=r"holds 2 models.*kan or .*mlp"):
        load_model(folder)
    models = [load_model(folder / name, device="cpu") for name in ("kan", "mlp")]
    assert [model.config.mask_embed for model in models] == ["kan", "mlp"]
    assert TrunkHashes.of(models[0]) == TrunkHashes.of(models[1])
    assert all(model.class_names == models[0].class_names for model in models)
    assert isinstance(load_pair(folder), HeadPair)


def test_a_branch_goes_on_from_the_weights_with_a_rate_of_its_own(run, tmp_path):
    folder, parent = run
    settings = (f'branch_of="{folder}"', "lr=5e-4", "warmup_steps=0")
    branch = _trainer(tmp_path, *settings, name="road_pair_end")
    assert branch.step == 0
    assert _equal(branch.model, parent.model)
    assert _equal(branch.average.model, parent.average.model)
    before = parent.optimizer.optimizer.state_dict()["state"]
    after = branch.optimizer.optimizer.state_dict()["state"]
    assert all(torch.equal(before[n]["exp_avg"], after[n]["exp_avg"]) for n in before)
    rates = [group["lr"] for group in branch.optimizer.param_groups]
    assert max(rates) == pytest.approx(1e-3)  # of the splines
    branch.fit()
    assert branch.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    with pytest.raises(ConfigError, match="holds no state"):
        _trainer(tmp_path / "none", f'branch_of="{tmp_path / "gone"}"', name="road_pair_end")


def test_a_pair_keeps_its_trunk_once(run, tmp_path):
    models = members(run[1].average.model)
    save_pair(models, tmp_path, "trunk", torch.float16)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "kan.safetensors",
        "mlp.safetensors",
        "trunk.safetensors",
    ]
    for name, model in models.items():
        save_model(model, tmp_path / "whole.safetensors", torch.float16)
        whole = load_model(tmp_path / "whole.safetensors", device="cpu")
        assert _equal(whole, load_model(tmp_path / f"{name}.safetensors", device="cpu"))
    with pytest.raises(CheckpointError, match="trunk of other checkpoints"):
        load_model(tmp_path / "trunk.safetensors")
    trunk = (tmp_path / "trunk.safetensors").read_bytes()
    (tmp_path / "trunk.safetensors").write_bytes(trunk[:-1] + bytes([trunk[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="sha256 differs"):
        load_model(tmp_path / "kan.safetensors")
    (tmp_path / "trunk.safetensors").unlink()
    with pytest.raises(CheckpointError, match="its trunk trunk.safetensors is not beside it"):
        load_model(tmp_path / "kan.safetensors")


def test_models_of_two_trunks_are_no_pair(run, tmp_path):
    kan, mlp = members(run[1].average.model).values()
    save_model(kan, tmp_path / "kan.safetensors")
    with torch.no_grad():
        next(mlp.pixel_decoder.parameters()).add_(1.0)
        try:
            save_model(mlp, tmp_path / "mlp.safetensors")
        finally:
            next(mlp.pixel_decoder.parameters()).sub_(1.0)
    with pytest.raises(CheckpointError, match="whose pixel_decoder differs"):
        load_pair(tmp_path)


@pytest.mark.parametrize(
    "setting", ["heads=('mlp', 'kan')", "trainable=heads", "model=mask2former_r50"]
)
def test_pairs_that_cannot_be_are_refused(setting):
    with pytest.raises(ConfigError, match="heads|pair"):
        override(recipe("road_pair"), [setting])


def test_the_bundled_pair_can_be_trained_on():
    pair = load_pair("mask2kan_road + mask2former_road")
    assert pair.kan.class_names == tuple(CITYSCAPES)
    assert pair.mlp_config.mask_embed == "mlp"


def test_a_pairs_start_keeps_nothing_that_speaks_of_other_weights():
    assert load_model("mask2kan_road", device="cpu").calibration
    quick = [one for one in SETTINGS if not one.startswith("model.")]
    settings = [*quick, "data=synthetic:cityscapes", "init=mask2kan_road + mask2former_road"]
    config = override(recipe("road_pair"), settings)
    pair = build_model(config, open_split(config.data, "train"), pretrained=False)
    for model in members(pair).values():
        assert (model.calibration, model.settings, model.card) == ({}, None, {})


def test_a_pair_in_the_wrong_order_is_refused():
    with pytest.raises(CheckpointError, match="the KAN model first"):
        load_pair("mask2former_road + mask2kan_road")


def test_models_that_differ_in_more_than_the_head_are_no_pair(run, tmp_path):
    kan, mlp = members(run[1].average.model).values()
    save_model(kan, tmp_path / "kan.safetensors")
    mlp.config = dataclasses.replace(mlp.config, num_queries=mlp.config.num_queries + 1)
    mlp.transformer_decoder = TransformerDecoder(mlp.config)
    save_model(mlp, tmp_path / "mlp.safetensors")
    with pytest.raises(CheckpointError, match="more than mask_embed"):
        load_pair(tmp_path)


def test_a_pair_has_no_part_made_anew():
    config = override(recipe("road_pair"), [*SETTINGS, "init=somewhere", "fresh=('class_embed',)"])
    with pytest.raises(ConfigError, match="a pair starts whole"):
        build_model(config, open_split(config.data, "train"), pretrained=False)


def test_a_branch_decays_as_its_own_recipe_says_and_needs_no_backbone(run, tmp_path):
    settings = (f'branch_of="{run[0]}"', "weight_decay=0.3", "pretrained_backbone=not/here")
    branch = _trainer(tmp_path, *settings, name="road_pair_end")
    assert {group["weight_decay"] for group in branch.optimizer.param_groups} == {0.0, 0.3}


def test_objects_stand_on_the_ground_of_the_models_classes(tmp_path):
    settings = (
        *("data=synthetic:camvid", "init=mask2kan_road + mask2former_road"),
        *("outliers.ground=('road',)", "outliers.probability=1.0"),
    )
    quick = [one for one in SETTINGS if not one.startswith(("data=", "model."))]
    config = override(recipe("road_pair"), [*quick, *settings])
    trainer = Trainer(config, tmp_path, progress=False)
    crops = trainer._crops(0, 20)
    assert sum(OUTLIER in np.unique(crops[n].label) for n in range(20)) > 10


def test_a_head_is_written_again_on_its_own_trunk_only(run, tmp_path):
    models = members(run[1].average.model)
    save_pair(models, tmp_path, "trunk", torch.float16)
    path = tmp_path / "kan.safetensors"
    size = path.stat().st_size
    again = load_model(path, device="cpu")
    again.card = {"said": "later"}
    save_again(again, path, torch.float16)
    assert path.stat().st_size < 1.1 * size
    assert load_model(path, device="cpu").card == {"said": "later"}
    with torch.no_grad():
        next(again.backbone.parameters()).add_(1.0)
    save_again(again, path, torch.float16)
    assert path.stat().st_size > 1.5 * size
    found = load_model(path, device="cpu")
    for name, value in again.state_dict().items():
        assert torch.equal(found.state_dict()[name], value.half().to(value.dtype)) or (
            name.endswith((".grid", ".running_mean", ".running_var", ".num_batches_tracked"))
        ), name
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        save_again(again, path)
