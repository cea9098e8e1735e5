"""Own checkpoints, detectron2 layouts at other sizes, and what is said when something is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mask2kan
from mask2kan.checkpoints import (
    hub,
    list_weights,
    load_model,
    manifest,
    open_checkpoint,
    save_model,
)
from mask2kan.checkpoints.build import build
from mask2kan.checkpoints.files import parts
from mask2kan.checkpoints.files.opened import sha256_of
from mask2kan.errors import CheckpointError, Mask2KANError, WriteError
from mask2kan.modeling.settings import InferenceSettings
from tests.unit.mask2kan.checkpoints.foreign_names import in_detectron2s_names

TINY = {
    "num_classes": 11,
    "num_queries": 7,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 48,
    "decoder_feedforward_dim": 40,
    "num_encoder_layers": 2,
}
TINY_R50 = {**TINY, "backbone_depths": (1, 2, 3, 1), "backbone_width": 8}
TINY_SWIN = {
    **TINY,
    "backbone_depths": (2, 1, 2, 2),
    "backbone_width": 24,
    "backbone_num_heads": (3, 3, 6, 8),
    "backbone_window_size": 5,
}


def tiny(name="mask2kan_r50", **overrides):
    torch.manual_seed(3)
    sizes = TINY_SWIN if "swin" in name else TINY_R50
    if "mobilenet" in name or "efficientnet" in name:
        sizes = {**TINY, "backbone_depths": (1, 1, 1, 1, 1, 1, 1), "backbone_width": 8}
    model = mask2kan.create_model(name, **{**sizes, "num_decoder_layers": 2, **overrides}).eval()
    for buffer_name, value in model.named_buffers():
        if "running" in buffer_name:
            value.uniform_(0.5, 1.5)
    return model


def answers(model):
    with torch.inference_mode():
        images = torch.rand(1, 3, 70, 100, generator=torch.Generator().manual_seed(0))
        output = model(images, with_aux=False)
    return output["pred_logits"], output["pred_masks"]


VARIANTS = {
    "kan_r50": ("mask2kan_r50", {"grid_size": 4, "spline_order": 2}),
    "kan_without_scaler": ("mask2kan_r50", {"standalone_spline_scale": False, "grid_size": 3}),
    "mlp_swin": ("mask2former_swin_t", {"num_decoder_layers": 4, "num_encoder_layers": 1}),
    "global_r50": ("mask2anomaly_r50", {"num_heads": 4}),
    "kan_global_swin": ("mask2kan_swin_b", {"masked_attention": "global", "num_decoder_layers": 1}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_architecture_is_read_off_detectron2_weights(tmp_path, variant):
    name, overrides = VARIANTS[variant]
    model = tiny(name, **overrides)
    state = in_detectron2s_names(model)
    state["criterion.empty_weight"] = torch.ones(12)
    state["sem_seg_head.predictor.transformer_cross_attention_layers.0.fusion_layer.weight"] = (
        torch.ones(3)
    )
    state = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    torch.save({"model": state}, tmp_path / "model_final.pth")
    loaded = load_model(tmp_path / "model_final.pth", device="cpu")
    known_only_to_presets = {"backbone": "r50", "backbone_drop_path": 0.0}
    assert dataclasses.replace(loaded.config, **known_only_to_presets) == dataclasses.replace(
        model.config, **known_only_to_presets
    )
    assert loaded.class_names[0] == "class_0"
    for found, expected in zip(answers(loaded), answers(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_stored_mean_and_std_are_used(tmp_path):
    state = in_detectron2s_names(tiny())
    state["pixel_mean"] = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)
    state["pixel_std"] = torch.ones(3, 1, 1)
    torch.save(state, tmp_path / "bare.pth")
    loaded = load_model(tmp_path / "bare.pth")
    assert loaded.config.pixel_mean == (10.0, 20.0, 30.0)
    assert loaded.config.pixel_std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", ["mask2kan_mobilenetv2", "mask2anomaly_r50", "mask2kan_swin_s"])
def test_own_checkpoint_carries_everything(tmp_path, name):
    model = tiny(name, class_names=tuple("abcdefghijk"))
    curve = [[0.01, 0.7, 0.0], [0.05, 0.5, 0.25]]
    model.calibration = {
        "msp": {"range": [0.0, 1.0], "fpr05": 0.5, "curve": curve, "data": "made up"}
    }
    model.settings = InferenceSettings((320, 640), "entropy", 0.01, 0.002)
    model.card = {"licence": "none"}
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert not loaded.training
    assert loaded.class_names == model.class_names
    assert np.array_equal(loaded.palette, model.palette)
    assert loaded.calibration == model.calibration
    assert loaded.settings == model.settings
    assert loaded.card == model.card
    for found, expected in zip(answers(loaded), answers(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert loaded.format == "native"


def test_half_precision_files_keep_knots_and_statistics_and_load_as_float32(tmp_path):
    model = tiny()
    model.backbone.bn1.running_var.fill_(1e6)  # beyond float16
    save_model(model, tmp_path / "half.safetensors", dtype=torch.float16)
    save_model(model, tmp_path / "full.safetensors")
    stored = load_file(tmp_path / "half.safetensors")
    assert {value.dtype for key, value in stored.items() if key.endswith(".grid")} == {
        torch.float32
    }
    assert stored["backbone.bn1.running_var"].dtype == torch.float32
    assert stored["transformer_decoder.class_embed.weight"].dtype == torch.float16
    loaded = load_model(tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    halved = model.transformer_decoder.class_embed.weight.detach().half().float()
    assert torch.equal(loaded.transformer_decoder.class_embed.weight, halved)

    model.transformer_decoder.class_embed.weight.data[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"class_embed\.weight.*not finite in torch\.float16"):
        save_model(model, tmp_path / "half.safetensors", dtype=torch.float16)
    assert load_model(tmp_path / "half.safetensors")


def test_loading_leaves_the_random_stream_alone(tmp_path):
    save_model(tiny(), tmp_path / "model.safetensors")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(tmp_path / "model.safetensors")
    assert torch.equal(torch.rand(3), expected)


def rewritten(path, out, change):
    """A copy of an own checkpoint with tensors and metadata changed."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["mask2kan"])
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, out, metadata={"mask2kan": json.dumps(metadata)})
    return out


