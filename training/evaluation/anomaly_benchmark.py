"""All anomaly scores of some checkpoints on some anomaly data sets: scored, measured, drawn.

Figures come from score files, so that a stopped benchmark continues and machines that share the
folder share the scoring.
"""

from __future__ import annotations

import functools
import math
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mask2kan.errors import ConfigError, ImageError
from mask2kan.inference.scale_out import run_actors, run_here
from mask2kan.media.files import write_bytes, write_record

from ..data.folders import exists
from ..data.registry import OWN_FOLDER, choose_anomaly, find_anomaly_sets, is_anomaly_data
from ..metrics import AnomalyEvaluator
from ..reporting.benchmark import COMPONENT_FIGURES, PIXEL_FIGURES, as_markdown, draw
from ..reporting.evaluation import AT_THRESHOLD
from ..reporting.side_images import SideImages
from .checkpoint_evaluation import describe_weights
from .job_folder import JobFolder
from .measure import Extremes, ScoreMeter, evenly_spread, measure, own_ap
from .saved_scores import Scorer, ScoringPlan, content_of, images_of, read_score

MOST_NAMED = 3  # folders in a message


class Benchmark:
    """Runs what its folder lacks of a plan, on at most ``limit`` evenly spread images per set.

    Raises:
        ConfigError: for a missing set, or a folder of other weights, options or images.
    """

    def __init__(
        self, plan: ScoringPlan, out: Path, *, protocol: str = "exact", limit: int | None = None
    ) -> None:
        self.plan = plan
        self.out = out
        self.protocol = protocol
        self.images = {data: plan.open(data) for data in plan.sets}
        self.chosen = {data: evenly_spread(images, limit) for data, images in self.images.items()}
        self._extremes: dict[tuple[str, str], Extremes[Path]] = {}
        settings = {
            "checkpoints": [[name, content_of(source)] for name, source in plan.checkpoints],
            "scores": list(plan.scores),
            "dtype": plan.dtype,
            "max_side": plan.max_side,
            "flip": plan.flip,
            "refine": plan.refine,
            "sets": {data: images_of(images) for data, images in self.images.items()},
        }
        JobFolder(Path(plan.out), settings, growing=["sets"])

    def run(self, *, ray: bool, workers: int | None, address: str | None) -> str:
        """Score, measure and write; return the Markdown table.

        Raises:
            Mask2KANError: for anything that cannot be loaded or scored.
        """
        self.score(ray=ray, workers=workers, address=address)
        results = self.measure()
        self.show_extremes()
        for name, result in results.items():
            write_record(self.out / name / "benchmark.json", result)
        text = as_markdown(results, self.plan.scores)
        write_bytes(self.out / "benchmark.md", text.encode())
        return text

    def score(self, *, ray: bool, workers: int | None, address: str | None) -> None:
        """Score every image that is not scored yet.

        Raises:
            ImageError: at the end, when images could not be scored; the others are kept.
            Mask2KANError: when the work cannot begin.
        """
        tasks = [(data, index) for data in self.plan.sets for index in self.chosen[data]]
        missing = [task for task in tasks if not self.plan.is_done(task)]
        spread = functools.partial(run_actors, workers=workers, address=address)
        outcomes = (spread if ray else run_here)(functools.partial(Scorer, self.plan), missing)
        failures, done = 0, len(tasks) - len(missing)
        with tqdm(total=len(tasks), initial=done, unit="image", desc="scoring") as bar:
            for outcome in outcomes:
                if outcome.error is not None:
                    failures += 1
                    data, index = outcome.item
                    tqdm.write(f"{data}, image {index}: {outcome.error}", file=sys.stderr)
                bar.update()
        if failures:
            raise ImageError(
                f"{failures} of {len(tasks)} images could not be scored (listed above); "
                "repeat the command when they are mended: the scores of the others are kept."
            )

    def measure(self) -> dict[str, Any]:
        """Compute from the score files each checkpoint's ``benchmark.json``."""
        results: dict[str, Any] = {
            name: {**describe_weights(source), "protocol": self.protocol, "sets": {}}
            for name, source in self.plan.checkpoints
        }
        for data in tqdm(self.plan.sets, unit="set", desc="measuring"):
            curves = {}
            for name, result in results.items():
                meter = self._measure_one(name, data)
                evaluators = meter.evaluators.items()
                scores = {score: _figures(evaluator) for score, evaluator in evaluators}
                result["sets"][data] = {**self._about(data, meter), "scores": scores}
                curves[name] = {score: evaluator.points() for score, evaluator in evaluators}
            draw(curves, data, self._title(data), self.out)
        return results

    def _about(self, data: str, meter: ScoreMeter[Path]) -> dict[str, Any]:
        about, description = meter.about(), self.images[data].described()
        own = {"own": True} if self.plan.choice(data).own else {}
        notes = description.notes(about["pictures"])
        more = {"title": self._title(data), "track": description.track, "notes": notes}
        return {**about, **more, **own}

    def _title(self, data: str) -> str:
        own = self.plan.choice(data).kind == OWN_FOLDER
        return data if own else self.images[data].described().title

    def _measure_one(self, checkpoint: str, data: str) -> ScoreMeter[Path]:
        plan, track = self.plan, self.images[data].described().track
        meter = ScoreMeter(read_score, plan.scores, protocol=self.protocol, track=track)
        extremes = Extremes[Path](
            lambda sample, path: own_ap(read_score(path, plan.scores[0]), sample.label)
        )
        measure(
            lambda sample: [plan.file(checkpoint, (data, sample.index))],
            self.images[data],
            self.chosen[data],
            [[meter, extremes]],
            disable=True,
        )
        self._extremes[data, checkpoint] = extremes
        return meter

    def show_extremes(self) -> None:
        """Draw every checkpoint's best and worst images, by their own AP."""
        names = dict(self.plan.checkpoints)
        predictors = dict(zip(names, Scorer(self.plan).predictors, strict=True))
        for (data, name), extremes in self._extremes.items():
            folder = self.out / "best_and_worst" / data / name
            shutil.rmtree(folder, ignore_errors=True)
            side = SideImages(folder, self.plan.scores[0], anomalies=True)
            extremes.show(self.images[data], predictors[name], side)


