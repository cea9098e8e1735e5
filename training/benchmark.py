"""All anomaly scores of some checkpoints on all anomaly data sets: one table, curves, pictures.

    python -m training.benchmark mask2kan_road mask2former_road
    python -m training.benchmark runs/*/best.safetensors --root data --protocol smiyc
    python -m training.benchmark mask2kan_road --ray --workers 4

Pixel figures are those of ``training.metrics.AnomalyEvaluator``; sets of SegmentMeIfYouCan's tracks
also get that benchmark's sIoU, PPV and F1*. Checkpoints with a common trunk share it. The scores of
a finished picture are kept in the output folder while the command runs, so it may be stopped and
repeated, and Ray Data may spread the scoring over processes and machines that share the folder.
"""

from __future__ import annotations

import argparse
import functools
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mask2kan.checks import require
from mask2kan.errors import ConfigError, Mask2KANError, PictureError
from mask2kan.inference.scale_out import Outcome, run_actors, run_here
from mask2kan.inference.scores import SCORES, check_score
from mask2kan.media.records import read_record, write_record
from mask2kan.runtime.precision import DTYPES

from .data.registry import ANOMALY_SETS, find_anomaly_sets, open_anomaly
from .evaluate import describe_weights
from .evaluation.measure import evenly_spread, own_ap
from .evaluation.saved_scores import (
    Scorer,
    ScoringPlan,
    Task,
    all_tasks,
    content_of,
    pictures_of,
    read_score,
)
from .metrics import AnomalyEvaluator
from .metrics.pixel import ANOMALY, PROTOCOLS, VOID
from .reporting.benchmark import COMPONENT_FIGURES, PIXEL_FIGURES, as_markdown, draw
from .reporting.side_images import SidePictures

SHOWN = 3  # best and worst pictures of a set