def test_a_family_written_before_it_followed_the_head_is_ignored(tmp_path):
    save_model(tiny("mask2former_mobilenetv2"), tmp_path / "new.safetensors")
    path = rewritten(
        tmp_path / "new.safetensors",
        tmp_path / "old.safetensors",
        lambda _, about: about["config"].update(family="mask2kan"),
    )
    assert load_model(path).config.family == "mask2former"


CLASS = "transformer_decoder.class_embed.weight"
FAULTS = {
    "missing": (lambda t, m: t.pop(CLASS), rf"1 missing \(our names\) \({CLASS}\)"),
    "unknown": (lambda t, m: t.update(x=torch.ones(1)), r"1 unknown \(x\)"),
    "misshaped": (
        lambda t, m: t.update({CLASS: torch.ones(3, 32)}),
        r"class_embed\.weight \(3, 32\) instead of \(12, 32\)",
    ),
    "many": (
        lambda t, m: [t.pop(key) for key in list(t) if key.startswith("pixel_decoder.")],
        r"\d+ missing.*, …\)",
    ),
    "none": (lambda t, m: t.clear() or t.update(x=torch.ones(1)), r"more layers .*1 tensors"),
    "nan": (lambda t, m: t[CLASS].fill_(float("nan")), r"not finite in 1 tensors.*class_embed"),
    "class count": (lambda t, m: m["config"].update(num_classes=12), r"class_names has 11 entries"),
    "option": (lambda t, m: m["config"].update(exec=1), r"Unknown model option 'exec'"),
    "backbone": (lambda t, m: m["config"].update(backbone="vgg"), r"Unknown backbone 'vgg'"),
    "huge": (lambda t, m: m["config"].update(hidden_dim=10**9), r"hidden_dim is 1000000000"),
    "text": (lambda t, m: m["config"].update(num_queries="9"), r"num_queries is '9'"),
    "format": (lambda t, m: m.update(format=2), r"format is 2.*reads 1"),
    "settings": (
        lambda t, m: m.update(settings={"sides": [1e9]}),
        r"settings cannot be used: settings.sides",
    ),
    "settings of another kind": (
        lambda t, m: m.update(settings=[1]),
        r"settings are not an object",
    ),
    "a trunk elsewhere": (
        lambda t, m: m.update(trunk={"file": "../x.safetensors", "sha256": "0" * 64}),
        r"trunk is '../x.safetensors'; expected a plain file name",
    ),
    "a trunk of another kind": (
        lambda t, m: m.update(trunk="x"),
        r"trunk is 'x'; expected an object",
    ),
    "a palette of numbers": (
        lambda t, m: m["config"].update(palette=[7] * 11),
        r"palette\[0\] is 7",
    ),
    "a palette of pairs": (
        lambda t, m: m["config"].update(palette=[[1, 2]] * 11),
        r"palette\[0\] is \(1, 2\); expected 3 finite numbers",
    ),
    "bright colours": (
        lambda t, m: m["config"].update(palette=[[0, 0, 256]] * 11),
        r"value of palette\[0\] is 256",
    ),
    "depths in a text": (
        lambda t, m: m["config"].update(backbone_depths="1111111"),
        r"backbone_depths is '1111111'; expected a list",
    ),
    "depths below 1": (
        lambda t, m: m["config"].update(backbone_depths=[-1] * 7),
        r"entry of backbone_depths is -1",
    ),
    "a mean of texts": (
        lambda t, m: m["config"].update(pixel_mean=["a", "b", "c"]),
        r"pixel_mean is \('a', 'b', 'c'\)",
    ),
    "a mean of two": (lambda t, m: m["config"].update(pixel_mean=[1, 2]), r"expected 3 finite"),
    "a range of three": (lambda t, m: m["config"].update(grid_range=[0, 1, 2]), r"grid_range is"),
    "a scale of nothing": (lambda t, m: m["config"].update(scale_base=None), r"scale_base is None"),
    "names in an object": (
        lambda t, m: m["config"].update(class_names={str(n): n for n in range(11)}),
        r"class_names is .*; expected a list",
    ),
    "names that are numbers": (
        lambda t, m: m["config"].update(class_names=list(range(11))),
        r"class_names\[0\] is 0; expected a text",
    ),
    "calibration": (
        lambda t, m: m.update(calibration={"msp": {"range": [0, "1"]}}),
        r"calibration of 'msp'",
    ),
}


