"""Train KAN configurations and controls in short runs on one checkpoint's trunk."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch

from mask2kan.checkpoints import load_model
from mask2kan.inference.kan_activity import collect_queries, head_activity
from mask2kan.inference.predictor import Predictor
from mask2kan.modeling.kan.layers import KAN, KANLinear
from mask2kan.modeling.mask2kan import Mask2KAN

from ..config.recipes import recipe
from ..config.train_config import TrainConfig
from ..data import open_anomaly, open_split
from ..data.base import LabelledImages
from ..engine.trainer import Trainer
from ..evaluation.job_folder import JobFolder
from ..evaluation.measure import evenly_spread, measure_scores
from ..evaluation.validation import validate

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
QUERY_IMAGES = 25


def trial_config(trial: str, init: str, data: str, steps: int, seed: int) -> TrainConfig:
    """Configure the run of a trial."""
    name, options, fields = TRIALS[trial]
    base = recipe(name)
    fields = {**fields, "model_options": {**base.model_options, **options}, "eval_every": steps}
    return dataclasses.replace(base, init=init, data=data, steps=steps, seed=seed, **fields)


def measure(
    model: Mask2KAN, images: LabelledImages, anomalies: str, score: str
) -> dict[str, float]:
    """Measure validation mIoU, and AP of a score."""
    validation = validate(model.eval(), images, 0)
    assert validation is not None
    predictor = Predictor(model, "cpu", "float32")
    meter = measure_scores(predictor, open_anomaly(anomalies), scores=(score,))
    ap = meter.evaluators[score].compute()["ap"]
    return {"miou": validation.values["miou"], "ap": ap}


def run_trial(config: TrainConfig, folder: Path, anomalies: str, score: str) -> dict[str, float]:
    """Train one configuration and measure it."""
    trainer = Trainer(config, folder, resume=True, progress=False)
    trainer.fit()
    if trainer.interrupted:
        raise KeyboardInterrupt
    model = load_model(folder / "last.safetensors", device="cpu")
    images = open_split(config.data, "val")
    chosen = evenly_spread(images, QUERY_IMAGES)
    queries = collect_queries(model, (images[index][0] for index in chosen))
    activity = head_activity(model.transformer_decoder.mask_embed, queries)
    metrics = measure(model, images, anomalies, score)
    metrics["curvature"] = activity.curvature
    metrics |= {f"share {index}": share for index, share in enumerate(activity.spline_shares)}
    if activity.spline_shares:
        zeroed = measure(without_splines(model), images, anomalies, score)
        metrics |= {f"zeroed {name}": value for name, value in zeroed.items()}
    return metrics


def without_splines(model: Mask2KAN) -> Mask2KAN:
    """Copy a model with all splines set to zero."""
    changed = copy.deepcopy(model)
    for module in changed.modules():
        if isinstance(module, KAN):
            for layer in module.layers:
                assert isinstance(layer, KANLinear)
                torch.nn.init.zeros_(layer.spline_weight)
    return changed


def run_trials(
    out: Path, *, seeds: int, init: str, data: str, anomalies: str, score: str, steps: int
) -> dict[str, list[dict[str, Any]]]:
    """Run the trials missing in the folder; return by trial what each seed's run measured.

    All runs use the trunk of ``init`` and train and validate on ``data``; AP is of ``score`` on
    ``anomalies``.

    Raises:
        ConfigError: when the folder holds trials with other settings.
    """
    common = {"init": init, "data": data, "anomalies": anomalies, "score": score, "steps": steps}
    folder = JobFolder(out, common)
    results: dict[str, list[dict[str, Any]]] = {trial: [] for trial in TRIALS}
    for seed in range(seeds):
        for number, trial in enumerate(TRIALS):
            record = f"{number}_{seed}/trial.json"
            if record not in folder:
                config = trial_config(trial, init, data, steps, seed)
                metrics = run_trial(config, out / f"{number}_{seed}", anomalies, score)
                folder.write(record, {"trial": trial, "seed": seed, **metrics})
            results[trial].append(folder.read(record))
            print(f"{trial}, seed {seed}: {results[trial][-1]}", flush=True)
    return results
