"""A small checkpoint costs little, whatever it says, and ends in a sentence, never in a traceback.

Each file would take gigabytes or minutes, or raise another error, but for one guard; what is said
shows which one stopped it.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mask2kan.checkpoints import load_model, save_model
from mask2kan.checkpoints.files.opened import Extent
from mask2kan.errors import CheckpointError
from tests.reliability.checkpoint_child import load_in_child
from tests.reliability.checkpoint_files import is_a_sentence
from tests.reliability.mutations import Mutation, turned_off
from tests.tiny_models import tiny
from tests.unit.mask2kan.checkpoints.files.test_pickles import legacy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads and limits memory as Linux")

MOST_GROWTH = 150  # MB
ROOM = 1024  # MB of addresses that hostile files may take
_PRIME = 2**61 - 1  # Python's hash of an integer is its remainder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    save_model(tiny("mask2kan"), path)
    return path


def _text(text: bytes) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text


def _whole(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1, "little")
    return b"\x8b" + len(data).to_bytes(4, "little") + data


_ENCODE, _ORDERED = b"c_codecs\nencode\nq\x00", b"ccollections\nOrderedDict\nq\x00"
# An array of one byte, kept at the memo's place 9
_ARRAY = b"cnumpy\nndarray\nq\x080h\x08)\x81(K\x01K\x01\x85cnumpy\ndtype\n" + _text(b"u1")
_ARRAY += b"\x85R\x89C\x01atbq\x090"
_HEAD = _text(b"sem_seg_head.x")


def _again(call: bytes, argument: bytes, count: int) -> bytes:
    """Call something with one argument, kept in the memo: five bytes for each time."""
    return b"\x80\x02" + call + argument + b"\x85q\x01](" + b"h\x00h\x01R" * count + b"e."


def _header(*keys: str) -> bytes:
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps(dict.fromkeys(keys, empty)).encode()
    return len(text).to_bytes(8, "little") + text


def _costly() -> Iterator[tuple[str, str, bytes]]:
    """Small files: what costs, what must be said, and the file's bytes."""
    data, over = b"a" * 60_000, "copies the same data"
    yield "encoded", over, _again(_ENCODE, _text(data), 20_000)
    pairs = b"](" + b"h\x00K\x01\x86" * 20_000 + b"e"
    yield "looked through", over, _again(_ORDERED, pairs, 3_000)
    items = b"}(" + b"".join(b"M" + n.to_bytes(2, "little") + b"N" for n in range(20_000)) + b"u"
    yield "counted", over, _again(b"ccollections\nCounter\nq\x00", items, 3_000)
    state = b"\x80\x02cnumpy\nndarray\nq\x00(K\x01M\x60\xea\x85cnumpy\ndtype\n" + _text(b"u1")
    state += b"\x85R\x89" + _text(data) + b"tq\x01](" + b"h\x00)\x81h\x01b" * 15_000 + b"e."
    yield "states", over, state
    typed = b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00" + _ORDERED.replace(b"\x00", b"\x02")
    typed += b"N" + pairs + b"\x85\x87q\x01](" + b"h\x00h\x01R" * 1_000 + b"e."
    yield "two levels down", "a tensor that nothing makes", b"\x80\x02" + typed
    keys = b"".join(_whole(n * _PRIME) + b"N" for n in range(1, 5_000))
    yield "keys of one hash", "no tensors", b"\x80\x02}(" + keys + b"u."
    yield "a long integer as a key", "no tensors", b"\x80\x02}" + _whole(1 << 60_000) + b"Ns."
    yield "a long text as a key", "no tensors", b"\x80\x02}" + _text(data) + b"Ns."
    places = b"".join(b"p%d\n" % (n * _PRIME) for n in range(1, 5_000))
    yield "places of one hash", "under numbers that no pickle needs", b"\x80\x02N" + places + b"."
    storage = b"\x80\x02(" + _text(b"storage") + b"ctorch\nFloatStorage\n%s" + _text(b"cpu") + b"%s"
    for number in (1 << 60_000, 1 << 48):
        program = storage % (_text(b"0"), _whole(number)) + b"NtQ."
        yield "a storage's size", "without a key or a count", legacy(program)
    yield "a storage's name", "without a key", legacy(storage % (_text(data), b"K\x01") + b"NtQ.")
    names = pickle.dumps(["a" * 1000], protocol=2)
    yield "names of storages", "lists no storages", legacy(b"\x80\x02}.")[: -len(_EMPTY)] + names
    tables = b"".join(_text(b"%d" % n) + b"}" + _HEAD + b"h\x09s" for n in range(5_000))
    yield "tables", "over 64 sets", b"\x80\x02" + _ARRAY + b"}(" + tables + b"u."
    yield "prefixes", "over 64 sets", _header(*(f"a{n}.sem_seg_head.x" for n in range(3_000)))
    yield "a long name", "over 10,000 characters", _header("a." * 1_500_000)


