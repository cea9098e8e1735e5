"""A disk that is full or may not be written: every writer says so and leaves what was there.

A file system of a few megabytes is mounted where that is allowed; elsewhere a limit on the size of
files stands for it (the same path in all writers, with another number of the system's error).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.services.batch import Batch, _Results
from app.services.batch_items import BatchItem
from app.services.batch_rows import BatchRow
from mask2kan.checkpoints import save_model
from mask2kan.checkpoints.formats.native import save_pair
from mask2kan.cli.main import main as mask2kan_command
from mask2kan.errors import WriteError
from mask2kan.inference.predictor import Predictor
from mask2kan.outputs.comparison_figure import comparison_page, write_page
from mask2kan.outputs.summary import Analysis
from mask2kan.outputs.writer import FILES, save_prediction, write_results
from tests.reliability.mutations import Mutation
from tests.tiny_models import tiny
from tests.tiny_runs import TINY
from tests.train_processes import ENVIRONMENT, ROOT, train_command
from tests.unit.training.data_trees import TREES
from training import evaluate, pack, tables
from training.cards import update_manifest
from training.config.recipes import recipe
from training.config.train_config import override
from training.engine.run_folder import RunFolder
from training.evaluation.saved_scores import save_scores
from training.evaluation.validation import Validation
from training.objectives.trunk_cache import TrunkCache
from training.reporting.side_images import SideImages

SIZE = "24m"  # of the mounted disk
resource = pytest.importorskip("resource")


class Disk:
    """A small disk, or a folder and a limit on files that stands for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.mounted = _system("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder)

    @contextlib.contextmanager
    def full(self, room: int = 0) -> Iterator[None]:
        """Leave so many bytes."""
        if not self.mounted:
            with limited(room):
                yield
            return
        filler = self.folder / "filler"
        free = shutil.disk_usage(self.folder).free
        filler.write_bytes(bytes(max(0, free - room)))
        try:
            yield
        finally:
            filler.unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Let nothing be written."""
        folders = [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]
        if self.mounted:
            assert _system("mount", "-o", "remount,ro", self.folder)
        elif os.geteuid() == 0:
            pytest.skip("root may write everywhere, and may not mount a disk here")
        else:
            for folder in folders:
                folder.chmod(0o555)
        try:
            yield
        finally:
            if self.mounted:
                assert _system("mount", "-o", "remount,rw", self.folder)
            else:
                for folder in folders:
                    folder.chmod(0o755)

    def content(self) -> dict[str, bytes]:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        # TensorBoard's own files grow by themselves
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in paths
            if path.name != "filler" and "events." not in path.name
        }

    def close(self) -> None:
        if self.mounted:
            assert _system("umount", "--lazy", self.folder)


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _system(*command: Any) -> bool:
    try:
        return subprocess.run(list(map(str, command)), capture_output=True).returncode == 0  # noqa: PLW1510
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("mask2kan", num_classes=11, num_decoder_layers=1)


@pytest.fixture(scope="module")
def source(model: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_model(model, path)
    return str(path)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope="module")
def analysis(model: Any, image: str) -> Analysis:
    return Analysis(Predictor(model, device="cpu")(image))


def _state(model: Any) -> dict[str, Any]:
    weights = model.state_dict()
    return {"model": weights, "optimizer": {}, "average": {"model": weights}, "step": 1}


def _validated() -> dict[str, Validation]:
    pixels = np.random.default_rng(1).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    return {"": Validation({"miou": 0.5}, np.eye(5, dtype=np.int64), pixels)}


def _batch(folder: Path) -> None:
    batch = Batch(folder / uuid.uuid4().hex, [BatchItem("a.png", folder / "a.png")])
    try:
        thumbnails = {"photo": b"1", "heat": b"2"}
        batch.add(BatchRow(1, "a.png"), _Results(thumbnails, {"x.bin": os.urandom(20_000)}))
        batch.finish()
    finally:
        with contextlib.suppress(WriteError):
            batch.discard()


# Every writer of a file, by what it writes; called with the disk's folder and what it may need.
WRITERS: dict[str, Callable[..., Any]] = {
    "a checkpoint": lambda folder, model, _: save_model(model, folder / "new" / "m.safetensors"),
    "a pair": lambda folder, model, _: save_pair({"a": model, "b": model}, folder, "trunk"),
    "a run's state": lambda folder, model, _: RunFolder(folder).save_state(_state(model)),
    "a run's weights": lambda folder, model, _: RunFolder(folder).save_weights("best", model),
    "a run's settings": lambda folder, *_: RunFolder(folder).open(
        override(recipe("camvid_kan"), TINY), 0
    ),
    "a run's log": lambda folder, *_: RunFolder(folder).log(1, {"loss": 1.0, "words": "x" * 9000}),
    "a run's sample": lambda folder, *_: RunFolder(folder).log_validation(1, _validated()),
    "a run's curves": lambda folder, *_: RunFolder(folder).draw(1, _validated(), tuple("abcde")),
    "results": lambda folder, _, analysis: save_prediction(analysis, folder, "x"),
    "all results": lambda folder, _, analysis: write_results(analysis, folder, "all", FILES),
    "a comparison": lambda folder, _, analysis: write_page(
        folder / "page.png", comparison_page([("a", analysis), ("b", analysis)], name="x")
    ),
    "saved scores": lambda folder, *_: save_scores(
        folder / "s" / "000.npz", {"msp": np.random.default_rng(2).random((50, 50), np.float32)}
    ),
    "a manifest": lambda folder, *_: update_manifest(folder / "manifest.json", {"name": "x"}),
    "side-by-side images": lambda folder, _, analysis: SideImages(folder, "msp", anomalies=True)(
        "x", analysis.prediction, np.zeros(analysis.prediction.size, np.uint8), 0.5
    ),
    "a batch's ZIP": lambda folder, *_: _batch(folder),
}


@pytest.mark.row("full disk", limit="every writer: one sentence, what was there is there")
@pytest.mark.parametrize("kind", ["full", "read only"])
def test_a_disk_that_takes_nothing_is_told(
    disk: Disk, kind: str, model: Any, analysis: Analysis, figure: Any
) -> None:
    told = []
    for name, write in WRITERS.items():
        write(disk.folder, model, analysis)
        before = disk.content()
        with disk.full() if kind == "full" else disk.read_only():
            with pytest.raises(WriteError) as caught:
                write(disk.folder, model, analysis)
            sentence = str(caught.value)
            assert sentence.count("\n") == 0, name
            assert str(disk.folder) in sentence or "'a.png'" in sentence, (name, sentence)
            if kind == "full":
                assert "Free some space" in sentence, (name, sentence)
            assert disk.content() == before, name
        told.append(name)
        where = "mounted" if disk.mounted else "by a limit"
        figure(f"{kind} ({where}), {len(told)} of {len(WRITERS)} writers")


def _camvid(root: Path) -> str:
    """A data set whose images do not compress."""
    data = TREES["camvid"](root).data
    for path in root.rglob("images/*.png"):
        noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        Image.new("L", (300, 200)).save(str(path).replace("images", "labels"))
    return data


@pytest.mark.row("full disk, in the middle", limit="bytes written and needed told; no stray file")
@pytest.mark.parametrize("room", [5000, 60_000])
def test_a_file_that_does_not_fit_is_not_begun_or_removed(
    disk: Disk,
    room: int,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figure: Any,
) -> None:
    """What is known to need more is not begun; what turns out to is taken back."""
    run = RunFolder(disk.folder)
    run.save_state(_state(model))
    refusal = r"state\.pt: .* \(" + (r"after 0 bytes of [\d,]+, with" if disk.mounted else "")
    before = disk.content()
    with disk.full(room):
        with pytest.raises(WriteError, match=refusal) as one:
            run.save_state(_state(model))
        assert disk.content() == before
    with limited(room):  # of which nothing is known before: torch raises an error of its own
        with pytest.raises(WriteError, match=r"state\.pt: File too large \(after [\d,]+ bytes of"):
            run.save_state(_state(model))
        assert disk.content() == before
    archive = disk.folder / "data.tar.xz"
    archive.write_bytes(b"before")
    monkeypatch.setenv("MASK2KAN_DATA", str(tmp_path))
    camvid = _camvid(tmp_path / "set")
    with disk.full(room):
        with pytest.raises(WriteError, match=r"data\.tar\.xz: .* \(after [\d,]+ bytes"):
            pack.pack(archive, camvid, [], quality=95, longest_side=512)
        assert disk.content() == {**before, "data.tar.xz": b"before"}
    assert RunFolder(disk.folder).load_state()["step"] == 1
    figure(f"with {room:,} bytes left: {one.value}".replace(str(disk.folder), "…"))


@pytest.mark.row("full disk, commands", limit="exit status not 0, one line, nothing half written")
def test_a_command_ends_with_a_line(
    disk: Disk,
    source: str,
    image: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scale: Callable[[Any, Any], Any],
    figure: Any,
) -> None:
    if not disk.mounted:
        pytest.skip("needs a mounted disk: a limit would count for what the commands print, too")
    out = str(disk.folder)
    monkeypatch.setenv("MASK2KAN_DATA", str(disk.folder.parent))
    camvid = _camvid(disk.folder.parent / "set")
    common = ["--data", camvid, "--limit", "1", "--device", "cpu"]
    commands: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
        "predict": (
            mask2kan_command,
            ["predict", image, "--model", source, "--out", out, "--device", "cpu"],
        ),
        "compare": (
            mask2kan_command,
            ["compare", image, "--left", source, "--right", source, "--out", out],
        ),
        "convert": (mask2kan_command, ["convert", source, f"{out}/c.safetensors", "--force"]),
        "tables": (tables.main, ["--out", f"{out}/tables.md"]),
        "pack": (pack.main, [f"{out}/p.tar.xz", "--data", camvid]),
        "evaluate": (evaluate.main, [source, *common, "--json", f"{out}/e.json"]),
    }
    if scale(False, True) and find_spec("onnx"):
        size = ["--height", "64", "--width", "96"]
        export = ["export", source, f"{out}/e.onnx", *size, "--force"]
        commands["export"] = (mask2kan_command, export)
    for number, (name, (command, arguments)) in enumerate(commands.items(), 1):
        assert command(arguments) == 0, (name, capsys.readouterr().err)
        before = disk.content()
        with disk.full():
            capsys.readouterr()
            status = command(arguments)
            printed = capsys.readouterr().err
            assert status not in (0, None), name
            [line] = [line for line in printed.splitlines() if "Can't write" in line]
            assert out in line, name
            assert "Traceback" not in printed, name
            assert disk.content() == before, name
        figure(f"{number} of {len(commands)} commands")


@pytest.mark.row("full disk while training", limit="exit status 2, one line; the state is whole")
def test_a_run_on_a_full_disk_keeps_its_state(disk: Disk, figure: Any) -> None:
    if not disk.mounted:
        pytest.skip("needs a mounted disk: a limit would hold from the first step on")
    command = train_command(disk.folder, "steps=3", "eval_every=2", "save_every=1", "seed=1")
    command[command.index("--set") : command.index("--set")] = ["--skip-check"]
    script = RUN_FULL.replace("FOLDER", repr(str(disk.folder)))
    command[1:3] = ["-c", script]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1, done.stderr
    assert "Can't write" in errors[0]
    assert "Traceback" not in done.stderr, done.stderr
    state = RunFolder(disk.folder).load_state()
    assert state["step"] == 1
    assert not list(disk.folder.rglob(".*.tmp"))
    figure(f"{errors[0]} State of step {state['step']}".replace(str(disk.folder), "…"))


# The disk fills up at the second step, and what TensorBoard has not written yet finds no room.
RUN_FULL = """
import contextlib, shutil, sys, time
from pathlib import Path
from training.engine.trainer import Trainer
from training.train import main

update = Trainer._update

def filling(self, batch):
    if self.step == 1:
        free = shutil.disk_usage(FOLDER).free
        with contextlib.suppress(OSError):  # TensorBoard writes meanwhile
            (Path(FOLDER) / "filler").write_bytes(bytes(free))
        for _ in range(9):
            self.run._tell("log", {"words": "x" * 100_000}, 1)
            time.sleep(0.1)
    return update(self, batch)

Trainer._update = filling
sys.exit(main(sys.argv[1:]))
"""


def test_features_that_find_no_room_are_computed(disk: Disk, model: Any) -> None:
    """The cache is a convenience: a full disk makes the run slower, and ends nothing."""
    import torch

    cache = TrunkCache(model, 8.0, str(disk.folder))
    images = torch.rand(2, 3, 64, 64)
    first = cache(images, [0, 1])
    with disk.full():
        again = cache(images, [2, 3])
    assert torch.equal(first.mask_features, again.mask_features)
    assert cache.misses == 4
    assert torch.equal(cache(images, [0, 1]).mask_features, first.mask_features)
    assert cache.misses == 4
    cache(images, [2, 3])
    assert cache.misses == 6


FILE, RUN_FOLDER = "mask2kan.media.files", "training.engine.run_folder"
TAKES_NOTHING, MIDDLE = "test_a_disk_that_takes_nothing", "test_a_file_that_does_not_fit"
MUTATIONS = [
    Mutation(
        "a disk's error is told, whatever a library makes of it",
        MIDDLE,
        FILE,
        "cause = error if isinstance(error, OSError) else failure",
        "cause = error if isinstance(error, OSError) else None",
    ),
    Mutation(
        "what has no room is not begun",
        MIDDLE,
        FILE,
        "_require_room(path.parent, size)",
        "pass",
    ),
    Mutation(
        "a file that could not be finished is removed",
        MIDDLE,
        FILE,
        "            if raw is not None:\n                Path(raw.name).unlink(missing_ok=True)",
        "            pass",
    ),
    Mutation(
        "a log keeps its lines whole",
        TAKES_NOTHING,
        FILE,
        "file.truncate(before)",
        "pass",
    ),
    Mutation(
        "a sample is written whole or not at all",
        TAKES_NOTHING,
        RUN_FOLDER,
        "write_bytes(sample, png_bytes(validation.sample))",
        "sample.parent.mkdir(exist_ok=True); sample.write_bytes(png_bytes(validation.sample))",
    ),
    Mutation(
        "TensorBoard's thread prints no traceback",
        "test_a_run_on_a_full_disk",
        RUN_FOLDER,
        "        _silence_tensorboard()\n",
        "",
    ),
    Mutation(
        "features that find no room are computed",
        "test_features_that_find_no_room",
        "training.objectives.trunk_cache",
        ") == values.nbytes",
        ") >= 0",
    ),
]
