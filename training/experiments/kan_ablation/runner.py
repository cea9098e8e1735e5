"""All runs of an ablation, several at a time, each kept in the folder as soon as it is done.

``settings.json`` says what all runs have in common, ``runs/<experiment>_<seed>.json`` is one run.
A folder takes further seeds and experiments at any time, but no other settings. Every run computes
on one thread, whatever the number of workers, so that its result does not depend on that number.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

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
    """Run what is missing of an ablation and write its report.

    Args:
        data: ``digits`` or ``mnist``.
        protocol: how every network is trained.
        out: run folder.
        root: folder of MNIST's files.
        seeds: number of seeds, from 0 on.
        experiments: names; none for all. The default is always among them.
        workers: runs at a time.

    Returns:
        The content of ``ablation.json``.

    Raises:
        Mask2KANError: for what cannot be read or trained, does not exist, or does not fit the
            folder.
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
    content = {
        "settings": folder.settings,
        "provenance": provenance(),
        "runs": runs,
        "summary": summarize(runs),
    }
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
    """Train what is not yet in the folder; all experiments of a seed come before the next seed.

    Returns:
        Every run, finished earlier or now: ``experiment``, ``seed`` and ``RESULT_FIELDS``.

    Raises:
        ConfigError: for a damaged result in the folder.
        NumericsError: when a run diverges; the finished ones are kept.
        OutOfMemoryError: when the system killed a worker.
    """
    wanted = [(experiment, seed) for seed in seeds for experiment in experiments]
    missing = [job for job in wanted if _file(*job) not in folder]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="run") as bar:
        for (experiment, seed), result in _train(missing, digits, protocol, workers):
            about = {"experiment": experiment.name, "seed": seed}
            folder.write(_file(experiment, seed), about | result)
            bar.update()
    return [_read_run(folder, *job) for job in wanted]


def _file(experiment: Experiment, seed: int) -> str:
    return f"runs/{experiment.name}_{seed}.json"


_Job = tuple[Experiment, int]


def _train(
    jobs: Sequence[_Job], digits: Digits, protocol: Protocol, workers: int
) -> Iterator[tuple[_Job, dict[str, Any]]]:
    """Jobs and their results, in the order in which they finish."""
    if workers == 1 or len(jobs) < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for experiment, seed in jobs:
                yield (experiment, seed), train(experiment, digits, seed, protocol)
        finally:
            torch.set_num_threads(threads)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, broken
    count = min(workers, len(jobs))
    with ProcessPoolExecutor(count, spawn, _start_worker, (digits, protocol)) as pool:
        try:
            pending = {pool.submit(_train_here, *job): job for job in jobs}
            for done in as_completed(pending):
                yield pending[done], done.result()
        except BrokenProcessPool as error:
            raise OutOfMemoryError(
                f"One of {count} processes was killed, most likely for lack of memory; finished "
                "runs are kept. Repeat the command with fewer --workers."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_given: tuple[Digits, Protocol] | None = None  # of a worker process, which gets the data once


def _start_worker(digits: Digits, protocol: Protocol) -> None:
    global _given  # noqa: PLW0603 - how a pool's initialiser hands over
    torch.set_num_threads(1)
    _given = digits, protocol


def _train_here(experiment: Experiment, seed: int) -> dict[str, Any]:
    assert _given is not None
    digits, protocol = _given
    return train(experiment, digits, seed, protocol)


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
