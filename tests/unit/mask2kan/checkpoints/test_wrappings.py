"""Fifty files as people have them: their weights are found, or one true sentence says why not."""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import itertools
import json
import logging
import pathlib
import pickle
import random
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mask2kan.checkpoints import load_model, save_model, save_pair
from mask2kan.checkpoints.formats.mmsegmentation import by_position
from mask2kan.errors import CheckpointError
from mask2kan.modeling.backbones.swin import PatchMerging
from tests.unit.mask2kan.checkpoints.foreign_names import (
    in_detectron2s_names,
    in_mmsegmentations_names,
)
from tests.unit.mask2kan.checkpoints.formats.test_transformers import reference
from tests.unit.mask2kan.checkpoints.test_load import answers, tiny

MODELS = {
    "native": ("mask2kan_r50", lambda model: dict(model.state_dict())),
    "native small": ("mask2kan_efficientnet_lite0", lambda model: dict(model.state_dict())),
    "detectron2": ("mask2kan_r50", in_detectron2s_names),
    "mmsegmentation": ("mask2former_swin_t", in_mmsegmentations_names),
    "mmsegmentation r50": ("mask2former_r50", in_mmsegmentations_names),
}


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def other(state):
    """Weights of the same names that must not be taken."""
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


METRICS = {"val_iou.confmat": torch.zeros(3, 3), "criterion_weights": torch.ones(4)}
WRAPPINGS = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "iteration": 7},
    "lightning": lambda state: {
        "epoch": 3,
        "state_dict": {**prefixed("model.", state), **METRICS},
        "hyper_parameters": {"lr": 1e-4},
        "pytorch-lightning_version": "2.5.0",
    },
    "lightning net": lambda state: {"state_dict": {**prefixed("net.", state), **METRICS}},
    "lightning with a teacher": lambda state: {
        "state_dict": {**prefixed("student.ema.", state), **prefixed("student.net.", other(state))}
    },
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "compiled and parallel": lambda state: {"model": prefixed("module._orig_mod.", state)},
    "net": lambda state: {"epoch": 3, "net": state},
    "ema": lambda state: {"epoch": 3, "ema": state},
    "ema beside": lambda state: {"model": other(state), "model_ema": state, "epoch": 1},
    "averaged": lambda state: {
        "net": other(state),
        "ema": {"n_averaged": torch.tensor(9), **prefixed("module.", state)},
    },
    "deepspeed": lambda state: {"module": prefixed("module.", state), "global_steps": 9},
    "fsdp": lambda state: {
        "model": {
            re.sub(r"^(\w+\.)", r"_fsdp_wrapped_module.\1_checkpoint_wrapped_module.", key): value
            for key, value in state.items()
        }
    },
}


def counter_of_milestones():
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    return {"optimizer": optimizer.state_dict(), "schedulers": [schedule.state_dict()]}


EXTRAS = {
    "none": dict,
    "schedule": counter_of_milestones,
    "containers": lambda: {
        "seen": {1, 2, (3, 4)},
        "fixed": frozenset({"a"}),
        "by class": collections.defaultdict(list, {"road": [1.0]}),
        "order": collections.OrderedDict(a=1),
        "last": collections.deque([1, 2], maxlen=4),
        "complex": 1j,
        ("a", 1): None,
    },
    "numpy": lambda: {
        "best": np.float64(0.5),
        "step": np.int64(4),
        "done": np.bool_(True),
        "per class": np.arange(4.0),
        "names": np.array(["road", "sky"]),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "random": np.random.get_state(),  # noqa: NPY002 (what trainers save)
        "generator": np.random.default_rng(0),
    },
    "arguments": lambda: {
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs") / "a"),
        "folder": pathlib.PurePosixPath("/data"),
        "started": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    },
    "torch": lambda: {
        "rng": torch.get_rng_state(),
        "shape": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "python rng": random.getstate(),
    },
}


def write(path, content, kind, rng):
    if kind == "zip":
        torch.save(content, path)
    elif kind == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif kind == "zip, protocol 4":
        torch.save(content, path, pickle_protocol=4)
    elif kind == "arrays":
        arrays = as_arrays(content)
        path.write_bytes(pickle.dumps(arrays, protocol=rng.choice([2, 3, 4, 5])))
    else:
        save_file(flat(content), path)


def flat(content, prefix=""):
    """As one writes tables into a format that has none: their names before the weights'."""
    tensors = {}
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            tensors[prefix + key] = value.clone().contiguous()
        elif isinstance(value, dict):
            tensors |= flat(value, f"{prefix}{key}.")
    return tensors


def as_arrays(value):
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: as_arrays(inner) for key, inner in value.items()}
    return value


KINDS = ("zip", "legacy", "zip, protocol 4", "arrays", "safetensors")


