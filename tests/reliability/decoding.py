"""Decode files in a process of limited memory, and tell what each took.

``python -m tests.reliability.decoding KIND FILE…`` prints a line of JSON for each; the kinds are
picture, mask, video, and those of a data set: image, label, colours, anomalies, cut-out, overlay.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mask2kan.errors import ImageError
from mask2kan.media.images import FORMATS, read_image, read_mask
from mask2kan.media.videos import count_frames, read_frames
from tests.reliability.bombs import encoded

ADDRESS_SPACE = 3 * 2**30
DATA = ("image", "label", "colours", "anomalies", "cut-out", "overlay")


class Decoded(NamedTuple):
    """What a file took: CPU seconds, seconds, megabytes at the most, and what was said of it."""

    name: str
    cpu: float
    seconds: float
    megabytes: float
    said: str
    threads: int

    @property
    def refused(self) -> bool:
        """Whether in one sentence."""
        return (
            self.said.startswith("Can't read ") and self.said[-1] == "." and "\n" not in self.said
        )

    @property
    def read(self) -> bool:
        return self.said.startswith("read ")


def decoded(paths: Sequence[Path], kind: str = "picture", patience: float = 60) -> list[Decoded]:
    """Decode files in a child; one that dies, or takes too long, is replaced by another."""
    left, answers = list(paths), []
    while left:
        command = [sys.executable, "-m", "tests.reliability.decoding", kind, *map(str, left[:500])]
        root = Path(__file__).resolve().parents[2]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
        try:
            printed, _ = child.communicate(timeout=patience + 0.5 * len(left[:500]))
            ended = f"the process ended with {child.returncode}"
        except subprocess.TimeoutExpired:
            child.kill()
            printed, _ = child.communicate()
            ended = "it took too long"
        told = [Decoded(**json.loads(line)) for line in printed.splitlines()]
        if len(told) < len(left[:500]):
            lost = left[len(told)].name
            told.append(Decoded(lost, patience, patience, 0, f"crashed: {ended}", 0))
        answers += told
        left = left[len(told) :]
    return answers


def written(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files, by their names."""
    paths = []
    for name, content in files.items():
        path = folder / name
        path.write_bytes(content)
        paths.append(path)
    return paths


def worst(answers: Sequence[Decoded]) -> str:
    """Say what took longest, and what most memory."""
    cpu, memory = (max(answers, key=lambda one: one[place]) for place in (1, 3))
    return (
        f"at most {cpu.cpu * 1e3:.0f} ms ({cpu.name}) and {memory.megabytes:.0f} MB ({memory.name})"
    )


def keep(faults: Iterable[Decoded], folder: Path, save: Callable[[str, bytes], Path]) -> list[str]:
    """Save the files at fault, and say what was wrong with each."""
    for fault in faults:
        save(fault.name, (folder / fault.name).read_bytes())
    return [
        f"{fault.name}: {fault.cpu:.2f} s, {fault.megabytes:.0f} MB, {fault.said}"
        for fault in faults
    ]


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _read_of_data(kind: str, path: Path) -> str:
    """Read a file as a data set does that it is part of."""
    import numpy as np

    from training.data import reading
    from training.data.outliers import CutOutFolder
    from training.data.sets import anomaly_folder, camvid_anomaly

    size = (8, 8)
    if kind == "overlay":
        shape = reading.apply_overlay(np.zeros((*size, 3), np.uint8), path).shape
    elif kind == "cut-out":
        folder = CutOutFolder(path.parent)
        folder._paths = [path]  # one that the random numbers cannot miss
        shape = folder.draw(np.random.default_rng(0)).image.shape
    else:
        read = {
            "image": reading.decode_image,
            "label": reading.decode_label,
            "colours": lambda *file: camvid_anomaly._decode_rgb(*file, size),
            "anomalies": lambda *file: anomaly_folder._decode(*file)[0],
        }[kind]
        shape = read(path, reading.read_file(path)).shape
    return f"read {shape}"


def _read(kind: str, path: Path) -> str:
    try:
        if kind in DATA:
            return _read_of_data(kind, path)
        if kind == "picture":
            return f"read {read_image(path.read_bytes()).shape}"
        if kind == "mask":
            return f"read {read_mask(path.read_bytes(), (8, 8)).shape}"
        count = count_frames(path)
        shapes = [frame.shape for _, frame in read_frames(path)]
        return f"read {len(shapes)} of {count} frames, {_status('Threads')} threads"
    except ImageError as error:
        # A fault is a line of a list, not a sentence.
        return f"Can't read it as {kind}: {error}." if kind in DATA else str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _measured(kind: str, path: Path) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # of VmHWM
    before, start, cpu = _status("VmRSS"), time.perf_counter(), time.process_time()
    said = _read(kind, path)
    return {
        "name": path.name,
        "cpu": time.process_time() - cpu,
        "seconds": time.perf_counter() - start,
        "megabytes": (_status("VmHWM") - before) / 1024,
        "said": said,
        "threads": _status("Threads"),
    }


def main(kind: str, names: Iterable[str]) -> None:
    most = ADDRESS_SPACE
    if kind in DATA:
        _read(kind, Path(__file__))
        most += _status("VmSize") * 1024  # the libraries of training alone take more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    warnings.simplefilter("ignore")
    for name in FORMATS:  # what is imported the first time is no picture's fault
        read_image(encoded(Image.new("RGB", (8, 8)), name))
    for name in names:
        print(json.dumps(_measured(kind, Path(name))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
