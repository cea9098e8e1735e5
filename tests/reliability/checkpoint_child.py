"""Load checkpoints in a process of its own, with a limited address space, and say what it took.

``python -m tests.reliability.checkpoint_child <megabytes> <warm-up>`` reads a path a line and
answers with a line of JSON each.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_STATUS = Path("/proc/self/status")


@dataclasses.dataclass
class Loaded:
    """What loading one path took: MB of growth at most, of the model (0 without), and seconds.

    ``built`` counts the models that were built, with or without memory for their weights.
    """

    path: str
    error: str
    kind: str
    growth: float
    model: float
    seconds: float
    built: int


def load_in_child(paths: Sequence[Path | str], warm_up: Path, megabytes: int) -> list[Loaded]:
    """Load each path; ``megabytes`` of address space may be added.

    Raises:
        AssertionError: when the process ended early, with what it said.
    """
    command = [sys.executable, "-m", "tests.reliability.checkpoint_child"]
    done = subprocess.run(
        [*command, str(megabytes), str(warm_up)],
        input="\n".join(map(json.dumps, map(str, paths))),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,  # against hanging
        check=False,
    )
    answers = [Loaded(**json.loads(line)) for line in done.stdout.splitlines()]
    assert len(answers) == len(paths), (done.returncode, len(answers), done.stderr[-2000:])
    return answers


def _megabytes(name: str) -> float:
    [line] = (line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def main(megabytes: int, warm_up: str) -> None:
    import timm  # noqa: F401  # what backbones import late
    import torch

    from mask2kan.checkpoints import load_model
    from mask2kan.errors import CheckpointError
    from mask2kan.modeling.mask2kan import Mask2KAN
    from mask2kan.runtime.memory import release_memory

    load_model(warm_up, device="cpu")
    built = [0]
    original = Mask2KAN.__init__

    def counted(self: Mask2KAN, *arguments: object) -> None:
        built[0] += 1
        original(self, *arguments)  # type: ignore[arg-type]

    Mask2KAN.__init__ = counted  # type: ignore[method-assign]
    limit = int((_megabytes("VmSize") + megabytes) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    gc.collect()
    gc.freeze()  # what is imported is not looked through again, hundreds of times
    for line in sys.stdin:
        path, error, kind, model, built[0] = json.loads(line), "", "", 0.0, 0
        gc.collect()
        release_memory(torch.device("cpu"))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, start = _megabytes("VmRSS"), time.monotonic()
        try:
            state = load_model(path, device="cpu").state_dict()
            model = sum(4 * value.numel() for value in state.values()) / 2**20
            del state
        except CheckpointError as caught:
            error, kind = str(caught), "CheckpointError"
        except Exception as caught:
            error, kind = str(caught)[:500], type(caught).__name__
        spent = time.monotonic() - start
        growth = _megabytes("VmHWM") - before
        answer = Loaded(path, error, kind, growth, model, spent, built[0])
        print(json.dumps(dataclasses.asdict(answer)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
