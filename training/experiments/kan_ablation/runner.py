"""Run an ablation, several runs at a time, each stored as soon as it is done.

A folder takes further seeds and experiments, but no other settings. Every run computes on one
thread, so that its result does not depend on the number of workers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from mask2kan.errors import ConfigError, OutOfMemoryError

from ...engine.run_folder import provenance
from ...evaluation.job_folder import JobFolder
from .classifier import Protocol, train
from .digits import Digits, load
from .experiments import Experiment, choose
from .report import report, summarize

RESULT_FIELDS = ("test_accuracy", "val_accuracy", "train_accuracy", "train_loss", "seconds")


def ablate(
    data: str,
    protocol: Protocol,
    out: Path,
    *,
    root: Path | None = None,
    seeds: int = 5,
    experiments: Sequence[str] = (),
    workers: int = 1,
) -> dict[str, Any]:
    """Run what is missing of an ablation and write its report; return ``ablation.json``.

    See ``digits.load`` for data and root, ``experiments.choose`` for the experiments.

    Raises:
        Mask2KANError: as these, as ``run_all`` and as ``JobFolder``.
    """
    chosen = choose(experiments)
    digits = load(data, root)
    about = {
        "name": digits.name,
        "pictures": len(digits.labels),
        "pixels": digits.pixels.shape[1],
        "sha256": digits.digest(),
    }
    settings = {"data": about, "protocol": dataclasses.asdict(protocol)}
    folder = JobFolder(out, settings, record="settings.json")
    runs = run_all(chosen, range(seeds), digits, protocol, folder=folder, workers=workers)
    results = {"runs": runs, "summary": summarize(runs)}
    content = {"settings": folder.settings, "provenance": provenance(), **results}
    folder.write("ablation.json", content)
    report(content, out)
    return content


def run_all(
    experiments: Sequence[Experiment],
    seeds: Sequence[int],
    digits: Digits,
    protocol: Protocol,
    *,
    folder: JobFolder,
    workers: int,
) -> list[dict[str, Any]]:
    """Train what is not yet in the folder, seed by seed; return all runs.

    Each has ``experiment``, ``seed`` and ``RESULT_FIELDS``.

    Raises:
        ConfigError: for a damaged result in the folder.
        NumericsError: when a run diverges; the finished ones are kept.
        OutOfMemoryError: when the system killed a worker.
    """
    wanted = [(experiment, seed) for seed in seeds for experiment in experiments]
    missing = [job for job in wanted if _file(*job) not in folder]
    threads = torch.get_num_threads()
    pool = joblib.Parallel(min(workers, max(1, len(missing))), return_as="generator_unordered")
    try:
        runs = pool(joblib.delayed(_train)(*job, digits, protocol) for job in missing)
        done = len(wanted) - len(missing)
        for experiment, seed, result in tqdm(runs, total=len(wanted), initial=done, unit="run"):
            about = {"experiment": experiment.name, "seed": seed}
            folder.write(_file(experiment, seed), about | result)
    except BrokenProcessPool as error:
        raise OutOfMemoryError(
            f"One of {workers} processes was killed, most likely for lack of memory; finished "
            "runs are kept. Repeat the command with fewer --workers."
        ) from error
    finally:
        torch.set_num_threads(threads)  # a single worker is this process
    return [_read_run(folder, *job) for job in wanted]


def _train(
    experiment: Experiment, seed: int, digits: Digits, protocol: Protocol
) -> tuple[Experiment, int, dict[str, Any]]:
    torch.set_num_threads(1)
    return experiment, seed, train(experiment, digits, seed, protocol)


def _file(experiment: Experiment, seed: int) -> str:
    return f"runs/{experiment.name}_{seed}.json"


def _read_run(folder: JobFolder, experiment: Experiment, seed: int) -> dict[str, Any]:
    path, run = folder.path / _file(experiment, seed), folder.read(_file(experiment, seed))
    if (run.get("experiment"), run.get("seed")) != (experiment.name, seed):
        raise ConfigError(
            f"{path} holds the run {run.get('experiment')!r} with seed {run.get('seed')!r}; "
            "its name says another. Delete it to repeat the run."
        )
    wrong = [name for name in RESULT_FIELDS if not isinstance(run.get(name), (int, float))]
    if wrong:
        raise ConfigError(f"{path} has no number {wrong[0]!r}. Delete it to repeat the run.")
    return run