def fifty():
    """The same fifty every time; each wrapping with several formats, kinds and extras."""
    rng = random.Random(19)
    files = []
    for number, wrapping in zip(range(50), itertools.cycle(WRAPPINGS)):
        layouts = [*MODELS, "transformers"]
        kind = KINDS[(number // len(WRAPPINGS) + number) % len(KINDS)]
        extra = "none" if kind == "safetensors" else rng.choice(list(EXTRAS))
        if kind == "arrays" and extra in ("torch", "schedule"):
            extra = "numpy"  # pickle alone writes tensors as code
        files.append((wrapping, layouts[number % len(layouts)], kind, extra))
    return files


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By layout: a model of ours, and its weights under the layout's names."""
    made = {}
    for layout, (name, names_of) in MODELS.items():
        model = tiny(name)
        made[layout] = model, names_of(model)
    theirs = reference("tiny")
    folder = tmp_path_factory.mktemp("transformers")
    theirs.save_pretrained(folder)
    made["transformers"] = load_model(folder, device="cpu"), theirs.state_dict()
    return made


@pytest.mark.parametrize(
    ("wrapping", "layout", "kind", "extra"), fifty(), ids=lambda value: value.replace(" ", "-")
)
def test_the_weights_are_found(tmp_path, models, wrapping, layout, kind, extra):
    model, state = models[layout]
    content = WRAPPINGS[wrapping]({key: value.clone() for key, value in state.items()})
    if extra != "none" and wrapping not in ("bare", "compiled"):
        content = {**content, **EXTRAS[extra]()}
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pth")
    write(path, content, kind, random.Random(0))
    loaded = load_model(path, device="cpu")
    assert loaded.format == layout.split()[0]
    for found, expected in zip(answers(loaded), answers(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def saved(tmp_path, content, name="model.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def test_an_average_comes_first_and_is_said_and_another_can_be_chosen(tmp_path, models, caplog):
    model, state = models["detectron2"]
    moved = other(state)
    path = saved(tmp_path, {"model": moved, "ema": {"shadow": state}})
    with caplog.at_level(logging.WARNING):
        loaded = load_model(path, device="cpu")
    assert torch.equal(answers(loaded)[0], answers(model)[0])
    (note,) = loaded.notes
    assert "2 sets of weights (model, ema/shadow); ema/shadow was taken" in note
    assert note in caplog.text
    chosen = load_model(path, device="cpu", weights="model")
    assert chosen.notes == ()
    assert torch.equal(
        chosen.transformer_decoder.class_embed.bias,
        moved["sem_seg_head.predictor.class_embed.bias"],
    )
    with pytest.raises(CheckpointError, match="no weights 'x'; it has model, ema/shadow"):
        load_model(path, weights="x")


def test_an_average_of_parameters_alone_takes_its_statistics_from_the_model(tmp_path, models):
    model, state = models["native"]
    parameters = {key: state[key] for key, _ in model.named_parameters()}
    path = saved(tmp_path, {"model": state, "ema": parameters})
    loaded = load_model(path, device="cpu")
    assert torch.equal(answers(loaded)[0], answers(model)[0])
    assert "ema lacks" in loaded.notes[1]
    assert "taken from model" in loaded.notes[1]


def test_mmengine_saves_its_average_in_the_place_of_the_model(tmp_path, models):
    model, state = models["mmsegmentation"]
    names = [f"kind {number}" for number in range(11)]
    content = {
        "meta": {"dataset_meta": {"classes": names}},
        "state_dict": state,
        "ema_state_dict": prefixed("module.", other(state)),
    }
    loaded = load_model(saved(tmp_path, content), device="cpu")
    assert torch.equal(answers(loaded)[0], answers(model)[0])
    assert loaded.class_names == tuple(names)


def test_what_is_left_out_and_assumed_is_said(tmp_path, models):
    _, state = models["native"]
    loaded = load_model(saved(tmp_path, {"state_dict": {**prefixed("net.", state), **METRICS}}))
    left_out, assumed = loaded.notes
    assert left_out == (
        "Left out 2 tensors beside the model's weights (val_iou.confmat, criterion_weights)."
    )
    assert "4 sampling points a head" in assumed
    _, state = models["transformers"]
    said = " ".join(load_model(saved(tmp_path, state)).notes)
    assert "no config.json" in said
    assert "no preprocessor_config.json" in said


def test_patches_are_merged_as_unfold_merges_them():
    torch.manual_seed(0)
    merging = PatchMerging(3).eval()
    torch.nn.init.normal_(merging.norm.weight)
    images = torch.randn(1, 4, 6, 3)
    # mmsegmentation: unfold, then norm, then the product
    patches = torch.nn.functional.unfold(images.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    theirs = {"norm.weight": torch.randn(12), "norm.bias": torch.randn(12)}
    reduction = torch.randn(6, 12)
    expected = torch.nn.functional.layer_norm(
        patches, (12,), theirs["norm.weight"], theirs["norm.bias"]
    )
    expected = expected @ reduction.T
    merging.load_state_dict(
        {
            **{name: by_position(value) for name, value in theirs.items()},
            "reduction.weight": by_position(reduction),
        }
    )
    with torch.inference_mode():
        found = merging(images).flatten(1, -2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["beside", "in the weights", "in the optimiser"])
def test_what_truly_calls_is_refused_wherever_it_lies(tmp_path, models, place):
    class Calls:
        def __reduce__(self):
            return exec, ("raise SystemExit",)

    _, state = models["detectron2"]
    content = {"model": dict(state), "optimizer": {"state": {}}, "args": argparse.Namespace(a=1)}
    target = {
        "beside": content,
        "in the weights": content["model"],
        "in the optimiser": content["optimizer"],
    }[place]
    target["x"] = Calls()
    for new in (True, False):
        torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError, match=r"it contains code \(builtins\.exec\)"):
            load_model(tmp_path / "bad.pth")


def test_a_tensor_pickled_without_torch_save_says_so(tmp_path, models):
    _, state = models["detectron2"]
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": state}))
    with pytest.raises(CheckpointError, match=r"torch\.save"):
        load_model(tmp_path / "model.pkl")


@pytest.mark.parametrize("wrapped", ["compiled", "parallel", "compiled inside"])
def test_a_wrapped_model_is_saved_as_it_was_before(tmp_path, models, wrapped):
    model = copy.deepcopy(models["native"][0])
    if wrapped == "compiled":
        model = torch.compile(model)
    elif wrapped == "parallel":
        model = torch.nn.DataParallel(model)
    else:
        model.backbone = torch.compile(model.backbone)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors", device="cpu")
    assert loaded.notes == ()
    assert torch.equal(answers(loaded)[0], answers(models["native"][0])[0])
    save_pair({"a": model}, tmp_path, "trunk")
    assert torch.equal(
        answers(load_model(tmp_path / "a.safetensors", device="cpu"))[0], answers(loaded)[0]
    )


def test_a_model_whose_file_could_not_be_read_leaves_the_old_file(tmp_path, models):
    model = copy.deepcopy(models["native"][0])
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    before = path.read_bytes()
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"Can't save.*2 unknown \(extra\.weight"):
        save_model(model, path)
    assert path.read_bytes() == before


def test_heads_mean_and_std_are_those_of_the_model(tmp_path):
    """Without metadata, of our small recipes: four heads, and another normalisation."""
    model = tiny("mask2kan_efficientnet_lite0", num_heads=4)
    assert model.config.pixel_mean == (127.0, 127.0, 127.0)
    path = saved(tmp_path, {"state_dict": prefixed("model.", model.state_dict())})
    loaded = load_model(path, device="cpu")
    assert loaded.config.num_heads == 4
    for found, expected in zip(answers(loaded), answers(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def halves(state):
    names = list(state)
    middle = len(names) // 2
    return (
        {name: state[name].clone() for name in part} for part in (names[:middle], names[middle:])
    )


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_shards_are_put_together_without_a_configuration_too(tmp_path, models, index):
    model, state = models["native"]
    table = {}
    for number, part in enumerate(halves(state)):
        name = f"part-{number}{'.bin' if '.bin' in index else '.safetensors'}"
        torch.save(part, tmp_path / name) if "bin" in name else save_file(part, tmp_path / name)
        table.update(dict.fromkeys(part, name))
    (tmp_path / index).write_text(json.dumps({"weight_map": table}))
    assert torch.equal(answers(load_model(tmp_path, device="cpu"))[0], answers(model)[0])


def test_what_trainers_save_beside_the_weights_is_not_taken_for_them(tmp_path, models):
    model, state = models["native"]
    saved(tmp_path, {"state": {}}, "optimizer.bin")
    saved(tmp_path, {"base_lrs": [1.0]}, "scheduler.bin")
    saved(tmp_path, state, "last.ckpt")
    assert torch.equal(answers(load_model(tmp_path, device="cpu"))[0], answers(model)[0])


def test_weights_in_a_folder_inside_are_named_and_can_be_chosen(tmp_path, models):
    model, state = models["native"]
    (tmp_path / "global_step5").mkdir()
    saved(tmp_path / "global_step5", {"module": state}, "mp_rank_00_model_states.pt")
    inside = "global_step5/mp_rank_00_model_states.pt"
    with pytest.raises(CheckpointError, match=f"Below it: {inside}; choose one with file="):
        load_model(tmp_path)
    loaded = load_model(tmp_path, file=inside, device="cpu")
    assert torch.equal(answers(loaded)[0], answers(model)[0])
