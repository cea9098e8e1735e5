"""Checkpoints that are pickles: numbers come out, code never runs, damage is one clear line."""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from mask2kan.checkpoints import load_model
from mask2kan.checkpoints.files import pickles
from mask2kan.checkpoints.files.arrays import as_array
from mask2kan.checkpoints.files.pickles import read_pickle
from mask2kan.checkpoints.files.readers import read_file
from mask2kan.errors import CheckpointError


class Calls:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def zipped(program):
    """A PyTorch file around a pickle."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer)
    result = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(result, "w") as new:
        for entry in old.infolist():
            is_program = entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, program if is_program else old.read(entry))
    return result.getvalue()


def read_whole(path):
    """All tensors of a file, with their numbers."""
    return {key: stored.read() for key, stored in read_file(path, path.name).tensors.items()}


def legacy(program):
    """A PyTorch file from before 1.6 around a pickle."""
    head = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    return b"".join(head) + program + pickle.dumps([], protocol=2)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("container", [bytes, zipped, legacy])
def test_a_pickle_that_calls_the_system_is_refused_by_name(tmp_path, protocol, container):
    canary = tmp_path / "canary"
    payload = {"model": {"weight": Calls(os.system, f"touch {canary}")}}
    path = tmp_path / "model.pth"
    path.write_bytes(container(pickle.dumps(payload, protocol=protocol)))
    expected = r"it contains code \(os\.system\)"
    if container is legacy and protocol not in (1, 2):
        expected = "Refused"  # torch writes protocol 2 and refuses others before it sees names
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    "payload",
    [
        Calls(getattr, Calls(__import__, "os"), "system"),
        Calls(eval, "1"),
        Calls(np.load, "x"),
        Calls(bytearray, 10**10),
        io.BytesIO(b"x"),
        Calls(functools.partial, print),
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_but_numbers_and_known_extras_is_refused(payload):
    for protocol in (2, 4):
        with pytest.raises(CheckpointError, match="Refused"):
            read_pickle(pickle.dumps({"model": payload}, protocol=protocol))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_out_as_they_went_in(protocol):
    rng = np.random.default_rng(0)
    arrays = {
        "f4": rng.normal(size=(3, 4)).astype("f4"),
        "f8": rng.normal(size=5),
        "f2": rng.normal(size=(2, 2)).astype("f2"),
        "big": rng.normal(size=(2, 3)).astype(">f4"),
        "fortran": np.asfortranarray(rng.normal(size=(4, 3))),
        "i8": np.arange(6).reshape(1, 2, 3),
        "bool": np.array([True, False]),
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 4), "f4"),
    }
    content = {"model": collections.OrderedDict(arrays), "step": np.float32(2.5), "by": "us"}
    found = read_pickle(pickle.dumps(content, protocol=protocol))
    assert found["step"] == 2.5
    assert found["by"] == "us"
    assert list(found["model"]) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(as_array(found["model"][key]), array)


def test_pickles_of_python_2_hold_their_bytes_as_text():
    raw = np.array([1.5, -2.0], "<f4").tobytes()
    program = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nU" + bytes([len(raw)]) + raw + b"tb."
    )
    np.testing.assert_array_equal(as_array(read_pickle(program)), [1.5, -2.0])


def test_claims_beyond_the_file_are_refused():
    good = pickle.dumps({"a": np.zeros((2, 3), "f4")}, protocol=2)
    sizes = b"K\x02K\x03\x86"  # the shape (2, 3)
    assert sizes in good
    with pytest.raises(CheckpointError, match="Damaged"):
        read_pickle(good.replace(sizes, b"J\xff\xff\xff\x7fK\x03\x86"))
    with pytest.raises(CheckpointError, match="Damaged"):
        read_pickle(b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x.")
    assert as_array(read_pickle(pickle.dumps(np.array([{}], dtype=object), protocol=2))) is None
    with pytest.raises(CheckpointError, match="opcodes"):
        read_pickle(b"\x80\x02" + b"N0" * 1_100_000 + b"N.")


def test_honest_pickles_need_little_of_what_may_be_copied(tmp_path, monkeypatch):
    """Twice their bytes at most, whatever the protocol; the room beside that is for small ones."""
    monkeypatch.setattr(pickles, "_ROOM", 0)
    monkeypatch.setattr(pickles, "_TIMES", 2)
    rng = np.random.default_rng(0)
    weights = {f"layer{i}.weight": rng.normal(size=(60, 60)).astype("f4") for i in range(20)}
    ordered = Calls(collections.OrderedDict, [["a", 1], ["b", 2]])  # as Python 2 writes it
    for protocol in range(6):
        content = {"model": weights, "seen": collections.Counter("abc"), "order": ordered}
        found = read_pickle(pickle.dumps(content, protocol=protocol))
        assert found["order"] == {"a": 1, "b": 2}
        assert found["seen"] == {"a": 1, "b": 1, "c": 1}
        np.testing.assert_array_equal(
            as_array(found["model"]["layer7.weight"]), weights["layer7.weight"]
        )
    state = {key: torch.from_numpy(value) for key, value in weights.items()}
    states = {number: {"exp_avg": value} for number, value in enumerate(state.values())}
    for new in (True, False):
        path = tmp_path / f"{new}.pth"
        content = {"model": state, "optimizer": {"state": states}}
        torch.save(content, path, _use_new_zipfile_serialization=new)
        assert torch.equal(read_whole(path)["layer7.weight"], state["layer7.weight"])


@pytest.mark.parametrize("container", [bytes, zipped, legacy])
def test_keys_whose_hash_would_overflow_the_stack_are_dropped(tmp_path, container):
    deep = b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s."  # a tuple 200,000 deep as a key
    path = tmp_path / "model.pth"
    path.write_bytes(container(deep))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        load_model(path)


def test_mutants_are_read_or_refused_and_nothing_else():
    rng = random.Random(0)
    arrays = {f"layer{i}.weight": np.arange(6, dtype="f4").reshape(2, 3) for i in range(4)}
    for protocol in (2, 4):
        original = pickle.dumps({"model": arrays}, protocol=protocol)
        for _ in range(1500):
            mutant = bytearray(original)
            for _ in range(rng.randint(1, 4)):
                mutant[rng.randrange(len(mutant))] = rng.randrange(256)
            if rng.random() < 0.2:
                del mutant[rng.randrange(len(mutant)) :]
            with contextlib.suppress(CheckpointError):
                read_pickle(bytes(mutant))


def test_state_dicts_are_found_in_their_wrappings(tmp_path):
    weights = {"a.weight": torch.arange(3.0), "b.weight": torch.ones(2, dtype=torch.float16)}
    for index, content in enumerate(
        (
            weights,
            {"model": weights, "iteration": 3},
            {"state_dict": collections.OrderedDict(weights)},
            {f"module.{key}": value for key, value in weights.items()},
        )
    ):
        for new in (True, False):
            path = tmp_path / f"{index}{new}.pth"
            torch.save(content, path, _use_new_zipfile_serialization=new)
            found = read_whole(path)
            assert found.keys() == weights.keys()
            assert all(torch.equal(found[key], value) for key, value in weights.items())


def test_flipped_bits_and_cuts_of_a_pytorch_file_are_noticed(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.arange(4000.0)}, path)
    original = path.read_bytes()
    rng = random.Random(1)
    for _ in range(30):
        position = rng.randrange(2000, 12000)  # inside the tensor's numbers
        flipped = bytearray(original)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="Damaged"):
            read_whole(path)
    for share in (0.01, 0.3, 0.9, 0.999):
        path.write_bytes(original[: int(len(original) * share)])
        with pytest.raises(CheckpointError, match="Damaged"):
            read_whole(path)


def test_archives_that_torch_never_writes_are_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", b"\0" * 10_000_000)
    with pytest.raises(CheckpointError, match="compressed"):
        read_file(path, "bomb")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("../outside", b"x")
    with pytest.raises(CheckpointError, match="outside its own folder"):
        read_file(path, "bomb")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"x")
    with pytest.raises(CheckpointError, match="none that torch.save wrote"):
        read_file(path, "bomb")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(2, 2).to_sparse(), "sparse"),
        (torch.zeros(2, dtype=torch.complex64), "complex"),
        (torch.zeros(1).expand(10**6, 10**6), "more than is stored"),
        ([1, 2], "a tensor was expected"),
    ],
)
def test_tensors_of_other_kinds_are_refused(tmp_path, value, said):
    torch.save({"weight": value}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=said):
        read_file(tmp_path / "model.pth", "model.pth")