def _figures(evaluator: AnomalyEvaluator) -> dict[str, float | None]:
    """Select what is reported; NaN, which JSON lacks, becomes None."""
    metrics = {**evaluator.compute(), AT_THRESHOLD: evaluator.fpr95_at_threshold()}
    reported = [key for key in (*PIXEL_FIGURES, AT_THRESHOLD, *COMPONENT_FIGURES) if key in metrics]
    return {key: None if math.isnan(metrics[key]) else float(metrics[key]) for key in reported}


def checkpoint_names(sources: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Give every checkpoint a unique name: its file's, with its folder's where needed.

    Raises:
        ConfigError: when the same checkpoint is named twice.
    """
    if len(set(sources)) < len(sources):
        raise ConfigError("A checkpoint is named twice; name each once.")
    names = [_name_of(source) for source in sources]
    unlike = [
        name if names.count(name) == 1 else f"{Path(source).resolve().parent.name}_{name}"
        for name, source in zip(names, sources, strict=True)
    ]
    safe = ["".join(c if c.isalnum() or c in "_-." else "_" for c in name) for name in unlike]
    if len(set(safe)) < len(safe):
        safe = [f"{index}_{name}" for index, name in enumerate(safe)]
    return tuple(zip(safe, sources, strict=True))


def _name_of(source: str) -> str:
    """Return a file's stem or the source itself, without the dots that would hide a folder."""
    path = Path(source)
    name = path.stem if path.suffix else re.sub(r"^(\.{1,2}/+)+", "", source)
    return name.lstrip(".") or path.resolve().name.lstrip(".") or "checkpoint"


def sets_to_measure(named: Sequence[str] | None, root: Path | None) -> tuple[tuple[str, str], ...]:
    """Return names in results, and what ``open_anomaly`` takes, of ``named``, or all that is there.

    Folders of one's own that are called alike get their parents' names too.

    Raises:
        ConfigError: for an unknown or missing set or root, or when none is there.
    """
    if root is not None and not exists(root):
        raise ConfigError(
            f"--root {root}: no such folder; expected one that holds anomaly data sets, or images "
            "and masks of your own."
        )
    sets = find_anomaly_sets(root) if not named else []
    choices = [choose_anomaly(data, root) for data in named or ()]
    choices += [choose_anomaly(f"{name}={place}") for name, place in sets]
    choices = list(dict.fromkeys(choices))
    if not choices:
        where = root or "the usual places (python -m training.data list)"
        raise ConfigError(
            f"No anomaly data set in {where}; --root names their folder, --sets "
            f"synthetic_anomaly needs none.{_own_folders_in(root)}"
        )
    names = [choice.name for choice in choices]
    unlike = [
        choice.name
        if choice.root is None or names.count(choice.name) == 1
        else f"{choice.root.resolve().parent.name}_{choice.name}"
        for choice in choices
    ]
    if len(set(unlike)) < len(unlike):
        raise ConfigError(f"Two of the sets are named {_first_double(unlike)}; name each once.")
    return tuple(zip(unlike, (choice.data for choice in choices), strict=True))


def _own_folders_in(root: Path | None) -> str:
    """Name the folders of one's own in a root, which have to be named themselves."""
    try:
        inside = sorted(root.iterdir()) if root is not None else []
    except OSError as error:
        return f" {root} cannot be read: {error.strerror}."
    own = [f"--root {shlex.quote(str(path))}" for path in inside if is_anomaly_data(path)]
    if not own:
        return ""
    more = f" ({len(own) - MOST_NAMED} more like it)" if len(own) > MOST_NAMED else ""
    return f" It holds a folder of your own: {' or '.join(own[:MOST_NAMED])}{more}."


def _first_double(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)
