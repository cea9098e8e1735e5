"""No checkpoint takes the process, its memory or the model that serves.

What is hostile is loaded in a process with a limited address space (``checkpoint_child``).
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from app.services import models as service_module
from app.services.models import ModelService
from mask2kan import create_model
from mask2kan.checkpoints import build, hub, load_model, open_checkpoint, save_model
from mask2kan.errors import CheckpointError
from tests.fake_hub import FakeHub
from tests.reliability import hostile_checkpoints as hostile
from tests.reliability.checkpoint_child import Loaded, load_in_child
from tests.reliability.mutations import Mutation
from tests.tiny_models import tiny
from tests.unit.mask2kan.checkpoints.files.test_pickles import Calls, legacy, zipped
from tests.unit.mask2kan.checkpoints.foreign_names import in_detectron2s_names

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads and limits memory as Linux")

MOST_GROWTH = 50  # MB
ROOM = 1024  # MB of addresses that hostile files may take
SECONDS = 5.0  # of a hostile file, on a busy machine; they take 0.3
Save = Callable[[str, bytes], Path]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    save_model(tiny("mask2kan"), path)
    return path


def _written(folder: Path, files: Iterable[bytes]) -> list[Path]:
    paths = []
    for number, content in enumerate(files):
        paths.append(folder / f"{number}.pth")
        paths[-1].write_bytes(content)
    return paths


def _is_a_sentence(loaded: Loaded) -> bool:
    text = loaded.error
    return loaded.kind == "CheckpointError" and text.isprintable() and 20 < len(text) < 900


@pytest.mark.row("hostile configuration", limit="50 of 50 refused in a sentence, < 50 MB each")
def test_hostile_configurations(
    tmp_path: Path, good: Path, scale: Any, seed: int, figure: Any, save_failure: Save
) -> None:
    rng = random.Random(seed)
    early = list(itertools.islice(hostile.refused_before_anything_is_built(rng), scale(45, 450)))
    late = list(itertools.islice(hostile.refused_by_its_keys(rng), scale(5, 50)))
    paths = _written(tmp_path, (content for _, content in early + late))
    answers = load_in_child(paths, good, ROOM)
    refused = sum(map(_is_a_sentence, answers))
    most = max(answer.growth for answer in answers)
    built = sum(answer.built for answer in answers[: len(early)])
    figure(f"{refused} of {len(paths)}, {most:.0f} MB at most, {built} built before")
    for (words, content), answer in zip(early + late, answers, strict=True):
        bad = not _is_a_sentence(answer) or answer.growth >= MOST_GROWTH
        if bad or answer.seconds > SECONDS:
            saved = save_failure("hostile.safetensors", content)
            raise AssertionError((words, answer, saved))
    assert not built


def _honest(folder: Path, model: torch.nn.Module) -> dict[str, Path]:
    """A model in every kind of file, its weights untied and none of them zero."""
    names = ("float32.safetensors", "float16.safetensors", "zip.pth", "legacy.pth")
    files = {name: folder / name for name in (*names, "two.pkl", "four.pkl")}
    save_model(model, files["float32.safetensors"])
    save_model(model, files["float16.safetensors"], torch.float16)
    state = in_detectron2s_names(model)
    torch.save({"model": state, "optimizer": dict(state)}, files["zip.pth"])
    torch.save({"model": state}, files["legacy.pth"], _use_new_zipfile_serialization=False)
    arrays = {key: value.numpy() for key, value in state.items()}
    for name, protocol in (("two.pkl", 2), ("four.pkl", 4)):
        with files[name].open("wb") as file:
            pickle.dump({"model": arrays}, file, protocol=protocol)
    del state, arrays
    files["shards of transformers"] = _shards(folder / "shards")
    return files


def _shards(folder: Path) -> Path:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = [f"stage{number}" for number in range(1, 5)]
    swin = SwinConfig(embed_dim=96, depths=[2, 2, 2, 2], out_features=stages)
    config = Mask2FormerConfig(backbone_config=swin, encoder_layers=2, decoder_layers=7)
    model = Mask2FormerForUniversalSegmentation(config)
    model.save_pretrained(folder, max_shard_size="40MB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.mark.row("honest files", limit="peak ≤ 1.2 × the float32 model + 50 MB")
def test_honest_files_take_little_more_than_their_model(
    tmp_path: Path, good: Path, scale: Any, figure: Any
) -> None:
    torch.manual_seed(0)
    depths = scale((2, 2, 2, 2), (2, 2, 6, 2))
    layers = scale(6, 9)
    sizes = {"backbone_depths": depths, "num_decoder_layers": layers, "num_encoder_layers": 2}
    files = _honest(tmp_path, create_model("mask2kan_swin_t", **sizes))
    answers = load_in_child(list(files.values()), good, 4096)
    excess = {
        name: (answer.growth - MOST_GROWTH) / answer.model if answer.model else float("inf")
        for name, answer in zip(files, answers, strict=True)
    }
    worst = max(excess, key=lambda name: excess[name])
    grown = [answer.growth / max(answer.model, 1) for answer in answers]
    figure(f"{max(grown):.2f} × {answers[0].model:.0f} MB at most, without 50 MB off ({worst})")
    assert not any(answer.error for answer in answers)
    assert min(answer.model for answer in answers) > 63  # else two copies would pass
    assert excess[worst] <= 1.2


def _payloads(canary: Path) -> Iterator[bytes]:
    """Thirty and more files that call something; all try to make the canary."""
    command = f"touch {canary}"
    calls: list[Any] = [
        Calls(os.system, command),
        Calls(eval, f"__import__('os').system({command!r})"),
        Calls(exec, f"open({str(canary)!r}, 'w')"),
        Calls(open, str(canary), "w"),
        Calls(Calls(getattr, Calls(__import__, "os"), "system"), command),
        Calls(np.load, str(canary)),
    ]
    for protocol, container, call in itertools.product(range(6), (bytes, zipped, legacy), calls):
        try:
            program = pickle.dumps({"model": {"weight": call}}, protocol=protocol)
        except pickle.PicklingError:  # a call of a call
            continue
        yield container(program)
    yield f"cposix\nsystem\n(S{command!r}\ntR.".encode()
    yield b"\x80\x02" + f"(S{command!r}\niposix\nsystem\n.".encode()
    yield (
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c"
        + bytes([len(command)])
        + (command.encode() + b"\x85R.")
    )


def _mutants(originals: list[bytes], count: int, rng: random.Random) -> Iterator[bytes]:
    for _ in range(count):
        mutant = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 4)):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        if rng.random() < 0.2:
            del mutant[rng.randrange(len(mutant)) :]
        yield bytes(mutant)


def _small_files(folder: Path) -> list[bytes]:
    """Good ones, of every kind, whose mutants may come far."""
    state = {f"sem_seg_head.predictor.{n}.weight": torch.rand(2, 3) for n in range(6)}
    arrays = {key: value.numpy() for key, value in state.items()}
    torch.save({"model": state, "iteration": 1}, folder / "zip")
    torch.save(state, folder / "legacy", _use_new_zipfile_serialization=False)
    save_file(state, folder / "safetensors")
    files = [(folder / name).read_bytes() for name in ("zip", "legacy", "safetensors")]
    return files + [pickle.dumps({"model": arrays}, protocol=protocol) for protocol in (0, 2, 4, 5)]


@pytest.mark.row("malicious checkpoint", limit="0 canaries, 0 crashes, all refused in a sentence")
def test_nothing_in_a_checkpoint_runs(
    tmp_path: Path, good: Path, scale: Any, seed: int, figure: Any, save_failure: Save
) -> None:
    rng, canary = random.Random(seed), tmp_path / "canary"
    payloads = list(_payloads(canary))
    assert len(payloads) >= 30
    originals = payloads + _small_files(tmp_path) * 9
    contents = [*payloads, *_mutants(originals, scale(300, 20_000), rng)]
    (tmp_path / "files").mkdir()
    paths = _written(tmp_path / "files", contents)
    answers = load_in_child(paths, good, ROOM)
    wrong = [n for n, answer in enumerate(answers) if answer.kind != "CheckpointError"]
    code = sum("contains code" in answer.error for answer in answers[: len(payloads)])
    figure(
        f"{len(payloads)} payloads ({code} by the name of what they call), "
        f"{len(contents) - len(payloads)} mutants: {int(canary.exists())} canaries, "
        f"{len(wrong)} wrong, {max(answer.growth for answer in answers):.0f} MB at most"
    )
    for number in wrong[:5]:
        save_failure(f"{number}.pth", contents[number])
    assert not canary.exists()
    assert not [answers[number] for number in wrong]
    assert code > 0.8 * len(payloads)


@pytest.mark.row("special file as a checkpoint", limit="all refused in a sentence, none waited for")
def test_special_files(tmp_path: Path, good: Path, figure: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device.pth").symlink_to("/dev/zero")
    (tmp_path / "folder.safetensors").mkdir()
    folder = tmp_path / "config"
    folder.mkdir()
    os.mkfifo(folder / "config.json")
    (folder / "model.safetensors").symlink_to("/dev/zero")
    paths = [
        *("/dev/zero", "/dev/stdin", "/proc/self/fd", "/proc/self/mem", "a" * 5000, "a\0b", "\n"),
        *(tmp_path / name for name in ("pipe", "loop", "device.pth", "folder.safetensors")),
        *(folder, "a" * 300 + "/b", "~nobody_at_all/x", "\ud800", "../x", "x/y@", "é" * 4000),
    ]
    answers = load_in_child(paths, good, ROOM)
    figure(f"{sum(map(_is_a_sentence, answers))} of {len(paths)}")
    assert not [answer for answer in answers if not _is_a_sentence(answer)]


@pytest.mark.row("flipped bit in an own file", limit="50 of 50 refused; older files load")
def test_flipped_bits(tmp_path: Path, good: Path, scale: Any, seed: int, figure: Any) -> None:
    rng, content = random.Random(seed), good.read_bytes()
    start, count, caught = 8 + int.from_bytes(content[:8], "little"), scale(50, 500), 0
    path = tmp_path / "flipped.safetensors"
    for _ in range(count):
        flipped = bytearray(content)
        flipped[rng.randrange(start, len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="Damaged: sha256 of its weights differs"):
            load_model(path, device="cpu")
        caught += 1
    figure(f"{caught} of {count}")
    header = json.loads(content[8:start])
    del header["__metadata__"]["sha256"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    assert load_model(path, device="cpu").notes == ()


@pytest.fixture
def served(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(good.read_bytes())
    monkeypatch.setattr(hub, "_PAUSE", 0)
    with FakeHub({"someone/tiny": folder}) as running, running.attach(tmp_path / "cache"):
        yield running


@pytest.mark.row("damaged download", limit="20 cuts, 50 flips: all caught and fetched again")
def test_damaged_downloads(
    served: FakeHub, good: Path, tmp_path: Path, seed: int, figure: Any
) -> None:
    rng, content = random.Random(seed), good.read_bytes()
    blobs = tmp_path / "cache" / "models--someone--tiny" / "blobs"
    whole = 0
    for number in range(70):
        for blob in blobs.glob("*"):
            blob.unlink()
        asked = served.count("GET", "model.safetensors")
        if number < 20:
            served.cuts = [rng.randrange(len(content))]
        else:
            place, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
            served.altered = [_flipped(content, place, bit)]
        folder, name = hub.fetch("someone/tiny", None, None)
        assert served.count("GET", "model.safetensors") == asked + 2
        whole += (folder / name).read_bytes() == content
    # What lies in the cache is looked at, too, and with it alone refused
    [blob] = blobs.glob("*")
    blob.write_bytes(_flipped(content, len(content) // 2, 4))
    with hub.cached_only(), pytest.raises(CheckpointError, match="Damaged: sha256"):
        load_model("someone/tiny", device="cpu")
    figure(f"{whole} of 70 whole in the end")
    assert whole == 70


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


@pytest.mark.row("download larger than what is read", limit="0 bytes fetched")
def test_sizes_are_capped_before_anything_is_fetched(
    served: FakeHub, monkeypatch: pytest.MonkeyPatch, figure: Any
) -> None:
    monkeypatch.setattr(hub, "MAX_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"bytes; up to 1,000 are fetched"):
        hub.fetch("someone/tiny", None, None)
    figure(f"{served.sent} bytes")
    assert not served.sent


@pytest.mark.row("file changed while it is read", limit="noticed, in place and cut")
def test_files_that_change_meanwhile(tmp_path: Path, good: Path, figure: Any) -> None:
    content, noticed = good.read_bytes(), 0
    path = tmp_path / "model.safetensors"
    for change, said in ((bytes(len(content)), "was changed"), (content[:9000], "ended early")):
        path.write_bytes(content)
        os.utime(path, (0, 0))
        checkpoint = open_checkpoint(path)
        path.write_bytes(change)
        with pytest.raises(CheckpointError, match=said):
            build.build(checkpoint)
        noticed += 1
    # A file in its place is another one
    path.write_bytes(content)
    checkpoint = open_checkpoint(path)
    (tmp_path / "new").write_bytes(bytes(100))
    (tmp_path / "new").replace(path)
    build.build(checkpoint)
    figure(f"{noticed} of 2")


@pytest.mark.row("model larger than the memory", limit="refused before it is read")
def test_a_model_that_does_not_fit(
    good: Path, monkeypatch: pytest.MonkeyPatch, figure: Any
) -> None:
    checkpoint = open_checkpoint(good)
    model = load_model(good, device="cpu")
    held = sum(t.nbytes for t in itertools.chain(model.parameters(), model.buffers()))
    figure(f"{checkpoint.model_bytes / held:.3f} of the model's bytes are known before")
    assert abs(checkpoint.model_bytes / held - 1) < 0.01
    monkeypatch.setattr(build, "available_memory", lambda _: checkpoint.model_bytes - 1)
    monkeypatch.setattr(build, "_read", pytest.fail)
    with pytest.raises(CheckpointError, match=r"model takes .* GB of memory, and .* are free"):
        load_model(good, device="cpu")


def _bad_files(folder: Path, good: Path) -> list[Path]:
    content = good.read_bytes()
    bad = {
        "flipped": _flipped(content, len(content) - 9, 1),
        "cut": content[:-1],
        "hostile": next(hostile.refused_before_anything_is_built(random.Random(0)))[1],
        "keys": next(hostile.refused_by_its_keys(random.Random(0)))[1],
        "page": b"<!DOCTYPE html><html>404</html>",
        "code": pickle.dumps({"model": Calls(os.system, "true")}, protocol=4),
    }
    for name, data in bad.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    return [folder / f"{name}.safetensors" for name in bad]


@pytest.mark.row("bad one leaves the serving model", limit="it answers without loading again")
@pytest.mark.parametrize("room", ["ample", "none"])
def test_the_serving_model_stays(
    tmp_path: Path, good: Path, room: str, monkeypatch: pytest.MonkeyPatch, figure: Any
) -> None:
    opened: list[str] = []

    def counted(source: str, **options: Any) -> Any:
        opened.append(source)
        return open_checkpoint(source, **options)

    monkeypatch.setattr(service_module, "open_checkpoint", counted)
    service = ModelService(device="cpu")
    service.catalog.typed_paths = True
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    service.answers([str(good)], images[0], "msp")
    if room == "none":
        monkeypatch.setattr(service_module, "available_memory", lambda _: 0)
    kept = 0
    for number, bad in enumerate(_bad_files(tmp_path, good), start=1):
        with pytest.raises(CheckpointError):
            service.answers([str(bad)], images[number], "msp")
        service.answers([str(good)], images[number], "msp")
        kept += opened.count(str(good)) == 1
    figure(f"{kept} of 6 bad ones, {room} memory left")
    assert kept == 6


_BUILD, _FILES = "mask2kan.checkpoints.build", "mask2kan.checkpoints.files"
MUTATIONS = [
    Mutation(
        "layers that the tensors cannot fill",
        "test_hostile",
        _BUILD,
        "if sum(layers.values()) > len(state):",
        "if False:",
    ),
    Mutation(
        "numbers that the file does not hold",
        "test_hostile",
        _BUILD,
        "if most > held:",
        "if False:",
    ),
    Mutation(
        "blocks of a backbone",
        "test_hostile",
        "mask2kan.checkpoints.infer_config",
        "MOST_BLOCKS = 128",
        "MOST_BLOCKS = 10**9",
    ),
    Mutation(
        "names of classes",
        "test_hostile",
        "mask2kan.modeling.config",
        "not name.isprintable() or len(name) > LONGEST_NAME",
        "False",
    ),
    Mutation(
        "fitted without memory",
        "test_hostile",
        _BUILD,
        'with torch.device("meta"):',
        'with torch.device("cpu"):',
    ),
    Mutation(
        "tensors are read into their own memory",
        "test_honest",
        _BUILD,
        "model.load_state_dict(dict(_read(checkpoint, model.state_dict(), device)), assign=True)",
        "model.to_empty(device=device);"
        " model.load_state_dict(dict(_read(checkpoint, model.state_dict(), device)))",
    ),
    Mutation(
        "arrays stay in the file",
        "test_honest",
        f"{_FILES}.pickles",
        "if length < _LARGE or unpickler.in_frame:",
        "if True:",
    ),
    Mutation(
        "names that a pickle may import",
        "test_nothing",
        f"{_FILES}.pickles",
        '    raise refusal(f"{module}.{name}")',
        "    return Symbol(pickle._getattribute(__import__(module), name)[0])",
    ),
    Mutation(
        "regular files alone",
        "test_special",
        f"{_FILES}.opened",
        "if not stat.S_ISREG(status.st_mode):",
        "if False:",
    ),
    Mutation(
        "digest of the weights",
        "test_flipped",
        f"{_FILES}.readers",
        "if expected is not None and sha256 is None:",
        "if False:",
    ),
    Mutation(
        "digest of a download",
        "test_damaged",
        "mask2kan.checkpoints.hub",
        "if sha256_of(path) == lfs.sha256:",
        "if True:",
    ),
    Mutation(
        "digest of the cache",
        "test_damaged",
        "mask2kan.checkpoints.hub",
        "if SHA256.fullmatch(path.name) and sha256_of(path) != path.name:",
        "if False:",
    ),
    Mutation(
        "size of a download",
        "test_sizes",
        "mask2kan.checkpoints.hub",
        "if total > MAX_BYTES:",
        "if False:",
    ),
    Mutation(
        "a file's change is noticed",
        "test_files_that",
        _BUILD,
        "        file.require_unchanged()",
        "        pass",
    ),
    Mutation(
        "a model larger than the memory",
        "test_a_model",
        _BUILD,
        "if room is not None and room < checkpoint.model_bytes:",
        "if False:",
    ),
    Mutation(
        "keys are compared before room is made",
        "test_the_serving",
        "mask2kan.checkpoints.load",
        "        checkpoint.fitted = fit(checkpoint)",
        "        pass",
    ),
]