_EMPTY = pickle.dumps([], protocol=2)


@pytest.mark.row("small file that costs much", limit="all refused in a sentence, < 150 MB each")
def test_small_files_cost_little(tmp_path: Path, good: Path, figure: Any) -> None:
    files = list(_costly())
    paths = [tmp_path / f"{number}.pth" for number in range(len(files))]
    for path, (_, _, content) in zip(paths, files, strict=True):
        path.write_bytes(content)
    answers = load_in_child(paths, good, ROOM)
    most = max(answer.growth for answer in answers)
    figure(f"{sum(map(is_a_sentence, answers))} of {len(files)}, {most:.0f} MB at most")
    for (words, said, _), answer in zip(files, answers, strict=True):
        assert is_a_sentence(answer), (words, answer)
        assert re.search(said, answer.error), (words, answer.error)
        assert answer.growth < MOST_GROWTH, (words, answer)


def _odd_files(folder: Path, good: Path) -> Iterator[tuple[str, Path]]:
    """What must be said, and a file or folder beside which something names what there can't be."""
    tensors = load_file(good)
    about = {"format": 1, "config": tiny("mask2kan").config.to_dict()}
    for number, name in enumerate(("a" * 300, "a\0", "\ud800")):
        trunk = {"file": f"{name}.safetensors", "sha256": "0" * 64}
        head = folder / f"head{number}.safetensors"
        save_file(tensors, head, metadata={"mask2kan": json.dumps({**about, "trunk": trunk})})
        yield "expected a plain file name", head
        shards = folder / f"shards{number}"
        shards.mkdir()
        index = {"weight_map": {"x": f"{name}.safetensors"}}
        (shards / "model.safetensors.index.json").write_text(json.dumps(index))
        yield "names the file", shards
    for number, backbone in enumerate(([1], "swin", 7)):
        theirs = folder / f"theirs{number}"
        theirs.mkdir()
        (theirs / "config.json").write_text(json.dumps({"backbone_config": backbone}))
        (theirs / "model.safetensors").write_bytes(_header("model.pixel_level_module.x"))
        yield "an object was expected", theirs
    knots = {**tensors, _knots(tensors): torch.zeros(5_000, 12)}
    torch.save(knots, folder / "knots.pth")
    yield "no model has as many", folder / "knots.pth"


def _knots(tensors: dict[str, Any]) -> str:
    return next(key for key in tensors if key.endswith(".grid"))


@pytest.mark.row("checkpoint that names what can't be", limit="all refused in a sentence")
def test_odd_files_are_refused(tmp_path: Path, good: Path, figure: Any) -> None:
    files = list(_odd_files(tmp_path, good))
    answers = load_in_child([path for _, path in files], good, ROOM)
    figure(f"{sum(map(is_a_sentence, answers))} of {len(files)}")
    for (said, _), answer in zip(files, answers, strict=True):
        assert is_a_sentence(answer), answer
        assert said in answer.error, answer


@pytest.mark.row("weights that are no finite float32", limit="refused by name; float8 loads")
def test_weights_become_what_the_model_takes(tmp_path: Path, good: Path, figure: Any) -> None:
    tensors, path = load_file(good), tmp_path / "model.pth"
    key, refused = "transformer_decoder.query_feat.weight", 0
    value = tensors[key]
    for other, said in (
        (torch.full_like(value, 1e300, dtype=torch.float64), "not finite in 1 tensors"),
        (torch.full_like(value, float("nan"), dtype=torch.float32), "not finite in 1 tensors"),
        (torch.full_like(value, float("nan")).to(torch.float8_e4m3fn), "not finite in 1 tensors"),
        (value.to(torch.int64), "integers or booleans in 1 tensors"),
        (value.to(torch.uint8), "integers or booleans in 1 tensors"),
        (value.to(torch.bool), "integers or booleans in 1 tensors"),
    ):
        torch.save({**tensors, key: other}, path)
        with pytest.raises(CheckpointError, match=rf"{said} \({re.escape(key)}\)"):
            load_model(path, device="cpu")
        refused += 1
    small = value.to(torch.float8_e4m3fn)
    # A counter is no weight; some averages make it a fraction
    counters = {name: 7 * torch.ones(()) for name in tensors if name.endswith("tracked")}
    assert counters
    torch.save({**tensors, **counters, key: small}, path)
    state = load_model(path, device="cpu").state_dict()
    figure(f"{refused} of 6")
    assert torch.equal(state[key], small.float())
    assert {int(state[name]) for name in counters} == {7}


