"""Checkpoints of every kind: honest, small, malicious and mutated."""

from __future__ import annotations

import itertools
import os
import pickle
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from mask2kan.checkpoints import save_model
from tests.reliability.checkpoint_child import Loaded
from tests.unit.mask2kan.checkpoints.files.test_pickles import Calls, legacy, zipped
from tests.unit.mask2kan.checkpoints.foreign_names import in_detectron2s_names


def honest_files(folder: Path, model: torch.nn.Module) -> dict[str, Path]:
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


def payloads_of(canary: Path) -> Iterator[bytes]:
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


def mutants(originals: list[bytes], count: int, rng: random.Random) -> Iterator[bytes]:
    for _ in range(count):
        mutant = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 4)):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        if rng.random() < 0.2:
            del mutant[rng.randrange(len(mutant)) :]
        yield bytes(mutant)


def small_files(folder: Path) -> list[bytes]:
    """Good ones, of every kind, whose mutants may come far."""
    state = {f"sem_seg_head.predictor.{n}.weight": torch.rand(2, 3) for n in range(6)}
    arrays = {key: value.numpy() for key, value in state.items()}
    torch.save({"model": state, "iteration": 1}, folder / "zip")
    torch.save(state, folder / "legacy", _use_new_zipfile_serialization=False)
    save_file(state, folder / "safetensors")
    files = [(folder / name).read_bytes() for name in ("zip", "legacy", "safetensors")]
    return files + [pickle.dumps({"model": arrays}, protocol=protocol) for protocol in (0, 2, 4, 5)]


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def written_files(folder: Path, files: Iterable[bytes]) -> list[Path]:
    paths = []
    for number, content in enumerate(files):
        paths.append(folder / f"{number}.pth")
        paths[-1].write_bytes(content)
    return paths


def is_a_sentence(loaded: Loaded) -> bool:
    text = loaded.error
    return loaded.kind == "CheckpointError" and text.isprintable() and 20 < len(text) < 900
