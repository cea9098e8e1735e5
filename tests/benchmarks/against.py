"""Whether a change made anything slower: this checkout against another, by turns.

    PYTHONPATH=. python tests/benchmarks/against.py ../before

A forward pass and a prediction of Swin-T on 512x1024, a comparison of the bundled pair on 720x960
and a training step of the small model on 8 crops of 256x512, each in a process of its own per
checkout. The other checkout runs twice: its second process shows what a ratio of nothing is.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import measure

# Run in either checkout, so it uses only what both have: one timed call per line read.
_LOOP = """
import sys, time
print("ready", flush=True)
for number, _ in enumerate(sys.stdin):
    start = time.perf_counter()
    work(number)
    print(time.perf_counter() - start, flush=True)
"""
_INFERENCE = """
import sys, numpy as np, torch
import mask2kan
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
pixels = np.random.default_rng(0).integers(0, 256, ({size}, 3), dtype=np.uint8)
"""
_SWIN = (
    _INFERENCE.format(size="512, 1024")
    + """
model = mask2kan.create_model("mask2kan_swin_t").eval()
"""
)
_TRAINING = """
import sys, tempfile
from pathlib import Path
try:  # before torch, as the command has it
    from training.config.train_config import override
    from training.config.recipes import recipe
    from training.engine.trainer import Trainer
except ImportError:  # up to version 0.1
    from training.config import override
    from training.recipes import recipe
    from training.loop import Trainer
import torch
torch.set_num_threads(int(sys.argv[1]))
name, *settings = sys.argv[2:]
trainer = Trainer(override(recipe(name), settings), Path(tempfile.mkdtemp()), progress=False)
batches = list(trainer._batches())
work = lambda number: trainer._update(batches[number % len(batches)])
work(0)
"""
SMALL = (
    *("pretrained_backbone=", "augmentation.crop=(256,512)", "batch_size=8", "steps=4"),
    *("batch_norm_batches=0", "grid_update_steps=()", "workers=0", "eval_every=1000"),
)
TRAINING = (_TRAINING, "camvid_kan", "data=synthetic", *SMALL)
WORK: dict[str, tuple[str, ...]] = {
    "forward": (
        _SWIN
        + """
images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
def work(number):
    with torch.inference_mode():
        model(images, with_aux=False)
work(0)
""",
    ),
    "prediction": (
        _SWIN
        + """
predictor = mask2kan.Predictor(model, "cpu", "float32")
work = lambda number: predictor(pixels).semantic
work(0)
""",
    ),
    "comparison": (
        _INFERENCE.format(size="720, 960")
        + """
pair = [mask2kan.load_model(name) for name in ("mask2kan_road", "mask2former_road")]
comparison = mask2kan.Comparison(*(mask2kan.Predictor(model, "cpu", "float32") for model in pair))
work = lambda number: [prediction.prepare(("msp",)) for prediction in comparison(pixels)]
work(0)
""",
    ),
    "training step": TRAINING,
}


class Worker:
    """A program of a checkout, in a process of its own, that does its work when asked to."""

    def __init__(self, checkout: Path, threads: int, program: str, *arguments: str) -> None:
        inherited = {name: text for name, text in os.environ.items() if name != "GOMP_SPINCOUNT"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", program + _LOOP, str(threads), *arguments],
            cwd=checkout,
            env={**inherited, "PYTHONPATH": "."},  # ``training`` sets its own
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __call__(self) -> float:
        """Seconds of the work, done once."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("The other process ended; its error is above.")
        return line

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def row(name: str, other: Path, threads: int, repeats: int) -> measure.Row:
    """Median seconds of one kind of work and ratios of the medians' rounds."""
    checkouts = {"other": other, "other again": other, "this": measure.REPOSITORY}
    workers = {side: Worker(place, threads, *WORK[name]) for side, place in checkouts.items()}
    times: dict[str, list[float]] = {side: [] for side in workers}
    try:
        for worker in workers.values():
            worker()  # what only the first call pays
        for repeat in range(repeats):
            for side in list(workers)[:: 1 if repeat % 2 else -1]:
                times[side].append(workers[side]())
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "work": name,
        **{f"{side} s": statistics.median(spent) for side, spent in times.items()},
        "other again / other": measure.ratio(times["other again"], times["other"]),
        "this / other": measure.ratio(times["this"], times["other"]),
    }


def main() -> int:
    """Run and print; returns the exit status."""
    parser = measure.parser(__doc__, repeats=9)
    parser.add_argument("other", type=Path, help="another checkout of this project")
    parser.add_argument("--only", choices=WORK, nargs="+", default=list(WORK))
    options = parser.parse_args()
    rows = [row(name, options.other, options.threads, options.repeats) for name in options.only]
    facts = measure.about(options.threads)
    measure.show(rows, facts)
    measure.write({"rows": rows}, facts, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
