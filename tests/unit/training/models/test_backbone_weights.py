"""ImageNet weights of a new backbone: the recipe's file, timm's repository, or one sentence."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from mask2kan.errors import ConfigError
from tests.fake_hub import FakeHub
from tests.tiny_runs import SMALL_DECODERS
from training.config.recipes import recipe
from training.config.train_config import TrainConfig, override
from training.data import folders, open_split
from training.models.backbone_weights import FILES, with_weights_found
from training.models.build import build_model
from training.reporting.run_card import describe_run

REPOSITORIES = {
    "camvid_kan": "timm/mobilenetv2_100.ra_in1k",
    "road_pair": "timm/tf_efficientnet_lite0.in1k",
}


@pytest.fixture(autouse=True)
def _nothing_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_REPOSITORY", tmp_path / "repository")
    monkeypatch.delenv("MASK2KAN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def small(name: str, *settings: str) -> TrainConfig:
    return override(recipe(name), [*SMALL_DECODERS, "data=synthetic:cityscapes", *settings])


def build(config: TrainConfig):
    config = with_weights_found(config)
    return build_model(config, open_split(config.data, "train"), pretrained=True)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_timm_s_weights_are_fetched_and_named(tmp_path, caplog, name):
    repo = REPOSITORIES[name]
    torch.manual_seed(3)
    source = timm.create_model(repo.removeprefix("timm/"), pretrained=False).state_dict()
    (tmp_path / "timm").mkdir()
    save_file(source, tmp_path / "timm" / "model.safetensors")
    config = small(name, "heads=none")
    with FakeHub({repo: tmp_path / "timm"}) as hub, hub.attach(tmp_path / "cache"):
        with caplog.at_level(logging.INFO):
            model = build(config)
        assert repo in caplog.text
        hub.down = True
        build(config)  # from the cache
    state = model.backbone.state_dict()
    for key in ("conv_stem.weight", "blocks.6.0.conv_pwl.weight"):
        assert torch.equal(state[key], source[key])
    card = describe_run(with_weights_found(config), {"versions": {}, "commit": ""}, 0, -1.0)
    assert card["started from"] == repo


def test_without_network_one_sentence_names_file_repository_and_switch(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError) as caught:
        build(small("camvid_kan"))
    message = str(caught.value)
    assert FILES["mobilenetv2"] in message
    assert REPOSITORIES["camvid_kan"] in message
    assert message.endswith("random weights with --set pretrained_backbone=none.")
    assert message.count(". ") == 0
    build(small("camvid_kan", "pretrained_backbone=none"))


def test_a_file_on_this_machine_comes_first(tmp_path):
    file = tmp_path / "repository" / "data" / FILES["mobilenetv2"]
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "repository" / "pyproject.toml").touch()
    config = small("camvid_kan")
    assert with_weights_found(config) == config


def test_a_file_the_user_names_is_not_replaced_by_a_download():
    config = small("camvid_kan", "pretrained_backbone=my.pth")
    assert with_weights_found(config) == config
    with pytest.raises(ConfigError, match=r"No data at my\.pth.*pretrained_backbone=timm"):
        build(config)


def test_a_checkpoint_needs_no_backbone_weights():
    assert with_weights_found(recipe("finetune")) == recipe("finetune")
