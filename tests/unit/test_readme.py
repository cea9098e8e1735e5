"""Every command in README.md's blocks runs, on small stand-ins for what its paths name.

Python blocks need the app and are run by ``tests/browser/test_readme.py``; what installs or tests
the project is what ran to get here.
"""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mask2kan.cli.main import main
from tests.fake_hub import FakeHub
from tests.tiny_models import tiny
from tests.tiny_runs import QUICK, TINY
from tests.unit.mask2kan.checkpoints.foreign_names import in_detectron2s_names
from tests.unit.mask2kan.checkpoints.formats.test_transformers import reference
from tests.unit.training import data_trees

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = ".venv/bin/python"
ELSEWHERE = ("-m pip", "-m pytest", "-m venv", "docker ")  # run by CI, or in need of more

# What makes them small; the last of two options counts.
SMALLER = {
    "mask2kan export": ["--height", "64", "--width", "96"],
    "training.train camvid_kan": [f"--set={setting}" for setting in TINY if "data" not in setting],
    "training.train finetune": [
        f"--set={setting}"
        for setting in (*QUICK, "steps=2")
        if setting.partition("=")[0] in ("batch_size", "steps", "num_points", "workers")
    ],
}


def commands(block: str) -> list[str]:
    lines = re.sub(r"\\\n", " ", block).splitlines()
    return [line for line in lines if PYTHON in line and not any(e in line for e in ELSEWHERE)]


WITH_COMMANDS = [block for block in BLOCKS if commands(block)]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what the commands' paths name, and a Hub with the repository they name."""
    monkeypatch.setattr(data_trees, "SIZE", (64, 96))
    for name in ("examples/road_sofa.webp", "images/a.jpg", "images/b.jpg"):
        data_trees.save(tmp_path / name, data_trees.photo(len(name)))
    model = tiny("mask2former", "swin_t")
    torch.save({"model": in_detectron2s_names(model)}, tmp_path / "model_final.pth")
    data_trees.camvid(tmp_path / "path" / "to" / "camvid")
    data_trees.folder(tmp_path / "path" / "to" / "own")
    for place in ("odd", "anomaly/sets"):
        data_trees.anomaly_folder(tmp_path / "path" / "to" / place)
    data_trees.fishyscapes_static(tmp_path / "data" / "fishyscapes_static")
    repository = tmp_path / "repository"
    reference("tiny").save_pretrained(repository)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASK2KAN_DATA", str(tmp_path / "data"))
    names = re.findall(r"facebook/[\w-]+", "".join(BLOCKS))
    with FakeHub(dict.fromkeys(names, repository)) as hub, hub.attach(tmp_path / "cache"):
        yield tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = re.search(r"tests/benchmarks/\w+\.py", command)
    if benchmark:  # minutes; its options are what can be wrong
        words = [benchmark.group(), "--help"]
        monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    else:
        words = shlex.split(command, comments=True)
        words = words[words.index("-m") + 1 :]
        words += SMALLER.get(" ".join(words[:2]), [])
    monkeypatch.setattr("sys.argv", words)
    if words[0] == "mask2kan":
        assert main(words[1:]) == 0
        return
    try:
        if benchmark:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        else:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            pytest.fail(f"{command}: exit status {end.code}")


def test_most_blocks_hold_commands() -> None:
    assert len(BLOCKS) >= 6
    assert sum(len(commands(block)) for block in BLOCKS) >= 20


@pytest.mark.parametrize("number", range(len(WITH_COMMANDS)))
def test_the_commands_of_a_block_run_one_after_another(
    number: int, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in commands(WITH_COMMANDS[number]):
        run(command, monkeypatch)
