"""Which KAN configuration has splines that work, and what it costs: short runs beside controls.

    python -m training.spline_trials --init mask2kan_road --seeds 3 --steps 250 --out runs/trials

Every configuration trains ``mask_embed`` (made anew) and ``class_embed`` of one checkpoint on its
kept features, from several seeds; the trunk, crops and points are the same for all. Per run: spline
share and curvature on validation queries (``mask2kan.inference.kan_activity``), validation mIoU,
anomaly AP, and both again with the splines set to zero. The table is written to ``trials.md``.

A stopped command goes on where it was: a run that is done is not repeated.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mask2kan.checkpoints import load_model
from mask2kan.checks import require
from mask2kan.errors import ConfigError, Mask2KANError
from mask2kan.inference.kan_activity import collect_queries, head_activity
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import check_score
from mask2kan.media.records import read_record, write_record
from mask2kan.modeling.kan.layers import KAN, KANLinear
from mask2kan.modeling.mask2kan import Mask2KAN

from .config.recipes import recipe
from .config.train_config import TrainConfig
from .data import open_anomaly, open_split
from .data.base import LabelledPictures
from .engine.trainer import Trainer
from .evaluation.measure import collect_anomaly_scores, evenly_spread
from .evaluation.validation import validate
from .reporting.tables import MISSING, Cell, Table, markdown

THESIS: dict[str, Any] = {
    "standalone_spline_scale": True,
    "kan_bias": False,
    "grid_range": (-1.0, 1.0),
    "scale_noise": 0.1,
    "scale_base": 1.0,
}
ACTIVE: dict[str, Any] = {**THESIS, "standalone_spline_scale": False, "kan_bias": True}
WIDE: dict[str, Any] = {**ACTIVE, "grid_range": (-2.5, 2.5)}
EAGER: dict[str, Any] = {"spline_factor": 2.0, "decay_splines": False}
REPEATED = (20, 60, 120)

# name: (recipe, options of the model, fields of the run)
TRIALS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "MLP": ("head_only_mlp", {}, {}),
    "as in the thesis": ("head_only_kan", THESIS, {}),
    "no scaler": ("head_only_kan", {**THESIS, "standalone_spline_scale": False}, {}),
    "no scaler, bias, wide grid": ("head_only_kan", WIDE, {"grid_update_steps": REPEATED}),
    "the same, eager splines": (
        "head_only_kan",
        {**WIDE, "scale_noise": 0.3},
        {**EAGER, "grid_update_steps": REPEATED},
    ),
    "the same, weak base": (
        "head_only_kan",
        {**WIDE, "scale_noise": 0.5, "scale_base": 2.0},
        {**EAGER, "grid_update_steps": REPEATED},
    ),
}
COMMON = ("init", "data", "anomalies", "score", "steps")  # of the runs in one folder
QUERY_PICTURES = 25
FIGURES = ("share 0", "share 1", "curvature", "miou", "ap", "zeroed miou", "zeroed ap")


def trial_config(trial: str, init: str, data: str, steps: int, seed: int) -> TrainConfig:
    """The run of a trial."""
    name, options, fields = TRIALS[trial]
    base = recipe(name)
    return dataclasses.replace(
        base,
        init=init,
        data=data,
        steps=steps,
        seed=seed,
        model_options={**base.model_options, **options},
        eval_every=steps,
        **fields,
    )


def measure(
    model: Mask2KAN, pictures: LabelledPictures, anomalies: str, score: str
) -> dict[str, float]:
    """Validation mIoU, and AP of a score."""
    validation = validate(model.eval(), pictures, 0)
    assert validation is not None
    predictor = Predictor(model, "cpu", "float32")
    evaluators, _ = collect_anomaly_scores(predictor, open_anomaly(anomalies))
    return {"miou": validation.values["miou"], "ap": float(evaluators[score].compute()["ap"])}


def run_trial(config: TrainConfig, folder: Path, anomalies: str, score: str) -> dict[str, float]:
    """Train one configuration and measure what came out."""
    trainer = Trainer(config, folder, resume=True, progress=False)
    trainer.fit()
    if trainer.interrupted:
        raise KeyboardInterrupt
    model = load_model(folder / "last.safetensors", device="cpu")
    pictures = open_split(config.data, "val")
    chosen = evenly_spread(pictures, QUERY_PICTURES)
    queries = collect_queries(model, (pictures[index][0] for index in chosen))
    activity = head_activity(model.transformer_decoder.mask_embed, queries)
    found = measure(model, pictures, anomalies, score)
    found["curvature"] = activity.curvature
    found |= {f"share {index}": share for index, share in enumerate(activity.spline_shares)}
    if activity.spline_shares:
        zeroed = measure(without_splines(model), pictures, anomalies, score)
        found |= {f"zeroed {name}": value for name, value in zeroed.items()}
    return found


def without_splines(model: Mask2KAN) -> Mask2KAN:
    """A copy whose splines are zero."""
    changed = copy.deepcopy(model)
    for module in changed.modules():
        if isinstance(module, KAN):
            for layer in module.layers:
                assert isinstance(layer, KANLinear)
                torch.nn.init.zeros_(layer.spline_weight)
    return changed


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Mean and spread over the seeds, as Markdown."""
    rows = []
    for trial, runs in results.items():
        cells = [trial, str(len(runs))]
        for figure in FIGURES:
            values = [run[figure] for run in runs if figure in run]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}" if values else MISSING)
        rows.append([Cell(text) for text in cells])
    columns = ("configuration", "seeds", *FIGURES)
    return markdown(Table("Spline trials, mean ± spread over the seeds", "", "", columns, rows))


def _require_same(options: argparse.Namespace) -> None:
    """Remember what the runs of a folder have in common, and refuse to mix others in.

    Raises:
        ConfigError: when the folder holds runs of other settings.
    """
    plan = {name: getattr(options, name) for name in COMMON}
    path = options.out / "plan.json"
    if not path.is_file():
        write_record(path, plan)
    elif (before := read_record(path)) != plan:
        differing = [name for name in plan if before.get(name) != plan[name]]
        raise ConfigError(
            f"{options.out} holds trials with another {', '.join(differing)}; choose another --out."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.spline_trials",
        description="Short runs of KAN configurations beside an MLP.",
    )
    parser.add_argument("--init", required=True, help="checkpoint whose trunk all runs stand on")
    parser.add_argument("--data", default="camvid", help="to train and validate on")
    parser.add_argument("--anomalies", default="rendered_anomaly", help="data set of the AP")
    parser.add_argument("--score", default="entropy", help="of the AP (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--out", type=Path, default=Path("runs/spline_trials"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        check_score(options.score)
        require("--seeds", options.seeds, 1)
        require("--steps", options.steps, 1)
        _require_same(options)
        results: dict[str, list[dict[str, float]]] = {trial: [] for trial in TRIALS}
        for seed in range(options.seeds):
            for number, trial in enumerate(TRIALS):
                folder = options.out / f"{number}_{seed}"
                record = folder / "trial.json"
                if not record.is_file():
                    config = trial_config(trial, options.init, options.data, options.steps, seed)
                    found = run_trial(config, folder, options.anomalies, options.score)
                    write_record(record, {"trial": trial, "seed": seed, **found})
                results[trial].append(json.loads(record.read_text(encoding="utf-8")))
                print(f"{trial}, seed {seed}: {results[trial][-1]}", flush=True)
        page = table({trial: runs for trial, runs in results.items() if runs})
        (options.out / "trials.md").write_text(page, encoding="utf-8")
    except (Mask2KANError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; the same command goes on here.", file=sys.stderr)
        return 130
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
