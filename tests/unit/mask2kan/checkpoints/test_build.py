"""A loaded model is the saved one, down to what no file holds, and its size is known before."""

from __future__ import annotations

import hashlib
import itertools
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mask2kan.checkpoints import (
    build_model,
    load_model,
    open_checkpoint,
    save_again,
    save_model,
    save_pair,
)
from mask2kan.checkpoints.files.stored import StoredTensor
from mask2kan.errors import CheckpointError, ConfigError
from mask2kan.modeling.config import model_config
from tests.tiny_models import BACKBONES, tiny


def all_tensors(model):
    return dict(itertools.chain(model.named_parameters(), model.named_buffers()))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("family", ["mask2kan", "mask2anomaly"])
def test_every_tensor_is_the_saved_ones(tmp_path, family, backbone):
    model = tiny(family, backbone)
    save_model(model, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path / "model.safetensors")
    loaded = build_model(checkpoint, "cpu")
    ours, theirs = all_tensors(model), all_tensors(loaded)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name].dtype == value.dtype, name
        assert torch.equal(theirs[name], value), name
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    held = sum(value.nbytes for value in ours.values())
    assert abs(checkpoint.model_bytes - held) <= 1000  # mean and std, counters


def test_weights_of_other_dtypes_and_strides_become_the_models(tmp_path):
    model = tiny("mask2kan")
    state = {}
    for number, (key, value) in enumerate(model.state_dict().items()):
        state[key] = value.double() if value.is_floating_point() and number % 2 else value
        if value.ndim == 4:
            state[key] = state[key].to(memory_format=torch.channels_last)
        elif value.ndim == 2:
            state[key] = state[key].T.contiguous().T
    torch.save(state, tmp_path / "model.pth")
    loaded = load_model(tmp_path / "model.pth", device="cpu")
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
        assert loaded.state_dict()[key].is_contiguous()


def digest_of(path):
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert start % 8 == 0
    return hashlib.sha256(content[start:]).hexdigest()


def stated_digest(path):
    with safe_open(path, "pt") as file:  # the library's own reader takes the file, too
        assert all(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
        return file.metadata()["sha256"]


def test_every_own_file_states_the_digest_of_its_weights(tmp_path):
    model = tiny("mask2kan")
    save_model(model, tmp_path / "whole.safetensors", torch.float16)
    save_pair({"head": model}, tmp_path, "trunk")
    save_again(model, tmp_path / "head.safetensors")
    for name in ("whole", "head", "trunk"):
        path = tmp_path / f"{name}.safetensors"
        assert stated_digest(path) == digest_of(path)
    before = (tmp_path / "trunk.safetensors").read_bytes()
    save_pair({"head": model}, tmp_path, "trunk")
    assert (tmp_path / "trunk.safetensors").read_bytes() == before  # the same every time


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": [2**40, 2**40]}, "Damaged"),
        ({"shape": [-1]}, "does not say where"),
        ({"shape": 3}, "does not say where"),
        ({"data_offsets": [0, 2**63]}, "does not say where"),
        ({"data_offsets": [4, 0]}, "Damaged"),
        ({"data_offsets": [8, 12]}, "overlap or leave gaps"),
        ({"dtype": "C64"}, "has type C64"),
        ({"dtype": ["F32"]}, "has type"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, changes, said):
    header = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(CheckpointError, match=said):
        load_model(path)


def test_a_hundred_thousand_tensors_are_too_many(tmp_path):
    entry = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    path = tmp_path / "model.safetensors"
    for count, said in ((25_000, "25,000 tensors; up to 20,000"), (100_000, "header has")):
        text = ("{" + ",".join(entry % number for number in range(count)) + "}").encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(CheckpointError, match=said):
            load_model(path)


def test_a_few_numbers_spread_over_a_large_storage_are_not_read(tmp_path):
    """Each would read all of it; a state of thousands would take for ever."""
    storage = torch.zeros(3_000_000)
    torch.save({"x": storage[::1_000_000], "y": storage[:3]}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="'x' is spread over too much"):
        load_model(tmp_path / "model.pth")


def test_large_arrays_of_old_protocols_are_read_from_their_file(tmp_path):
    import pickle

    from mask2kan.checkpoints.files.arrays import Piece
    from mask2kan.checkpoints.files.readers import read_file

    values = np.random.default_rng(0).normal(size=(300, 200)).astype("f4")
    fortran = np.asfortranarray(values)
    for protocol in range(6):
        path = tmp_path / "model.pkl"
        path.write_bytes(pickle.dumps({"a": values, "b": fortran}, protocol=protocol))
        tensors = read_file(path, "it", whole=True).tensors
        assert not any(isinstance(stored, StoredTensor) for stored in tensors.values())
        if protocol >= 2:
            assert isinstance(tensors["a"].data, Piece)
        for stored in tensors.values():
            np.testing.assert_array_equal(stored.read().numpy(), values)


@pytest.mark.parametrize(
    "changes",
    [
        {"pixel_std": (1.0, 0.0, 1.0)},
        {"pixel_mean": (1e308, 0.0, 0.0)},
        {"kan_bias": 1},
        {"standalone_spline_scale": None},
        {"class_names": ("\u202e", *"bcdefghijklmnopqrs")},
        {"num_heads": 10**4000},
    ],
)
def test_fields_that_no_model_has_are_refused_briefly(changes):
    with pytest.raises(ConfigError) as caught:
        model_config("mask2kan_r50", **changes)
    assert next(iter(changes)) in str(caught.value)
    assert len(str(caught.value)) < 400