def of_curve(points):
    return lambda _, about: about.update(calibration={"msp": {"curve": points}})


GOOD_CURVE = [[0.01, 0.5, 0.2], [0.05, 0.4, 0.3]]
FAULTS |= {
    f"curve: {fault}": (of_curve(points), r"calibration of 'msp' has a curve that")
    for fault, points in {
        "text": "x",
        "empty": [],
        "an object": {"0.05": 0.4},
        "a point of two": [[0.01, 0.5]],
        "a point that is a number": [0.01],
        "a threshold of text": [[0.01, "0.5", 0.2]],
        "a threshold of true": [[0.01, True, 0.2]],
        "a threshold beyond all": [[0.01, 10**400, 0.2]],
        "a rate of 0": [[0, 0.5, 0.2]],
        "a rate above 1": [[1.5, 0.5, 0.2]],
        "falling rates": GOOD_CURVE[::-1],
        "equal thresholds": [[0.01, 0.5, 0.2], [0.05, 0.5, 0.3]],
        "falling recalls": [[0.01, 0.5, 0.2], [0.05, 0.4, 0.1]],
        "a recall above 1": [[0.01, 0.5, 1.2]],
        "too many points": [[(n + 1) / 2000, -n, 0] for n in range(1001)],
    }.items()
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_own_checkpoints_are_refused_in_one_line(tmp_path, fault):
    change, said = FAULTS[fault]
    save_model(tiny(), tmp_path / "good.safetensors")
    path = rewritten(tmp_path / "good.safetensors", tmp_path / "bad.safetensors", change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("trunk", ["x", [], {}, {"file": 1}, {"file": "."}, {"file": "../x"}])
def test_a_trunk_without_a_plain_name_is_no_file_to_fetch(tmp_path, trunk):
    save_model(tiny(), tmp_path / "good.safetensors")
    rewritten(
        tmp_path / "good.safetensors",
        tmp_path / "bad.safetensors",
        lambda _, about: about.update(trunk=trunk),
    )
    assert parts.trunk_beside(tmp_path, "bad.safetensors") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"x", "neither"),
        (b"just some text in a file\n" * 9, "neither"),
        (b"dear reader", "neither"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        ((2**63 - 1).to_bytes(8, "little") + b"{}", "header claims"),
        ((2).to_bytes(8, "little") + b"{}", "no tensors"),
        ((9).to_bytes(8, "little") + b"{notjson}", "no valid JSON"),
        (b"\x80\x02}q\x00.", "no tensors"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "neither"),
    ],
)
def test_files_that_are_no_checkpoints_are_named(tmp_path, content, said):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_safetensors_with_overlaps_doubles_and_cuts_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    for header in (f'{{"a":{entry},"b":{entry}}}', f'{{"a":{entry},"a":{entry}}}'):
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
        with pytest.raises(CheckpointError, match=r"Damaged|twice"):
            load_model(path)
    save_model(tiny(), path)
    content = path.read_bytes()
    for share in (0.001, 0.5, 0.999):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(CheckpointError, match=r"Damaged|neither"):
            load_model(path)


