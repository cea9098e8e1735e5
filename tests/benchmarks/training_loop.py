"""How many crops a second the training loop takes, against a loop around transformers' model.

The same Swin-T with the same weights, 100 queries and 9 decoder layers, the same crops in the same
batches, 12,544 points, AdamW and the same gradient clipping, float32, on a processor; by turns.
Ours is ``Trainer`` as ``python -m training.train`` runs it; theirs is the loop of the transformers
documentation: model with labels in, loss out, backward, clip, step. Crops are drawn beforehand, for
both by our data set.

With ``--joint``, a step of both heads on one trunk against a step of one.

    PYTHONPATH=. python tests/benchmarks/training_loop.py
    PYTHONPATH=. python tests/benchmarks/training_loop.py --joint
"""

from __future__ import annotations

import functools
import itertools
import statistics
import sys
import tempfile
from pathlib import Path

import measure
import torch
from against import TRAINING, Worker
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


def alternate(sides: dict[str, Worker], repeats: int) -> measure.Row:
    """Median seconds of a step of each side, by turns; the last over the first."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, worker in sides.items():
            times[name].append(worker())
    first, last = list(times.values())
    medians = {f"{name} s": statistics.median(spent) for name, spent in times.items()}
    return {**medians, "ratio": measure.ratio(last, first)}


def joint(threads: int, repeats: int) -> list[measure.Row]:
    """Steps of one head and of two on one trunk."""
    settings = ("data=synthetic:cityscapes",)
    program, _, _, *small = TRAINING
    start = functools.partial(Worker, measure.REPOSITORY, threads, program, "road_pair")
    one, two = start(*small, *settings, "heads=()"), start(*small, *settings)
    try:
        return [alternate({"one head": one, "two heads": two}, repeats)]
    finally:
        one.close()
        two.close()


def main() -> int:
    """Run and print; returns the exit status."""
    parser = measure.parser(__doc__, repeats=9)
    parser.add_argument("--joint", action="store_true", help="two heads against one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.joint:
        rows = joint(options.threads, options.repeats)
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