@pytest.mark.row("disk that fails beneath a checkpoint", limit="a sentence")
def test_a_disk_that_fails(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch, figure: Any
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(load_file(good), path)  # without metadata, so knots are read to see the model
    read = Extent.read_into

    def failing(extent: Extent, target: memoryview, offset: int = 0) -> None:
        if extent.start > 8:  # behind the header
            raise OSError(5, "Input/output error")
        read(extent, target, offset)

    monkeypatch.setattr(Extent, "read_into", failing)
    with pytest.raises(CheckpointError, match=r"Can't read .*: Input/output error\.") as caught:
        load_model(path, device="cpu")
    figure(str(caught.value)[-20:])


_FILES = "mask2kan.checkpoints.files"
_PICKLES, _TORCH = f"{_FILES}.pickles", f"{_FILES}.torch_files"
MUTATIONS = [
    Mutation(
        "arguments that are copied are counted",
        "test_small",
        _PICKLES,
        "        self._spend(arguments)\n",
        "",
    ),
    Mutation(
        "states that are copied are counted",
        "test_small",
        _PICKLES,
        "            self._spend(state)\n",
        "            pass\n",
    ),
    Mutation(
        "nothing but tensors is made two levels down",
        "test_small",
        _TORCH,
        "if function not in _REBUILT.values() or",
        "if not isinstance(function, Symbol) or",
    ),
    Mutation(
        "integers as keys",
        "test_small",
        _PICKLES,
        "return -_LARGEST_KEY < key < _LARGEST_KEY",
        "return True",
    ),
    Mutation(
        "texts as keys",
        "test_small",
        _PICKLES,
        "return len(key) <= LONGEST_KEY",
        "return True",
    ),
    turned_off("places in a memo", _PICKLES, "not 0 <= place <= MAX_OPCODES:", "test_small"),
    Mutation(
        "sizes of storages",
        "test_small",
        _TORCH,
        "not 0 <= count < MAX_COUNT",
        "count < 0",
    ),
    Mutation(
        "names of storages",
        "test_small",
        _TORCH,
        "return isinstance(key, str) and len(key) <= _LONGEST_KEY",
        "return isinstance(key, str)",
    ),
    turned_off("sets of weights", f"{_FILES}.weight_sets", "count > MAX_SETS:", "test_small"),
    turned_off(
        "names of tensors",
        f"{_FILES}.safetensors_files",
        "any(len(key) > LONGEST_KEY for key in header):",
        "test_small",
    ),
    Mutation(
        "names of files",
        "test_odd",
        f"{_FILES}.opened",
        "return plain and len(name.encode()) <= _LONGEST_NAME",
        "return PurePath(name).name == name",
    ),
    turned_off(
        "a backbone's configuration",
        "mask2kan.checkpoints.formats.transformers",
        "not isinstance(backbone, dict):",
        "test_odd",
    ),
    turned_off(
        "knots that are read to see the model",
        "mask2kan.checkpoints.infer_config",
        'rows > MAXIMA["hidden_dim"]',
        "test_odd",
    ),
    Mutation(
        "weights are judged as the model gets them",
        "test_weights",
        "mask2kan.checkpoints.build",
        "        value = value.to(wanted.dtype)\n",
        "",
    ),
    turned_off(
        "integers in place of weights", "mask2kan.checkpoints.build", "whole:", "test_weights"
    ),
    Mutation(
        "errors of the disk",
        "test_a_disk",
        "mask2kan.checkpoints.load",
        "except (CheckpointError, OSError) as error:\n        for",
        "except CheckpointError as error:\n        for",
    ),
]