class Benchmark:
    """Runs what of a plan is not yet in its folder.

    Args:
        plan: what is scored.
        out: of the results.
        protocol: ``exact`` or ``smiyc``.
        limit: pictures per set, evenly spread; None for all.

    Raises:
        ConfigError: for a set that is not there, or a folder with another benchmark's leftovers.
    """

    def __init__(
        self, plan: ScoringPlan, out: Path, *, protocol: str = "exact", limit: int | None = None
    ) -> None:
        self.plan = plan
        self.out = out
        self.protocol = protocol
        self.chosen: dict[str, Sequence[int]] = {}
        for data in plan.sets:
            self.chosen[data] = evenly_spread(open_anomaly(data, plan.root), limit)
        self._require_same_plan()

    def _require_same_plan(self) -> None:
        """Whether leftovers fit: same weights and settings, same pictures of sets in both."""
        settings: dict[str, Any] = {
            "checkpoints": [[name, content_of(source)] for name, source in self.plan.checkpoints],
            "scores": list(self.plan.scores),
            "dtype": self.plan.dtype,
            "max_side": self.plan.max_side,
            "flip": self.plan.flip,
            "refine": self.plan.refine,
        }
        sets = {data: pictures_of(open_anomaly(data, self.plan.root)) for data in self.plan.sets}
        known = Path(self.plan.out) / "plan.json"
        if known.is_file():
            before = read_record(known)
            sets_before = before.pop("sets", {})
            changed = [data for data in sets if sets_before.get(data, sets[data]) != sets[data]]
            if before != settings or changed:
                raise ConfigError(
                    f"{self.plan.out} holds the scores of another benchmark (other weights, "
                    "options or pictures); choose another folder with --out, or delete that one."
                )
            sets = sets_before | sets
        write_record(known, {**settings, "sets": sets})

    def score(self, *, ray: bool, workers: int | None, address: str | None) -> None:
        """Score every picture that is not scored yet.

        Raises:
            PictureError: at the end, when pictures could not be scored; the others are kept.
            Mask2KANError: when the work cannot begin.
        """
        tasks = all_tasks(self.plan, self.chosen)
        missing = [task for task in tasks if not self.plan.is_done(task)]
        failures = []
        with tqdm(
            total=len(tasks), initial=len(tasks) - len(missing), unit="picture", desc="scoring"
        ) as bar:
            for outcome in self._scored(missing, ray=ray, workers=workers, address=address):
                if outcome.error is not None:
                    failures.append(outcome)
                    data, index = outcome.item
                    tqdm.write(f"{data}, picture {index}: {outcome.error}", file=sys.stderr)
                bar.update()
        if failures:
            raise PictureError(
                f"{len(failures)} of {len(tasks)} pictures could not be scored (listed above); "
                "repeat the command when they are mended: the scores of the others are kept."
            )

    def _scored(
        self, tasks: list[Task], *, ray: bool, workers: int | None, address: str | None
    ) -> Iterator[Outcome[Task, Task]]:
        make = functools.partial(Scorer, self.plan)
        if ray:
            return run_actors(make, tasks, workers=workers, address=address)
        return run_here(make, tasks)

    def measure(self) -> dict[str, Any]:
        """Figures from the score files.

        Returns:
            Per checkpoint what ``benchmark.json`` holds.
        """
        results: dict[str, Any] = {
            name: {**describe_weights(source), "protocol": self.protocol, "sets": {}}
            for name, source in self.plan.checkpoints
        }
        for data in tqdm(self.plan.sets, unit="set", desc="measuring"):
            curves = {}
            for name, _ in self.plan.checkpoints:
                found, evaluators = self._measure_one(name, data)
                results[name]["sets"][data] = found
                curves[name] = {score: one.points() for score, one in evaluators.items()}
            draw(curves, data, self.out)
        return results

    def _measure_one(
        self, checkpoint: str, data: str
    ) -> tuple[dict[str, Any], dict[str, AnomalyEvaluator]]:
        pictures = open_anomaly(data, self.plan.root)
        track: Any = ANOMALY_SETS[data].track
        protocol: Any = self.protocol
        evaluators = {score: AnomalyEvaluator(protocol, track) for score in self.plan.scores}
        anomalous = valid = 0
        for index in self.chosen[data]:
            _, label = pictures.arrays(index)
            path = self.plan.file(checkpoint, (data, index))
            for score, evaluator in evaluators.items():
                evaluator.update(read_score(path, score), label)
            anomalous += int((label == ANOMALY).sum())
            valid += int((label != VOID).sum())
        figures = {score: one.compute() for score, one in evaluators.items()}
        about = {
            "pictures": len(self.chosen[data]),
            "prevalence": anomalous / max(valid, 1),
            "track": track,
            "scores": {
                score: {
                    key: _or_none(found[key])
                    for key in (*PIXEL_FIGURES, *COMPONENT_FIGURES)
                    if key in found
                }
                for score, found in figures.items()
            },
        }
        return about, evaluators

    def show_extremes(self, score: str) -> None:
        """Pictures of every checkpoint's best and worst cases, by their own AP."""
        scorer = Scorer(self.plan)
        for data in self.plan.sets:
            pictures = scorer.pictures(data)
            for (name, _), predictor in zip(self.plan.checkpoints, scorer.predictors, strict=True):
                qualities = []
                for index in self.chosen[data]:
                    stored = read_score(self.plan.file(name, (data, index)), score)
                    qualities.append((own_ap(stored, pictures.arrays(index)[1]), index))
                ordered = sorted(pair for pair in qualities if not math.isnan(pair[0]))
                if len(ordered) > 2 * SHOWN:
                    ordered = [*ordered[:SHOWN], *ordered[-SHOWN:]]
                folder = self.out / "best_and_worst" / data / name
                shutil.rmtree(folder, ignore_errors=True)
                side = SidePictures(folder, score, anomalies=True)
                for quality, index in ordered:
                    picture, label = pictures.arrays(index)
                    side(pictures.names[index], predictor(picture), label, quality)


def _or_none(value: float) -> float | None:
    """NaN is no JSON."""
    return None if math.isnan(value) else float(value)


