"""``python -m training.study``: does the KAN head help?

Three heads under one roof: the KAN, Mask2Former's MLP, and an MLP as wide as it takes to have the
KAN's number of parameters. Everything else is the same in a pair of runs: the recipe, the seed, and
with it the order of the data, the crops and the points.

- ``head_only``: the heads are trained on frozen trunks, **crossed**: on a trunk that grew up with a
  KAN head and on one that grew up with an MLP head, since a trunk favours the head it grew up with.
- ``full``: the whole model is trained with each head.

Learning rates are chosen per head and trunk on the validation split, with a seed of their own.
Results lie in one folder per run and finished runs are not repeated, so the command may be stopped
and started again at any time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from accelerate.state import AcceleratorState
from tqdm import tqdm

from mask2kan.checkpoints import describe, load_model
from mask2kan.checks import require
from mask2kan.errors import ConfigError, Mask2KANError
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import SCORES
from mask2kan.media.records import read_record, write_record
from mask2kan.modeling.config import ModelConfig

from .config.recipes import camvid_kan, camvid_mlp, head_only
from .config.train_config import TrainConfig, override
from .data import open_anomaly, open_split, usual_split
from .data.label_space import coarse_classes, plain_labels
from .engine.run_folder import provenance
from .engine.trainer import Trainer
from .evaluation.saved_scores import content_of
from .metrics import AnomalyEvaluator, SegmentationEvaluator
from .models.build import equal_width, head_parameters
from .objectives.trunk_cache import TrunkCache
from .reporting.study import report

HEADS = ("kan", "mlp", "mlp_equal")
TUNING_SEED = 1000
EXAMPLE = """examples:
  python -m training.study --data camvid --seeds 5
  python -m training.study --mode full --data camvid --seeds 3 --steps 2000
"""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a study runs.

    Attributes:
        mode: ``head_only`` or ``full``.
        data: labelled pictures of the classes' data set.
        trunks: checkpoints whose trunk the heads are trained on, by a short name; one empty name
            in ``full`` mode.
        seeds: number of seeds.
        settings: changes of the recipe, as ``--set``.
        rates: learning rates to choose from.
        tuning_steps: of the runs that choose the rate.
        anomalies: names of anomaly sets to measure.
        limit: pictures per set; None for all.
        split: whose class maps are measured; empty for the usual one, which is CamVid's test and
            others' val.

    Raises:
        ConfigError: for numbers no study can be made of.
    """

    mode: str
    data: str
    trunks: dict[str, str]
    seeds: int
    settings: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    tuning_steps: int = 200
    anomalies: tuple[str, ...] = ("camvid_anomaly", "road_anomaly")
    limit: int | None = None
    split: str = ""

    def __post_init__(self) -> None:
        """Refuse what would fail, or mean nothing, after hours."""
        require("--seeds", self.seeds, 1)
        require("--tuning-steps", self.tuning_steps, 1)
        require("--limit", 1 if self.limit is None else self.limit, 1)
        for rate in self.rates:
            require("--rates", rate, 0.0, above=True)


def head_config(plan: Plan, trunk: str, head: str, seed: int) -> TrainConfig:
    """The configuration of one run, before its learning rate is chosen."""
    kind = "kan" if head == "kan" else "mlp"
    if plan.mode == "full":
        config = camvid_kan() if kind == "kan" else camvid_mlp()
    else:
        config = dataclasses.replace(head_only(kind), init=plan.trunks[trunk])
    config = dataclasses.replace(config, name=f"study_{head}", data=plan.data, seed=seed)
    config = override(config, plan.settings)
    if head == "mlp_equal":
        model = describe(config.init)["config"] if config.init else dict(config.model_options)
        width = equal_width(ModelConfig.from_dict({**model, "mask_embed": "kan"}))
        options = {**config.model_options, "mask_embed_width": width}
        config = dataclasses.replace(config, model_options=options)
    return dataclasses.replace(config, eval_every=config.steps)


