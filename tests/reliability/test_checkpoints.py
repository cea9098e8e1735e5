"""No checkpoint takes the process, its memory or the model that serves.

What is hostile is loaded in a process with a limited address space (``checkpoint_child``).
"""

from __future__ import annotations

import itertools
import os
import pickle
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.services import models as service_module
from app.services.models import Models
from mask2kan import create_model
from mask2kan.checkpoints import build, load_model, open_checkpoint, save_model
from mask2kan.checkpoints.files import opened
from mask2kan.errors import CheckpointError
from tests.reliability import hostile_checkpoints as hostile
from tests.reliability.checkpoint_child import load_in_child
from tests.reliability.checkpoint_files import (
    flipped,
    honest_files,
    is_a_sentence,
    written_files,
)
from tests.reliability.mutations import Mutation
from tests.tiny_models import tiny
from tests.unit.mask2kan.checkpoints.files.test_pickles import Calls

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


@pytest.mark.row("hostile configuration", limit="50 of 50 refused in a sentence, < 50 MB each")
def test_hostile_configurations(
    tmp_path: Path, good: Path, scale: Any, seed: int, figure: Any, save_failure: Save
) -> None:
    rng = random.Random(seed)
    early = list(itertools.islice(hostile.refused_before_anything_is_built(rng), scale(45, 450)))
    late = list(itertools.islice(hostile.refused_by_its_keys(rng), scale(5, 50)))
    paths = written_files(tmp_path, (content for _, content in early + late))
    answers = load_in_child(paths, good, ROOM)
    refused = sum(map(is_a_sentence, answers))
    most = max(answer.growth for answer in answers)
    built = sum(answer.built for answer in answers[: len(early)])
    figure(f"{refused} of {len(paths)}, {most:.0f} MB at most, {built} built before")
    for (words, content), answer in zip(early + late, answers, strict=True):
        bad = not is_a_sentence(answer) or answer.growth >= MOST_GROWTH
        if bad or answer.seconds > SECONDS:
            saved = save_failure("hostile.safetensors", content)
            raise AssertionError((words, answer, saved))
    assert not built


@pytest.mark.row("honest files", limit="peak ≤ 1.2 × the float32 model + 50 MB")
def test_honest_files_take_little_more_than_their_model(
    tmp_path: Path, good: Path, scale: Any, figure: Any
) -> None:
    torch.manual_seed(0)
    depths = scale((2, 2, 2, 2), (2, 2, 6, 2))
    layers = scale(6, 9)
    sizes = {"backbone_depths": depths, "num_decoder_layers": layers, "num_encoder_layers": 2}
    files = honest_files(tmp_path, create_model("mask2kan_swin_t", **sizes))
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
    figure(f"{sum(map(is_a_sentence, answers))} of {len(paths)}")
    assert not [answer for answer in answers if not is_a_sentence(answer)]
    named = ("/dev/zero", "/proc/self/mem", "/pipe", "/device.pth")
    special = [answer for answer in answers if answer.path.endswith(named)]
    # /proc/self/mem is a regular file without bytes
    assert sum("no regular file" in answer.error for answer in special) == 3, special


@pytest.mark.row("pipe in a file's place", limit="not waited for")
def test_a_pipe_that_took_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Any
) -> None:
    os.mkfifo(tmp_path / "pipe")
    check, seen = opened._require_regular, []

    def second(status: os.stat_result) -> None:
        seen.append(status)
        if len(seen) > 1:  # the first saw a file
            check(status)

    monkeypatch.setattr(opened, "_require_regular", second)
    errors: list[BaseException] = []

    def load() -> None:
        try:
            load_model(tmp_path / "pipe")
        except CheckpointError as error:
            errors.append(error)

    loading = threading.Thread(target=load, daemon=True)
    loading.start()
    loading.join(SECONDS * 4)
    figure("waited for" if loading.is_alive() else "refused at once")
    assert "no regular file" in str(errors)


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
        "flipped": flipped(content, len(content) - 9, 1),
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
    loads: list[str] = []

    def counted(source: str, **options: Any) -> Any:
        loads.append(source)
        return open_checkpoint(source, **options)

    monkeypatch.setattr(service_module, "open_checkpoint", counted)
    service = Models(device="cpu")
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
        kept += loads.count(str(good)) == 1
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
        "regular files alone",
        "test_special",
        f"{_FILES}.opened",
        "if not stat.S_ISREG(status.st_mode):",
        "if False:",
    ),
    Mutation(
        "pipes are not waited for",
        "test_a_pipe",
        f"{_FILES}.opened",
        'flags | getattr(os, "O_NONBLOCK", 0)',
        "flags",
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
