"""How many crops a second the training loop takes, against a loop around transformers' model.

The same Swin-T with the same weights, 100 queries and 9 decoder layers, the same crops in the same
batches, 12,544 points, AdamW and the same gradient clipping, float32, on a processor; by turns.
Ours is ``Trainer`` as ``python -m training.train`` runs it; theirs is the loop of the transformers
documentation: model with labels in, loss out, backward, clip, step. Crops are drawn beforehand, for
both by our data set.

With ``--against`` another checkout of this project takes the peer's place, in a process of its own:
a step of the small model, 8 crops of 256×512, by turns; on quiet cores, and beside a program that
keeps one core busy. With ``--joint``, a step of both heads on one trunk against a step of one.

    PYTHONPATH=. python tests/benchmarks/training_loop.py
    PYTHONPATH=. python tests/benchmarks/training_loop.py --against ../before
    PYTHONPATH=. python tests/benchmarks/training_loop.py --joint
"""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import torch
from inference import normalised, theirs, write_checkpoint

from training.config.recipes import recipe
from training.config.train_config import override
from training.engine.trainer import Trainer
from training.objectives.criterion import semantic_targets

CLIP = 0.01
SIZES = ((256, 512), (340, 680))  # the second is the thesis's crop
BATCH = 2


def our_trainer(checkpoint: str, folder: Path, crop: tuple[int, int], steps: int) -> Trainer:
    """Mask2Former's recipe on synthetic streets, starting from the peer's weights."""
    settings = [
        f"init={checkpoint}",
        "pretrained_backbone=",
        "data=synthetic:cityscapes",
        f"augmentation.crop={crop}",
        f"batch_size={BATCH}",
        f"steps={steps}",
        "lr=1e-6",
        "workers=0",
    ]
    config = override(recipe("mask2former_swin_t"), settings)
    return Trainer(config, folder, progress=False)


def rows_for(checkpoint: str, crop: tuple[int, int], repeats: int) -> measure.Row:
    """One crop size."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(checkpoint, Path(folder), crop, repeats + 1)
        batches = list(trainer._batches())
        peer = theirs(checkpoint).train()
        optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-6, weight_decay=0.05)
        losses: dict[str, list[float]] = {"ours": [], "theirs": []}
        turns = {name: itertools.cycle(batches) for name in losses}

        def ours_step() -> None:
            losses["ours"].append(float(trainer._update(next(turns["ours"]))["loss"]))

        def their_step() -> None:
            batch = next(turns["theirs"])
            targets = semantic_targets(batch["labels"])
            loss = peer(
                pixel_values=normalised(batch["images"]),
                mask_labels=[target["masks"].float() for target in targets],
                class_labels=[target["labels"] for target in targets],
            ).loss.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), CLIP)
            optimizer.step()
            losses["theirs"].append(float(loss.detach()))

        times = measure.by_turns({"ours": ours_step, "theirs": their_step}, repeats)
    return {
        "crop": "{}x{}".format(*crop),
        "batch": BATCH,
        "ours crops/s": BATCH / statistics.median(times["ours"]),
        "transformers crops/s": BATCH / statistics.median(times["theirs"]),
        "times as fast": measure.ratio(times["theirs"], times["ours"]),
        "ours first loss": losses["ours"][0],
        "transformers first loss": losses["theirs"][0],
    }


# Run in either checkout, so it uses only what both have: one timed step per line read.
STEPPER = """
import sys, tempfile, time
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
trainer._update(batches[0])
print("ready", flush=True)
for number, _ in enumerate(sys.stdin):
    start = time.perf_counter()
    trainer._update(batches[number % len(batches)])
    print(time.perf_counter() - start, flush=True)
"""
SMALL = (
    *("pretrained_backbone=", "augmentation.crop=(256,512)", "batch_size=8", "steps=4"),
    *("batch_norm_batches=0", "grid_update_steps=()", "workers=0", "eval_every=1000"),
)


class Stepper:
    """A trainer in a process of its own that makes a step when asked to."""

    def __init__(self, checkout: Path, threads: int, name: str, *settings: str) -> None:
        inherited = {name: text for name, text in os.environ.items() if name != "GOMP_SPINCOUNT"}
        command = [sys.executable, "-c", STEPPER, str(threads), name, *SMALL, *settings]
        self._process = subprocess.Popen(
            command,
            cwd=checkout,
            env={**inherited, "PYTHONPATH": "."},  # ``training`` sets its own
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __call__(self) -> float:
        """Seconds of one step."""
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


def alternate(sides: dict[str, Stepper], repeats: int, *, busy: bool) -> measure.Row:
    """Median seconds of a step of each side, by turns; the last over the first."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    times: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for _ in range(repeats):
            for name, stepper in sides.items():
                times[name].append(stepper())
    finally:
        if other is not None:
            other.kill()
    first, last = list(times.values())
    medians = {f"{name} s": statistics.median(spent) for name, spent in times.items()}
    return {
        "cores": "one busy" if busy else "quiet",
        **medians,
        "ratio": measure.ratio(last, first),
    }


def between_checkouts(checkout: Path, threads: int, repeats: int) -> list[measure.Row]:
    """Steps of one head here and in another checkout."""
    settings = ("data=synthetic",)
    here = Stepper(measure.REPOSITORY, threads, "camvid_kan", *settings)
    before = Stepper(checkout, threads, "camvid_kan", *settings)
    try:
        sides = {"this": here, "other": before}
        return [alternate(sides, repeats, busy=busy) for busy in (False, True)]
    finally:
        here.close()
        before.close()


def joint(threads: int, repeats: int) -> list[measure.Row]:
    """Steps of one head and of two on one trunk."""
    settings = ("data=synthetic:cityscapes",)
    one = Stepper(measure.REPOSITORY, threads, "road_pair", *settings, "heads=()")
    two = Stepper(measure.REPOSITORY, threads, "road_pair", *settings)
    try:
        return [alternate({"one head": one, "two heads": two}, repeats, busy=False)]
    finally:
        one.close()
        two.close()


def main() -> int:
    """Run and print; returns the exit status."""
    parser = measure.parser(__doc__, repeats=9)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--joint", action="store_true", help="two heads against one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.against or options.joint:
        rows = (
            between_checkouts(options.against, options.threads, options.repeats)
            if options.against
            else joint(options.threads, options.repeats)
        )
        facts = measure.about(options.threads)
        measure.show(rows, facts)
        measure.write({"steps": rows}, facts, options.json)
        return 0
    with tempfile.TemporaryDirectory() as checkpoint:
        write_checkpoint(checkpoint)
        run = functools.partial(rows_for, checkpoint, repeats=options.repeats)
        rows = [run(crop) for crop in SIZES]
    facts = measure.about(options.threads)
    measure.show(rows, facts)
    measure.write({"steps": rows}, facts, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