class Study:
    """Runs what of a plan is not yet in its folder.

    Args:
        plan: what to run.
        out: folder of the study.

    Raises:
        ConfigError: when the folder holds a study of another plan, or something to measure on is
            not there.
    """

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan = plan
        self.out = out
        settings = dataclasses.asdict(plan) | {"trunks": dict(plan.trunks)}
        settings["weights"] = {
            name: content_of(checkpoint) for name, checkpoint in plan.trunks.items()
        }
        settings = json.loads(json.dumps(settings))
        known = out / "plan.json"
        if known.is_file() and read_record(known) != settings:
            raise ConfigError(
                f"{out} holds a study of another plan (plan.json differs); choose another folder "
                "with --out, or repeat its settings."
            )
        self._pictures = open_split(plan.data, plan.split or usual_split(plan.data))
        self._anomalies = {name: open_anomaly(name) for name in plan.anomalies}
        write_record(known, settings)
        self._shared: tuple[tuple[str, int], TrunkCache] | None = None

    def run(self) -> dict[str, Any]:
        """All runs, then the report.

        Returns:
            What ``study.json`` holds.
        """
        plan = self.plan
        rates = {(trunk, head): self._rate(trunk, head) for trunk in plan.trunks for head in HEADS}
        groups = [(trunk, seed) for seed in range(plan.seeds) for trunk in plan.trunks]
        with tqdm(total=len(groups) * len(HEADS), unit="run", desc="study") as bar:
            for trunk, seed in groups:
                self._group(trunk, seed, rates, bar)
        results = [
            read_record(self._cell(trunk, head, seed) / "result.json")
            for trunk, seed in groups
            for head in HEADS
        ]
        content = {
            "plan": read_record(self.out / "plan.json"),
            "provenance": provenance(),
            "learning_rates": [
                {"trunk": trunk, "head": head, "lr": rate} for (trunk, head), rate in rates.items()
            ],
            "results": results,
        }
        write_record(self.out / "study.json", content)
        report(content, self.out)
        return content

    def _cell(self, trunk: str, head: str, seed: int) -> Path:
        return self.out / (trunk or "full") / head / f"seed_{seed}"

    def _rate(self, trunk: str, head: str) -> float | None:
        """The learning rate with the best validation mIoU; None for the recipe's own."""
        if not self.plan.rates:
            return None
        found = self.out / (trunk or "full") / head / "learning_rate.json"
        tried: dict[str, float] = read_record(found) if found.is_file() else {}
        for rate in self.plan.rates:
            if str(rate) in tried:
                continue
            config = head_config(self.plan, trunk, head, TUNING_SEED)
            steps = self.plan.tuning_steps
            config = dataclasses.replace(config, lr=rate, steps=steps, eval_every=steps)
            folder = found.with_name(f"lr_{rate:g}")
            shutil.rmtree(folder, ignore_errors=True)
            tried[str(rate)] = self._train(config, trunk, folder)
            write_record(found, tried)
            shutil.rmtree(folder)
        return float(max(tried, key=lambda rate: tried[rate]))

    def _group(
        self, trunk: str, seed: int, rates: dict[tuple[str, str], float | None], bar: tqdm[Any]
    ) -> None:
        """The heads of one trunk and seed: trained one after the other, measured together."""
        cells = {head: self._cell(trunk, head, seed) for head in HEADS}
        missing = [head for head in HEADS if not (cells[head] / "result.json").is_file()]
        for head in missing:
            done = cells[head] / "done"
            if not done.is_file():
                rate = rates[trunk, head]
                config = head_config(self.plan, trunk, head, seed)
                if rate is not None:
                    config = dataclasses.replace(config, lr=rate)
                self._train(config, trunk, cells[head])
                done.touch()
                (cells[head] / "state.pt").unlink()
            bar.update()
        if missing:
            weights_of = {head: cells[head] / "last.safetensors" for head in missing}
            for head, measured in self._measure(weights_of).items():
                config = head_config(self.plan, trunk, head, seed)
                about = {
                    "trunk": trunk,
                    "head": head,
                    "seed": seed,
                    "lr": rates[trunk, head] or config.lr,
                    "head_parameters": measured.pop("head_parameters"),
                }
                write_record(cells[head] / "result.json", {**about, "metrics": measured})
        bar.update(len(HEADS) - len(missing))

    def _train(self, config: TrainConfig, trunk: str, folder: Path) -> float:
        """One run, continued where it was stopped; returns its validation mIoU."""
        trainer = Trainer(config, folder, resume=True, progress=False)
        cache = getattr(trainer.objective, "trunk", None)
        if isinstance(cache, TrunkCache):
            # The heads of a trunk and seed see the same crops: their features are computed once.
            key = (trunk, config.seed)
            if self._shared is None or self._shared[0] != key:
                self._shared = (key, cache)
            trainer.objective.trunk = self._shared[1]  # type: ignore[attr-defined]
        best = trainer.fit()
        AcceleratorState._reset_state(reset_partial_state=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        return best

    def _measure(self, weights: dict[str, Path]) -> dict[str, dict[str, Any]]:
        """Every metric of several heads, their common trunk computed once per picture."""
        models = {head: load_model(path, device="auto") for head, path in weights.items()}
        together = Comparison(*(Predictor(model, dtype="float32") for model in models.values()))
        found: dict[str, dict[str, Any]] = {
            head: {"head_parameters": head_parameters(model.config)}
            for head, model in models.items()
        }
        names = tuple(self._pictures.class_names)
        overlap = {head: SegmentationEvaluator(len(names)) for head in models}
        coarser = coarse_classes(tuple(next(iter(models.values())).class_names), names)
        for index in self._chosen(len(self._pictures.names)):
            picture, label = self._pictures.arrays(index)
            label = plain_labels(label, len(names))
            for head, prediction in zip(models, together(picture), strict=True):
                semantic = coarser(prediction.class_scores) if coarser else prediction.semantic
                overlap[head].update(semantic, label)
        for head, evaluator in overlap.items():
            found[head]["miou"] = evaluator.compute()["miou"]
        for name in self.plan.anomalies:
            self._measure_anomalies(name, together, list(models), found)
        return found

    def _measure_anomalies(
        self, name: str, together: Comparison, heads: list[str], found: dict[str, dict[str, Any]]
    ) -> None:
        pictures = self._anomalies[name]
        ranked = {(head, score): AnomalyEvaluator() for head in heads for score in SCORES}
        for index in self._chosen(len(pictures.names)):
            picture, label = pictures.arrays(index)
            for head, prediction in zip(heads, together(picture), strict=True):
                prediction.prepare(SCORES)
                for score in SCORES:
                    ranked[head, score].update(prediction.anomaly(score), label)
        for (head, score), evaluator in ranked.items():
            result = evaluator.compute()
            for figure in ("ap", "auroc", "fpr95"):
                found[head][f"{name}/{score}/{figure}"] = result[figure]

    def _chosen(self, count: int) -> range:
        return range(min(count, self.plan.limit or count))


def _parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m training.study",
        description="KAN head against MLP heads: the same data order, several seeds, intervals.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--mode", choices=("head_only", "full"), default="head_only")
    out.add_argument("--data", default="camvid", help="default: %(default)s")
    out.add_argument(
        "--trunks",
        nargs="+",
        metavar="NAME=CHECKPOINT",
        default=["road=mask2former_road"],
        help="of head_only (default: the bundled pair's)",
    )
    out.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    out.add_argument("--steps", type=int, help="of every run (default: the recipe's)")
    out.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    out.add_argument(
        "--rates", type=float, nargs="*", default=[3e-4, 1e-3, 3e-3], help="to choose from"
    )
    out.add_argument("--tuning-steps", type=int, default=200, help="default: %(default)s")
    out.add_argument("--anomalies", nargs="*", default=["camvid_anomaly", "road_anomaly"])
    out.add_argument("--split", default="", help="measured (default: camvid's test, others' val)")
    out.add_argument("--limit", type=int, help="pictures per set (default: all)")
    out.add_argument("--out", type=Path, default=Path("runs/study"), help="default: %(default)s")
    out.add_argument("--threads", type=int, help="processor threads (default: all cores)")
    return out


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan a command line asks for.

    Raises:
        ConfigError: for a trunk that is not NAME=CHECKPOINT, or numbers no study can be made of.
    """
    trunks = {"": ""}
    if options.mode == "head_only":
        pairs = [text.partition("=") for text in options.trunks]
        broken = [text for text, pair in zip(options.trunks, pairs, strict=True) if not pair[2]]
        if broken:
            raise ConfigError(f"--trunks {broken[0]!r} is not NAME=CHECKPOINT.")
        trunks = {name: checkpoint for name, _, checkpoint in pairs}
    settings = list(options.settings)
    if options.steps is not None:
        settings.append(f"steps={options.steps}")
    return Plan(
        mode=options.mode,
        data=options.data,
        trunks=trunks,
        seeds=options.seeds,
        settings=tuple(settings),
        rates=tuple(options.rates),
        tuning_steps=options.tuning_steps,
        anomalies=tuple(options.anomalies),
        limit=options.limit,
        split=options.split,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(argv)
    cv2.setNumThreads(1)
    try:
        if options.threads is not None:
            require("--threads", options.threads, 1)
            torch.set_num_threads(options.threads)
        plan = plan_of(options)
        open_split(plan.data, "train")
        Study(plan, options.out).run()
    except (Mask2KANError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues.", file=sys.stderr)
        return 130
    print((options.out / "study.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