def checkpoint_names(sources: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """A short, unlike name for every checkpoint: its file's, with its folder's where needed.

    Raises:
        ConfigError: when the same checkpoint is named twice.
    """
    if len(set(sources)) < len(sources):
        raise ConfigError("A checkpoint is named twice; name each once.")
    names = [Path(source).stem if Path(source).suffix else source for source in sources]
    unlike = [
        name if names.count(name) == 1 else f"{Path(source).resolve().parent.name}_{name}"
        for name, source in zip(names, sources, strict=True)
    ]
    safe = ["".join(c if c.isalnum() or c in "_-." else "_" for c in name) for name in unlike]
    if len(set(safe)) < len(safe):
        safe = [f"{index}_{name}" for index, name in enumerate(safe)]
    return tuple(zip(safe, sources, strict=True))


def sets_to_measure(named: Sequence[str] | None, root: Path | None) -> tuple[str, ...]:
    """The sets asked for, or all that are there.

    Raises:
        ConfigError: when none is there.
    """
    if named:
        return tuple(named)
    found = tuple(name for name, _ in find_anomaly_sets(root))
    if not found:
        where = root or "the usual places (python -m training.data list)"
        raise ConfigError(
            f"No anomaly data set in {where}; --root names their folder, --sets "
            "synthetic_anomaly needs none."
        )
    return found


def _parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m training.benchmark",
        description="All anomaly scores on all anomaly data sets.",
        epilog="example: python -m training.benchmark mask2kan_road mask2former_road",
    )
    out.add_argument("weights", nargs="+", help="checkpoint files, bundled names or Hub ids")
    out.add_argument("--root", type=Path, help="folder that holds the data sets")
    out.add_argument("--sets", nargs="+", metavar="SET", help=f"of {', '.join(ANOMALY_SETS)}")
    out.add_argument(
        "--scores", nargs="+", default=list(SCORES), help=f"default: {' '.join(SCORES)}"
    )
    out.add_argument("--protocol", choices=PROTOCOLS, default="exact", help="default: %(default)s")
    out.add_argument("--limit", type=int, metavar="N", help="only N pictures of each set")
    out.add_argument("--flip", action="store_true", help="average with the flipped picture")
    out.add_argument("--refine", action="store_true", help="Mask2Anomaly's refinement")
    out.add_argument("--max-side", type=int, default=2048, help="default: %(default)s")
    out.add_argument("--device", default="auto", help="auto, cpu, cuda")
    out.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    out.add_argument("--ray", action="store_true", help="spread the scoring with Ray Data")
    out.add_argument("--ray-address", help="of a running cluster (default: start one here)")
    out.add_argument("--workers", type=int, help="Ray actors (default: as many as fit)")
    out.add_argument("--keep-scores", action="store_true", help="leave the score files")
    out.add_argument(
        "--out", type=Path, default=Path("runs/benchmark"), help="default: %(default)s"
    )
    return out


def run(options: argparse.Namespace) -> str:
    """Score, measure, write; returns the table.

    Raises:
        Mask2KANError: for anything that cannot be loaded or does not fit.
    """
    if options.limit is not None:
        require("limit", options.limit, 1)
    for score in options.scores:
        check_score(score)
    scores_folder = options.out / "scores"
    plan = ScoringPlan(
        checkpoints=checkpoint_names(options.weights),
        sets=sets_to_measure(options.sets, options.root),
        root=None if options.root is None else str(options.root),
        scores=tuple(options.scores),
        out=str(scores_folder.resolve()),
        device=options.device,
        dtype=options.dtype,
        max_side=options.max_side,
        flip=options.flip,
        refine=options.refine,
    )
    benchmark = Benchmark(plan, options.out, protocol=options.protocol, limit=options.limit)
    spread = options.ray or options.ray_address is not None or options.workers is not None
    benchmark.score(ray=spread, workers=options.workers, address=options.ray_address)
    results = benchmark.measure()
    benchmark.show_extremes(options.scores[0])
    for name, result in results.items():
        write_record(options.out / name / "benchmark.json", result)
    text = as_markdown(results, plan.scores)
    (options.out / "benchmark.md").write_text(text, encoding="utf-8")
    if not options.keep_scores:
        shutil.rmtree(scores_folder)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        text = run(options)
    except (Mask2KANError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, PictureError) else 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
