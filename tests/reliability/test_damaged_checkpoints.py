"""Code in a checkpoint never runs, damage is noticed, and a stranger's text stays on its line."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mask2kan.checkpoints import build, hub, load_model, open_checkpoint, save_model
from mask2kan.errors import CheckpointError
from tests.fake_hub import FakeHub
from tests.reliability.checkpoint_child import load_in_child
from tests.reliability.checkpoint_files import (
    flipped,
    mutants,
    payloads_of,
    small_files,
    written_files,
)
from tests.reliability.mutations import Mutation
from tests.tiny_models import tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads and limits memory as Linux")

ROOM = 1024  # MB of addresses that hostile files may take
Save = Callable[[str, bytes], Path]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    save_model(tiny("mask2kan"), path)
    return path


@pytest.mark.row("malicious checkpoint", limit="0 canaries, 0 crashes, all refused in a sentence")
def test_nothing_in_a_checkpoint_runs(
    tmp_path: Path, good: Path, scale: Any, seed: int, figure: Any, save_failure: Save
) -> None:
    rng, canary = random.Random(seed), tmp_path / "canary"
    payloads = list(payloads_of(canary))
    assert len(payloads) >= 30
    originals = payloads + small_files(tmp_path) * 9
    contents = [*payloads, *mutants(originals, scale(300, 20_000), rng)]
    (tmp_path / "files").mkdir()
    paths = written_files(tmp_path / "files", contents)
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


@pytest.mark.row("strangers' text", limit="printable, on one line, cut")
def test_strangers_text(
    tmp_path: Path, good: Path, caplog: pytest.LogCaptureFixture, figure: Any
) -> None:
    evil = "a\nERROR forged\r\x1b[31m\0\u2028\u202e" + "x" * 5000
    tensors, about = load_file(good), _about(good)
    path = tmp_path / "evil.safetensors"

    def written(**changes: Any) -> Path:
        save_file(tensors, path, metadata={"mask2kan": json.dumps({**about, **changes})})
        return path

    names = [evil, *"bcde"]
    with pytest.raises(CheckpointError, match=r"class_names\[0\]"):
        load_model(written(config={**about["config"], "class_names": names}), device="cpu")
    calibration = {"msp": {"range": [0, 1], "data": evil}}
    model = load_model(written(card={evil: [evil]}, calibration=calibration), device="cpu")
    said = [*model.card, *model.card.popitem()[1], model.calibration["msp"]["data"]]
    # Weights of another code base under odd names: a note of what was left out, and an error
    foreign = {f"model.{key}": value for key, value in tensors.items()}
    torch.save({"state_dict": foreign | {evil: torch.ones(1)}}, tmp_path / "foreign.pth")
    with caplog.at_level(logging.WARNING):
        said += load_model(tmp_path / "foreign.pth", device="cpu").notes
    said += [record.getMessage() for record in caplog.records]
    for content in ({evil: torch.ones(1)}, {**tensors, f"transformer_decoder.{evil}": tensors}):
        torch.save(content, path)
        with pytest.raises(CheckpointError) as caught:
            load_model(path, device="cpu")
        said.append(str(caught.value))
    with pytest.raises(CheckpointError) as caught:
        load_model(evil.replace("\0", ""), device="cpu")
    said.append(str(caught.value))
    figure(f"{sum(map(str.isprintable, said))} of {len(said)}, {max(map(len, said))} characters")
    assert len(said) >= 8
    assert all(text.isprintable() and len(text) < 2500 for text in said), said


def _about(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["mask2kan"])
    return found


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
            served.altered = [flipped(content, place, bit)]
        folder, name = hub.fetch("someone/tiny", None, None)
        assert served.count("GET", "model.safetensors") == asked + 2
        whole += (folder / name).read_bytes() == content
    # What lies in the cache is looked at, too, and with it alone refused
    [blob] = blobs.glob("*")
    blob.write_bytes(flipped(content, len(content) // 2, 4))
    with hub.cached_only(), pytest.raises(CheckpointError, match=r"sha256 of model\.safetensors"):
        load_model("someone/tiny", device="cpu")
    figure(f"{whole} of 70 whole in the end")
    assert whole == 70


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


_BUILD, _FILES = "mask2kan.checkpoints.build", "mask2kan.checkpoints.files"
MUTATIONS = [
    Mutation(
        "names of classes",
        "test_strangers",
        "mask2kan.modeling.config",
        "not name.isprintable() or len(name) > LONGEST_NAME",
        "False",
    ),
    Mutation(
        "names that a pickle may import",
        "test_nothing",
        f"{_FILES}.pickles",
        '    raise refusal(f"{module}.{name}")',
        "    return Symbol(pickle._getattribute(__import__(module), name)[0])",
    ),
    Mutation(
        "messages on one line",
        "test_strangers",
        "mask2kan.errors",
        "super().__init__(plain_line(message))",
        "super().__init__(message)",
    ),
    Mutation(
        "notes on one line",
        "test_strangers",
        "mask2kan.checkpoints.infer_config",
        "tuple(plain_line(note) for note in self.notes)",
        "self.notes",
    ),
    Mutation(
        "cards on one line",
        "test_strangers",
        "mask2kan.checkpoints.formats.native",
        "card=plain_text(card)",
        "card=card",
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
]
