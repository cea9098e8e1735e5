"""Configurations in files, and settings as people type them."""

from __future__ import annotations

import json

import pytest

from mask2kan.errors import ConfigError
from training.config.choices import RECIPE_NAMES
from training.config.config_file import read_config
from training.config.recipes import RECIPES, recipe
from training.config.train_config import override
from training.train import main, parser, resolve

FILE = """
recipe: finetune
data: own_photos
steps: 500
lr: 3e-5            # a text to YAML
fresh: [mask_embed]
grid_update_steps: 20
augmentation: {crop: [64, 96], flip: 0}
model_options: {grid_size: 7}
model.spline_order: 2
outliers.source: null
"""


def write(path, text=FILE):
    path.write_text(text)
    return path


def test_a_file_changes_the_recipe_it_names(tmp_path):
    config = read_config(write(tmp_path / "own.yaml"))
    assert (config.name, config.init, config.own_classes) == ("finetune", "mask2kan_road", True)
    assert (config.data, config.steps, config.lr) == ("own_photos", 500, 3e-5)
    assert (config.fresh, config.grid_update_steps) == (("mask_embed",), (20,))
    assert (config.augmentation.crop, config.augmentation.flip) == ((64, 96), 0.0)
    assert config.augmentation.scale == recipe("finetune").augmentation.scale
    assert config.model_options == {"grid_size": 7, "spline_order": 2}


@pytest.mark.parametrize("name", ["camvid_kan", "road_pair_outliers", "thesis_swin_t_kan"])
def test_a_run_s_own_configuration_can_be_given_back(tmp_path, name):
    config = recipe(name)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
    for path in (tmp_path, tmp_path / "config.json"):
        assert read_config(path).to_dict() == config.to_dict()
    assert json.loads(json.dumps(read_config(tmp_path).to_dict())) == json.loads(
        json.dumps(config.to_dict())
    )


def test_a_file_may_stand_alone(tmp_path):
    text = "model: mask2former_r50\nmodel_options: {num_queries: 20}\n"
    config = read_config(write(tmp_path / "alone.yaml", text))
    assert (config.name, config.model) == ("alone", "mask2former_r50")
    assert config.model_options == {"num_queries": 20}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: finetune\nstepz: 3", "Unknown setting 'stepz'. Nearest: steps"),
        ("recipe: finetune\nnum_queries: 3", "it is written model.num_queries"),
        ("recipe: finetune\naugmentation: {crob: 3}", "Unknown setting 'crob'. Nearest: crop"),
        ("recipe: finetune\nmodel.num_qeries: 3", "Nearest: num_queries"),
        ("recipe: finetune\naugmentation: 3", r"set its fields, as in augmentation\.<field>"),
        ("recipe: finetun", "Unknown recipe 'finetun'. Nearest: finetune"),
        ("recipe: finetune\nsteps: soon", "steps is 'soon'; expected int"),
        ("recipe: finetune\nmodel: null", "model cannot be none"),
        ("steps: 3", "neither a recipe to start from"),
        ("- steps", "holds no settings"),
        ("steps: [", "Cannot read"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, text, message):
    path = write(tmp_path / "own.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_the_command_line_wins_over_the_file(tmp_path):
    path = str(write(tmp_path / "own.yaml"))
    options = parser().parse_args(["--config", path, "--set", "lr=1", "--steps", "7"])
    config = resolve(options)
    assert (config.name, config.lr, config.steps) == ("finetune", 1.0, 7)
    with pytest.raises(ConfigError, match="starts from recipe 'finetune', and the command names"):
        resolve(parser().parse_args(["camvid_kan", "--config", path]))
    plain = str(write(tmp_path / "plain.yaml", "steps: 9"))
    assert resolve(parser().parse_args(["camvid_mlp", "--config", plain])).steps == 9


def test_neither_recipe_nor_file_is_one_line(capsys):
    assert main([]) == 2
    assert "Name a recipe, or a file with --config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("fresh=mask_embed,class_embed", "fresh", ("mask_embed", "class_embed")),
        ("fresh=mask_embed, class_embed", "fresh", ("mask_embed", "class_embed")),
        ("fresh=[mask_embed,class_embed]", "fresh", ("mask_embed", "class_embed")),
        ("fresh=(mask_embed,)", "fresh", ("mask_embed",)),
        ("fresh=('mask_embed', 'class_embed')", "fresh", ("mask_embed", "class_embed")),
        ("fresh=mask_embed", "fresh", ("mask_embed",)),
        ("fresh=", "fresh", ()),
        ("fresh=none", "fresh", ()),
        ("heads=kan,mlp", "heads", ("kan", "mlp")),
        ("grid_update_steps=5,10", "grid_update_steps", (5, 10)),
        ("grid_update_steps=5", "grid_update_steps", (5,)),
        ("grid_update_steps=none", "grid_update_steps", ()),
        ("pretrained_backbone=none", "pretrained_backbone", ""),
        ("init=2024", "init", "2024"),
        ("data='own photos'", "data", "own photos"),
        ("train_batch_norm=False", "train_batch_norm", False),
    ],
)
def test_settings_as_people_type_them(setting, field, value):
    assert getattr(override(recipe("road_pair"), [setting]), field) == value


def test_settings_of_sections_as_people_type_them():
    settings = [
        "augmentation.crop=64,96",
        "outliers.ground=road,traffic light",
        "model.class_names=lawn,path",
        "model.palette=((1, 2, 3), (4, 5, 6))",
        "model.num_heads=none",
        "augmentation.scale=none",
    ]
    config = override(recipe("camvid_kan"), settings)
    assert config.augmentation.crop == (64, 96)
    assert config.augmentation.scale == (0.5, 2.0)
    assert config.outliers.ground == ("road", "traffic light")
    assert config.model_options["class_names"] == ("lawn", "path")
    assert config.model_options["palette"] == ((1, 2, 3), (4, 5, 6))
    assert "num_heads" not in config.model_options
    assert override(config, ["model_options=none"]).model_options == {}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fresh=mask_embed;class_embed", "Unknown part to make anew"),
        ("train_batch_norm=maybe", "train_batch_norm is 'maybe'; expected bool"),
        ("grid_update_steps=a,b", "expected the form of|expected values with commas"),
        ("num_classes=3", "it is written model.num_classes"),
        ("name=none", "name cannot be none"),
    ],
)
def test_settings_that_do_not_fit(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(recipe("camvid_kan"), [setting])


def test_the_names_known_without_pytorch_are_the_recipes():
    assert sorted(RECIPE_NAMES) == sorted(RECIPES)