def test_other_architectures_are_named(tmp_path):
    path = tmp_path / "other.pth"
    for state, said in (
        (
            {"conv1.weight": torch.ones(1), "fc.weight": torch.ones(1)},
            "weights belong to conv1, fc",
        ),
        ({"sem_seg_head.predictor.query_embed.weight": torch.ones(1)}, "MaskFormer"),
        ({"model.pixel_level_module.x": torch.ones(1)}, "queries_features"),
        ({"transformer_decoder.x": torch.ones(1)}, "weights belong to transformer_decoder"),
        ({"decode_head.cls_embed.weight": torch.ones(1)}, "query_feat"),
    ):
        torch.save(state, path)
        with pytest.raises(CheckpointError, match=said):
            load_model(path)


def test_detectron2_faults_are_listed_by_the_files_own_names(tmp_path):
    state = in_detectron2s_names(tiny())
    state["sem_seg_head.pixel_decoder.input_proj.3.0.weight"] = torch.ones(1)
    state["backbone.stem.conv9.weight"] = torch.ones(1)
    del state["sem_seg_head.predictor.decoder_norm.bias"]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "model.pth")
    assert "1 missing (our names) (transformer_decoder.decoder_norm.bias)" in str(caught.value)
    assert "sem_seg_head.pixel_decoder.input_proj.3.0.weight" in str(caught.value)
    assert "backbone.stem.conv9.weight" in str(caught.value)
    basic = {key: value for key, value in state.items() if "conv3" not in key}
    torch.save(basic, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="basic blocks"):
        load_model(tmp_path / "model.pth")


def test_sources_that_are_nothing_are_explained(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no file of weights"):
        load_model(tmp_path / "empty")
    for source in ("nothing", "./a/b/c", "../nothing", "missing.pth", "folder/missing.safetensors"):
        with pytest.raises(CheckpointError, match=r"no such file.*Known: "):
            load_model(source)
    for source in ("", "  ", "a\0b"):
        with pytest.raises(CheckpointError, match="No checkpoint was named"):
            load_model(source)
    with pytest.raises(Mask2KANError, match="device"):
        load_model("nothing", device="abacus")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(CheckpointError, match="no regular file"):
            load_model(tmp_path / "pipe")
        with pytest.raises(CheckpointError, match="no regular file"):
            load_model("/dev/zero")


def test_folders_offer_their_only_checkpoint_or_ask(tmp_path):
    model = tiny()
    save_model(model, tmp_path / "a.safetensors")
    assert load_model(tmp_path).config.num_classes == 11
    save_model(model, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"2 checkpoints \(a\.safetensors, b\.safetensors\)"):
        load_model(tmp_path)
    assert load_model(tmp_path, file="b.safetensors")
    with pytest.raises(CheckpointError, match="no file 'c'"):
        load_model(tmp_path, file="c")
    with pytest.raises(CheckpointError, match="no file"):
        load_model(tmp_path, file="../a.safetensors")


def test_bundled_names_are_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "WEIGHTS", tmp_path)
    assert list_weights() == []
    save_model(tiny(), tmp_path / "tiny.safetensors")
    digest = sha256_of(tmp_path / "tiny.safetensors")
    entries = [
        {"name": "tiny", "file": "tiny.safetensors", "sha256": digest},
        {"name": "wrong", "file": "tiny.safetensors", "sha256": "0" * 64},
        {"name": "outside", "file": "../tiny.safetensors", "sha256": digest},
        {"name": "far", "hub": "someone/far"},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"weights": entries}))
    assert list_weights() == ["tiny", "wrong", "outside", "far"]
    assert list_weights(bundled_only=True) == ["tiny", "wrong", "outside"]
    assert load_model("tiny").source == "tiny"
    with pytest.raises(CheckpointError, match="Damaged: sha256 differs"):
        load_model("wrong")
    with pytest.raises(CheckpointError, match="plain file name"):
        load_model("outside")
    with pytest.raises(CheckpointError, match="Nearest: tiny"):
        load_model("tiyn")


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no open file")
def test_an_opened_checkpoint_holds_all_that_a_model_is_built_from(tmp_path):
    model = tiny()
    save_model(model, tmp_path / "tiny.safetensors")
    checkpoint = open_checkpoint(tmp_path / "tiny.safetensors")
    (tmp_path / "tiny.safetensors").unlink()
    assert checkpoint.format == "native"
    assert checkpoint.config.class_names == model.class_names
    state = build(checkpoint).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name


