"""Whose classes a model gets: the data's unless stated, and compared by name where both are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mask2kan import create_model, load_model, save_model
from mask2kan.errors import ConfigError
from mask2kan.modeling.classes import CAMVID, CITYSCAPES
from mask2kan.modeling.settings import InferenceSettings
from tests.tiny_runs import TINY, tiny_trainer
from tests.unit.training.data_trees import mask, own, save
from training.config.recipes import recipe
from training.config.train_config import override
from training.data import open_split
from training.engine.trainer import Trainer
from training.models.build import build_model

NAMES = ("lawn", "path", "wall")
SMALL = {"hidden_dim": 32, "num_heads": 4, "num_queries": 5, "backbone_width": 8}
SMALL |= {"num_encoder_layers": 1, "num_decoder_layers": 1}

# Images of 24 x 32 leave one value at the coarsest level; a group norm needs two per group.
SET_UP = ["model.hidden_dim=64", "eval_every=2"]


def built(*settings: str, name: str = "camvid_kan"):
    config = override(recipe(name), [*(TINY if name != "finetune" else ()), *settings])
    return build_model(config, open_split(config.data, "train"), pretrained=False)


def checkpoint(path: Path, names: tuple[str, ...], **options) -> str:
    torch.manual_seed(1)
    model = create_model(
        "mask2kan_mobilenetv2", num_classes=len(names), class_names=names, **SMALL, **options
    )
    model.settings = InferenceSettings(score="rba")
    save_model(model, path)
    return str(path)


@pytest.mark.parametrize("name", ["camvid_kan", "camvid_mlp"])
def test_own_classes_come_from_the_data(tmp_path, name):
    three = own(tmp_path / "three", 0, 1, 2, names=NAMES)
    model = built(f"data={three}", name=name)
    assert model.class_names == NAMES
    assert [tuple(color) for color in model.palette] == list(open_split(three, "train").palette)
    eleven = own(tmp_path / "eleven", *range(11), masks="labels")
    assert built(f"data={eleven}", name=name).class_names[10] == "class_10"
    assert built("data=synthetic", name=name).class_names == tuple(CAMVID)


def test_classes_that_are_stated_are_compared_by_name(tmp_path):
    data = f"data={own(tmp_path / 'set', 0, 1, 2, names=NAMES)}"
    assert built(data, "model.class_names=lawn,path,wall").class_names == NAMES
    assert built(data, "model.num_classes=3").class_names == NAMES
    with pytest.raises(ConfigError) as caught:
        built(data, "model.class_names=lawn,road,wall")
    message = str(caught.value)
    assert "only model.class_names has road; only" in message
    assert "has path. Leave the classes to the data (--set model.num_classes=none" in message
    with pytest.raises(ConfigError, match="number 0 is path and lawn"):
        built(data, "model.class_names=path,lawn,wall")
    with pytest.raises(ConfigError, match="the new model has class_0, class_1"):
        built(data, "model.num_classes=5")
    unset = ["model.class_names=a,b", "model.num_classes=none", "model.class_names=none"]
    assert built(data, *unset).class_names == NAMES


def test_finer_classes_fit_coarser_data():
    assert built("data=synthetic", "model.num_classes=19").class_names == tuple(CITYSCAPES)


def test_a_checkpoint_of_other_classes_is_refused_by_name(tmp_path):
    count = len(NAMES)
    data = f"data={own(tmp_path / 'set', *range(count), names=NAMES)}"
    init = f"init={checkpoint(tmp_path / 'a.safetensors', ('lawn', 'car', 'wall'))}"
    with pytest.raises(ConfigError, match=r"has car; only .* has path\. Make class_embed anew"):
        built(data, init, name="head_only_kan")
    model = built(data, init, "own_classes=true", name="head_only_kan")
    assert model.class_names == NAMES
    unnamed = checkpoint(tmp_path / "b.safetensors", ("class_0", "class_1", "class_2"))
    assert built(data, f"init={unnamed}", name="head_only_kan").class_names == NAMES


def test_a_pair_has_no_parts_made_anew(tmp_path):
    data = f"data={own(tmp_path / 'set', 0, 1, 2, names=NAMES)}"
    pair = ["heads=kan,mlp", data, "init=mask2kan_road + mask2former_road"]
    with pytest.raises(ConfigError, match="Start the pair without --init"):
        built(*pair)
    with pytest.raises(ConfigError, match=r"fresh is class_embed \(own_classes\)"):
        built(*pair, "own_classes=true")


def test_finetune_keeps_all_but_the_classes(tmp_path):
    data = own(tmp_path / "set", 0, 1, 2, names=NAMES)
    init = checkpoint(tmp_path / "a.safetensors", tuple(CAMVID))
    before = load_model(init, device="cpu").state_dict()
    model = built(f"init={init}", f"data={data}", name="finetune")
    assert (model.class_names, model.config.num_classes, model.settings) == (NAMES, 3, None)
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {f"transformer_decoder.class_embed.{part}" for part in ("weight", "bias")}
    assert model.transformer_decoder.class_embed.weight.shape[0] == len(NAMES) + 1
    assert all(parameter.requires_grad for parameter in model.transformer_decoder.parameters())


def test_finetune_on_a_checkpoint_s_own_classes_makes_nothing_anew(tmp_path):
    data = own(tmp_path / "set", 0, 1, 2, names=NAMES)
    init = checkpoint(tmp_path / "a.safetensors", NAMES)
    before = load_model(init, device="cpu")
    model = built(f"init={init}", f"data={data}", name="finetune")
    for key, value in model.state_dict().items():
        assert torch.equal(value, before.state_dict()[key]), key
    assert model.settings == before.settings


def test_finetune_needs_a_checkpoint():
    with pytest.raises(ConfigError, match="finetune starts from a checkpoint"):
        built("init=none", "data=synthetic", name="finetune")


def test_finetune_learns_from_the_bundled_pair(tmp_path):
    data = own(tmp_path / "set", 0, 1, 2, names=NAMES)
    settings = ["steps=2", "batch_size=2", "augmentation.crop=64,64", "num_points=64"]
    config = override(recipe("finetune"), [*settings, f"data={data}"])
    trainer = Trainer(config, tmp_path / "own", progress=False)
    trainer.run.draw = lambda *_: None
    trainer.fit()
    assert load_model(tmp_path / "own", device="cpu").class_names == NAMES


def test_a_run_goes_on_with_its_own_classes_alone(tmp_path):
    data = own(tmp_path / "set", 0, 1, 2, names=NAMES)
    tiny_trainer(tmp_path / "run", *SET_UP, f"data={data}", "steps=1").fit()
    (data / "classes.txt").write_text("lawn\npath\nfence\n")
    with pytest.raises(ConfigError, match=r"only the run so far has wall; only .* has fence"):
        tiny_trainer(tmp_path / "run", *SET_UP, f"data={data}", "steps=2", resume=True)
    (data / "classes.txt").write_text("lawn\npath\nwall\n")
    trainer = tiny_trainer(tmp_path / "run", *SET_UP, f"data={data}", "steps=2", resume=True)
    trainer.fit()
    assert trainer.step == 2


def test_a_void_label_does_not_stop_training(tmp_path):
    data = own(tmp_path / "set", 0, 1, names=("a", "b"))
    for split in ("train", "val"):
        save(data / split / "masks" / "00.png", mask(255))
    trainer = tiny_trainer(tmp_path / "run", *SET_UP, f"data={data}", "steps=2")
    trainer.fit()
    assert trainer.step == 2
