"""A transformers Mask2Former, randomly initialised and saved, gives the same numbers here."""

from __future__ import annotations

import json

import pytest
import torch

from mask2kan.checkpoints import load_model, open_checkpoint
from mask2kan.errors import CheckpointError

transformers = pytest.importorskip("transformers")

# Neither size makes maps that are whole windows of 7 or 12.
SIZES = {"swin_t": (96, 160), "swin_b": (128, 160)}
BACKBONES = {
    "tiny": {"embed_dim": 24, "num_heads": [3, 3, 6, 8], "window_size": 7},
    "swin_t": {"embed_dim": 96, "num_heads": [3, 6, 12, 24], "window_size": 7},
    "swin_b": {"embed_dim": 128, "num_heads": [4, 8, 16, 32], "window_size": 12},
}


def reference(name, **changes):
    """A model small in depth whose every weight matters to the result."""
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        **BACKBONES[name],
        depths=[2, 2, 2, 2],
        drop_path_rate=0.3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    options = {"encoder_layers": 2, "decoder_layers": 5, "num_queries": 20, "num_labels": 5}
    if name == "tiny":
        options |= {"hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32}
    config = transformers.Mask2FormerConfig(backbone_config=backbone, **{**options, **changes})
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bias") or "relative_position_bias_table" in key or value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
    return model


@pytest.mark.parametrize("name", ["swin_t", "swin_b"])
def test_saved_model_gives_the_same_logits(tmp_path, name):
    theirs = reference(name)
    theirs.save_pretrained(tmp_path)
    height, width = SIZES[name]
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    ours = load_model(tmp_path)
    assert ours.config.backbone == name
    assert ours.config.num_decoder_layers == 4
    assert ours.config.family == "mask2former"
    assert ours.class_names == tuple(f"class_{index}" for index in range(5))
    mean = torch.tensor(ours.config.pixel_mean)[:, None, None] / 255
    std = torch.tensor(ours.config.pixel_std)[:, None, None] / 255
    with torch.inference_mode():
        expected = theirs(pixel_values=(images - mean) / std)
        found = ours(images, with_aux=False)
    classes, masks = expected.class_queries_logits, expected.masks_queries_logits
    assert (found["pred_logits"] - classes).abs().max() < 1e-3
    assert (found["pred_masks"] - masks).abs().max() < 1e-3
    assert masks.std() > 0.1  # the comparison is of something


def test_names_normalisation_and_other_files_are_understood(tmp_path):
    theirs = reference("tiny", id2label=dict(enumerate("abcde")))
    folder = tmp_path / "whole"
    theirs.save_pretrained(folder)
    preprocessor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.25, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    whole = load_model(folder)
    assert whole.class_names == tuple("abcde")
    assert whole.config.pixel_mean == pytest.approx((127.5, 102.0, 76.5))
    assert whole.config.pixel_std == pytest.approx((63.75, 63.75, 63.75))
    assert whole.format == "transformers"
    state = whole.state_dict()

    single = load_model(folder / "model.safetensors")
    assert single.class_names == tuple("abcde")
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "model.safetensors").read_bytes())
    without_config = load_model(alone)
    assert without_config.class_names[0] == "class_0"

    shards = tmp_path / "shards"
    theirs.save_pretrained(shards, max_shard_size="1MB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    torch_file = tmp_path / "bin"
    torch_file.mkdir()
    (torch_file / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(theirs.state_dict(), torch_file / "pytorch_model.bin")
    for other in (single, without_config, load_model(shards), load_model(torch_file)):
        found = other.state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    reference("tiny").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "maskformer"}, "model_type 'maskformer'"),
        ({"pre_norm": True}, "pre_norm True"),
        ({"activation_function": "gelu"}, "activation_function 'gelu'"),
        ({"num_attention_heads": "8"}, "num_attention_heads '8'"),
        ({"num_attention_heads": 7}, "not a multiple of 7 heads"),
        ({"backbone_config": {"model_type": "resnet"}}, r"backbone_config\.model_type 'resnet'"),
    ],
)
def test_options_that_change_the_arithmetic_are_refused(saved, tmp_path, changes, said):
    config = json.loads((saved / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    (tmp_path / "model.safetensors").symlink_to(saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path)


def test_an_index_cannot_point_elsewhere(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"Refused: its model\.safetensors\.index\.json"):
        load_model(tmp_path)