def test_the_projects_manifest_is_in_order():
    entries = manifest.manifest()
    assert "facebook/mask2former-swin-tiny-ade-semantic" in list_weights()
    assert len({entry["name"] for entry in entries}) == len(entries)
    for entry in entries:
        assert entry["title"]
        assert entry["licence"]
        if "file" in entry:
            path, digest = manifest.bundled_file(entry)
            assert sha256_of(path) == digest
        else:
            assert manifest.is_repo_id(entry["hub"])


def fill_cache(cache, repo, files):
    """Lay files out as the Hub's client does after a download."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "blobs").mkdir()
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in files:
        blob = root / "blobs" / sha256_of(path)
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    return root


def test_without_network_the_hub_gives_what_is_cached_or_says_so(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(cache))
    with pytest.raises(CheckpointError, match="needs the network"):
        load_model("someone/model")
    save_model(tiny(), tmp_path / "model.safetensors")
    root = fill_cache(cache, "someone/model", [tmp_path / "model.safetensors"])
    assert load_model("someone/model").config.num_classes == 11
    with pytest.raises(CheckpointError, match="needs the network"):
        load_model("someone/model", revision="other")
    blob = next((root / "blobs").iterdir())
    damaged = bytearray(blob.read_bytes())
    damaged[-5] ^= 1
    blob.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="Damaged: sha256"):
        load_model("someone/model")


def test_choice_among_a_repositorys_files():
    pick = parts.pick_files
    assert pick(["config.json", "pytorch_model.bin", "model.safetensors", "x.pkl"], None) == [
        "model.safetensors",
        "config.json",
    ]
    assert pick(
        ["config.json", "model.safetensors.index.json", "preprocessor_config.json"], None
    ) == [
        "model.safetensors.index.json",
        "config.json",
        "preprocessor_config.json",
    ]
    assert pick(["README.md", "model_final.pkl"], None) == ["model_final.pkl"]
    assert pick(["a/b.pth", "a/config.json", "c.pth"], "a/b.pth") == ["a/b.pth", "a/config.json"]
    with pytest.raises(CheckpointError, match=r"choose one with file="):
        pick(["a.pth", "b.pth"], None)


SAVER = """
import sys, torch, mask2kan
from mask2kan.checkpoints import save_model
model = mask2kan.create_model("mask2former_r50", hidden_dim=32, num_queries=7, backbone_width=8,
    backbone_depths=(1, 1, 1, 1), num_encoder_layers=1, num_decoder_layers=1)
print("ready", flush=True)
while True:
    save_model(model, sys.argv[1])
"""


@pytest.mark.slow  # a second interpreter has to import torch
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_process_killed_while_saving_leaves_a_whole_file(tmp_path):
    path = tmp_path / "model.safetensors"
    child = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(path)],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    child.stdout.readline()
    # One file is whole and the next is being written: there are two, one of them with a name aside.
    while child.poll() is None and not (path.exists() and len(list(tmp_path.iterdir())) > 1):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    assert load_model(path).config.num_queries == 7
    assert all(other == path or other.suffix == ".tmp" for other in tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    model = tiny()
    save_model(model, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"No space left.*after [\d,]+ bytes"):
        save_model(model, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["mask2kan_camvid", "mask2former_camvid"])
def test_names_that_were_bundled_once_say_what_replaced_them(name):
    with pytest.raises(CheckpointError, match=f"{name.replace('camvid', 'road')} replaced it"):
        load_model(name)
