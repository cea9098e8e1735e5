"""Every fault of a data set is listed by file and rule, and nothing in one stops the check."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.reliability.mutations import Mutation
from tests.train_processes import ENVIRONMENT, ROOT
from tests.unit.training.data_trees import SIZE, TREES, photo, save
from training.data import check
from training.data.faults import RULES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, sockets and devices")

SECONDS = 60  # only against hanging
ADDRESS_SPACE = 8 * 2**30  # a device never ends
# Everything is imported first: the other user, whom permissions bind, may not read this Python.
CHECKS = f"""
import json, os, resource, sys
from PIL import Image
from training.data.__main__ import main
Image.init()
import encodings.cp437
main(["check", "synthetic"])
resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE}, {ADDRESS_SPACE}))
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for data in json.loads(sys.argv[1]):
    print("checking", data, flush=True)
    print("status", main(["check", data]), flush=True)
"""


class Planted(NamedTuple):
    """A fault: in words, the file that is listed for it, and its rule."""

    words: str
    path: Path
    rule: str


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that other users may enter; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _pair(root: Path, name: str, split: str = "train") -> tuple[Path, Path]:
    """An image of its own and its label, which are in order."""
    seed = sum(map(ord, name + split))
    image = save(root / split / "images" / f"{name}.png", photo(seed))
    return image, save(root / split / "labels" / f"{name}.png", np.zeros(SIZE, np.uint8))


def _in_one_set(root: Path) -> tuple[str, list[Planted]]:
    """A CamVid that has everything that one data set can have."""
    data = TREES["camvid"](root).data
    planted = []

    def plant(words: str, path: Path, rule: str) -> None:
        planted.append(Planted(words, path, rule))

    image, label = _pair(root, "missing_mask")
    label.unlink()
    plant("missing mask", image, "missing-label")
    image, label = _pair(root, "missing_image")
    image.unlink()
    plant("missing image", label, "missing-image")
    _, label = _pair(root, "size")
    plant("size mismatch", save(label, np.zeros((9, 9), np.uint8)), "size-mismatch")
    _, label = _pair(root, "value")
    plant("label 254", save(label, np.full(SIZE, 254, np.uint8)), "label-range")
    _, label = _pair(root, "colours")
    plant("RGB mask", save(label, np.zeros((*SIZE, 3), np.uint8)), "label-rgb")
    _, label = _pair(root, "jpeg")
    plant("JPEG mask", save(label, np.zeros(SIZE, np.uint8), format="JPEG"), "label-format")
    image, _ = _pair(root, "cut")
    image.write_bytes(image.read_bytes()[:200])
    plant("truncated image", image, "damaged-image")
    _, label = _pair(root, "cut_label")
    label.write_bytes(label.read_bytes()[:-15])
    plant("truncated mask", label, "damaged-label")
    image, _ = _pair(root, "twice")
    other, _ = _pair(root, "twice", "val")
    plant("in train and val", Path(shutil.copy(image, other)), "split-overlap")
    image, _ = _pair(root, "closed")
    image.chmod(0)
    plant("no permission", image, "no-permission")
    image, label = _pair(root, "loop")
    label.unlink()
    label.symlink_to(label.name)
    plant("symlink loop", label, "symlink-loop")
    plant("and so no mask", image, "missing-label")
    image, _ = _pair(root, "gone")
    image.unlink()
    image.symlink_to("nowhere.png")
    plant("broken link", image, "broken-link")
    image, _ = _pair(root, "pipe")
    image.unlink()
    os.mkfifo(image)
    plant("a pipe", image, "not-a-file")
    _, label = _pair(root, "pipe_label")
    label.unlink()
    os.mkfifo(label)
    plant("a pipe as mask", label, "not-a-file")
    image, _ = _pair(root, "socket")
    image.unlink()
    # An address may not be long
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import socket, sys; socket.socket(1).bind(sys.argv[1])",
            image.name,
        ],
        cwd=image.parent,
        check=True,
    )
    plant("a socket", image, "not-a-file")
    image, _ = _pair(root, "device")
    image.unlink()
    image.symlink_to("/dev/zero")
    plant("a device", image, "not-a-file")
    image, label = _pair(root, "folder")
    image.unlink()
    image.mkdir()
    plant("a folder named like an image", image, "not-a-file")
    plant("and so no image", label, "missing-image")
    image, _ = _pair(root, "empty")
    image.write_bytes(b"")
    plant("0 bytes", image, "empty-file")
    image, _ = _pair(root, "words")
    image.write_text("this is no image, but words\n")
    plant("text as .png", image, "not-an-image")
    image, _ = _pair(root, "huge")
    with image.open("ab") as file:
        file.truncate(2**40)
    plant("a terabyte of nothing", image, "too-large")
    for name in ("Case", "case"):
        image, label = _pair(root, name)
    plant("names that differ in case", image, "case-clash")
    plant("and those of their masks", label, "case-clash")
    return data, planted


def _sets(root: Path) -> dict[str, list[Planted]]:
    """Data sets by what the check is called with, and what is planted there."""
    data, planted = _in_one_set(root / "all")
    sets = {data: planted}
    tree = TREES["cityscapes"](root / "cityscapes")
    save(tree.first[1], np.full(SIZE, 254, np.uint8))
    sets[tree.data] = [Planted("label 254 of 19", tree.first[1], "label-range")]
    tree = TREES["camvid"](root / "void")
    labels = sorted((root / "void" / "train" / "labels").iterdir())
    for label in labels:
        save(label, np.full(SIZE, 255, np.uint8))
    sets[tree.data] = [Planted("all ignore", labels[0].parent, "no-class")]
    tree = TREES["road_anomaly"](root / "anomalies")
    labels = [pair.label for pair in check._scan_anomalies(tree.data).pairs]
    for label in labels:
        save(label, np.zeros(SIZE, np.uint8))
    sets[tree.data] = [Planted("no anomaly pixels", labels[0].parent, "no-anomaly")]
    tree = TREES["camvid"](root / "without")
    for path in (root / "without" / "val").rglob("*.png"):
        path.unlink()
    sets[tree.data] = [Planted("empty split", root / "without" / "val", "empty-split")]
    return sets


@pytest.mark.row("data-set fault", limit="every one listed by file, rule and count; exit 1")
def test_every_planted_fault_is_listed(root: Path, figure) -> None:
    sets = _sets(root)
    environment = {**ENVIRONMENT, "MASK2KAN_CACHE": str(root / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", CHECKS, json.dumps([*sets])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    reports = done.stdout.split("checking ")[1:]
    listed = 0
    total = sum(map(len, sets.values()))
    for report, (data, planted) in zip(reports, sets.items(), strict=True):
        lines = report.splitlines()[1:]
        faults = [line for line in lines if line.startswith("/")]
        for fault in planted:
            listed += any(line.startswith(f"{fault.path}: {fault.rule}: ") for line in faults)
            figure(f"{listed} of {total} listed, the last one: {fault.words}")
        assert len(faults) == len(planted), faults
        for rule in {fault.rule for fault in planted}:
            count = sum(fault.rule == rule for fault in planted)
            assert f"{count:>6} {rule}: {RULES[rule]}" in lines, (data, rule)
        assert lines[-1] == "status 1"
    figure(f"{listed} of {total} listed, of {len(set(RULES) & _rules(sets))} rules")
    assert listed == total
    assert "Traceback" not in done.stderr, done.stderr
    assert len(reports) == len(sets)


def _rules(sets: dict[str, list[Planted]]) -> set[str]:
    return {fault.rule for planted in sets.values() for fault in planted}


@pytest.mark.row("data-set fault, what is no image", limit="class lists and overlays do not hang")
def test_no_pipe_is_waited_for(root: Path, figure) -> None:
    """Beside images, a data set has lists of its classes and files of differences."""
    pipes = []
    for name, file in (("folder", "classes.txt"), ("camvid_anomaly", "label_colors_32class.txt")):
        tree = TREES[name](root / name)
        path = next((root / name).rglob(file))
        pipes.append((tree.data, path))
    tree = TREES["fishyscapes_static"](root / "static")
    overlay = Path(str(tree.first[1]).replace("_labels.png", "_rgb.npz"))
    pipes.append((tree.data, overlay))
    for _, path in pipes:
        path.unlink()
        os.mkfifo(path)
    done = subprocess.run(
        [sys.executable, "-c", CHECKS, json.dumps([data for data, _ in pipes])],
        cwd=ROOT,
        env={**ENVIRONMENT, "MASK2KAN_CACHE": str(root / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert re.findall(r"status (\d)", done.stdout) == ["1", "1", "1"], done.stderr
    assert done.stdout.count("a pipe; expected a file") + done.stdout.count("a pipe;") >= 3
    figure(f"{len(pipes)} of {len(pipes)} told")


MUTATIONS = [
    Mutation(
        "only regular files are read",
        "test_no_pipe_is_waited_for",
        "training.data.reading",
        "if not stat.S_ISREG(status.st_mode):",
        "if False:",
    ),
    Mutation(
        "only regular files are images and masks",
        "test_every_planted_fault",
        "training.data.reading",
        "if not stat.S_ISREG(status.st_mode):",
        "if False:",
    ),
    Mutation(
        "what is larger than any image is not read",
        "test_every_planted_fault",
        "training.data.reading",
        "if status.st_size > MAX_FILE_BYTES:",
        "if False:",
    ),
    Mutation(
        "a folder is no image",
        "test_every_planted_fault",
        "training.data.base",
        "elif path.suffix.lower() in IMAGE_TYPES:",
        "elif False:",
    ),
    Mutation(
        "names differ in more than case",
        "test_every_planted_fault",
        "training.data.base",
        "if other != path:",
        "if False:",
    ),
    Mutation(
        "a link that leads back is not followed",
        "test_every_planted_fault",
        "training.data.base",
        "if _leads_back(path):",
        "if False:",
    ),
    Mutation(
        "an image is in one split alone",
        "test_every_planted_fault",
        "training.data.check",
        "    faults += whole_set.overlaps(scans, results)\n",
        "",
    ),
    Mutation(
        "a label holds classes alone",
        "test_every_planted_fault",
        "training.data.reading",
        "        if odd.size:",
        "        if False:",
    ),
]
