"""Compare mask heads in pairs of runs that differ in the head alone, over trunks and seeds."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mask2kan.checkpoints import load_model, open_checkpoint
from mask2kan.checks import require
from mask2kan.inference.comparison import Comparison
from mask2kan.inference.prediction import Prediction
from mask2kan.inference.predictor import Predictor
from mask2kan.inference.scores import SCORES
from mask2kan.modeling.config import ModelConfig

from ..config.recipes import camvid_kan, camvid_mlp, head_only
from ..config.train_config import TrainConfig, override
from ..data import open_anomaly, open_split, usual_split
from ..engine.run_folder import provenance
from ..engine.trainer import Trainer
from ..evaluation.job_folder import JobFolder
from ..evaluation.measure import Images, ScoreMeter, class_meter, measure, predictions_of
from ..evaluation.saved_scores import content_of
from ..models.build import equal_width, head_parameters
from ..objectives.trunk_cache import TrunkCache
from ..reporting.study import report

HEADS = ("kan", "mlp", "mlp_equal")
TUNING_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan of a study.

    Attributes:
        mode: ``head_only`` or ``full``.
        data: to train on.
        trunks: name -> checkpoint whose trunk the heads stand on; ``{"": ""}`` in ``full`` mode.
        settings: changes of the recipe, as ``--set``.
        rates: learning rates to choose from; none for the recipe's.
        limit: images per set; None for all.
        split: for class maps; empty for CamVid's test, others' val.

    Raises:
        ConfigError: for numbers out of range.
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
    """Configure one run, before its learning rate is chosen."""
    if plan.mode == "full":
        config = camvid_kan() if head == "kan" else camvid_mlp()
    else:
        recipe = head_only("kan" if head == "kan" else "mlp")
        config = dataclasses.replace(recipe, init=plan.trunks[trunk])
    config = dataclasses.replace(config, name=f"study_{head}", data=plan.data, seed=seed)
    config = override(config, plan.settings)
    if head == "mlp_equal":
        width = equal_width(
            open_checkpoint(config.init).config
            if config.init
            else ModelConfig.from_dict(config.model_options)
        )
        options = {**config.model_options, "mask_embed_width": width}
        config = dataclasses.replace(config, model_options=options)
    return dataclasses.replace(config, eval_every=config.steps)


class Study:
    """Run what of a plan is not yet in the folder ``out``.

    Raises:
        ConfigError: when the folder holds a study of another plan, or data are missing.
    """

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan = plan
        self._images = open_split(plan.data, plan.split or usual_split(plan.data))
        self._anomalies = {name: open_anomaly(name) for name in plan.anomalies}
        weights = {name: content_of(checkpoint) for name, checkpoint in plan.trunks.items()}
        self.folder = JobFolder(out, {**dataclasses.asdict(plan), "weights": weights})
        self._shared: tuple[tuple[str, int], TrunkCache] | None = None

    def run(self) -> dict[str, Any]:
        """Do all runs, then the report; return the content of ``study.json``."""
        plan = self.plan
        rates = {(trunk, head): self._rate(trunk, head) for trunk in plan.trunks for head in HEADS}
        groups = [(trunk, seed) for seed in range(plan.seeds) for trunk in plan.trunks]
        with tqdm(total=len(groups) * len(HEADS), unit="run", desc="study") as bar:
            for trunk, seed in groups:
                self._group(trunk, seed, rates, bar)
        results = [
            self.folder.read(f"{_cell(trunk, head, seed)}/result.json")
            for trunk, seed in groups
            for head in HEADS
        ]
        content = {
            "plan": self.folder.settings,
            "provenance": provenance(),
            "learning_rates": [
                {"trunk": trunk, "head": head, "lr": rate} for (trunk, head), rate in rates.items()
            ],
            "results": results,
        }
        self.folder.write("study.json", content)
        report(content, self.folder.path)
        return content

    def _rate(self, trunk: str, head: str) -> float | None:
        """Choose the learning rate by validation mIoU; None for the recipe's own."""
        if not self.plan.rates:
            return None
        record = f"{trunk or 'full'}/{head}/learning_rate.json"
        tried: dict[str, float] = self.folder.read(record) if record in self.folder else {}
        for rate in self.plan.rates:
            if str(rate) in tried:
                continue
            config = head_config(self.plan, trunk, head, TUNING_SEED)
            steps = self.plan.tuning_steps
            config = dataclasses.replace(config, lr=rate, steps=steps, eval_every=steps)
            folder = (self.folder.path / record).with_name(f"lr_{rate:g}")
            shutil.rmtree(folder, ignore_errors=True)
            tried[str(rate)] = self._train(config, trunk, folder)
            self.folder.write(record, tried)
            shutil.rmtree(folder)
        return float(max(tried, key=lambda rate: tried[rate]))

    def _group(
        self, trunk: str, seed: int, rates: dict[tuple[str, str], float | None], bar: tqdm[Any]
    ) -> None:
        """Train the heads of one trunk and seed one after the other, measure them together."""
        cells = {head: _cell(trunk, head, seed) for head in HEADS}
        missing = [head for head in HEADS if f"{cells[head]}/result.json" not in self.folder]
        lr = {}
        for head in missing:
            config = head_config(self.plan, trunk, head, seed)
            lr[head] = rates[trunk, head] or config.lr
            if f"{cells[head]}/done" not in self.folder:
                run = self.folder.path / cells[head]
                self._train(dataclasses.replace(config, lr=lr[head]), trunk, run)
                (run / "done").touch()
                (run / "state.pt").unlink()
            bar.update()
        if missing:
            path = self.folder.path
            weights_of = {head: path / cells[head] / "last.safetensors" for head in missing}
            for head, metrics in self._measure(weights_of).items():
                about = {"trunk": trunk, "head": head, "seed": seed, "lr": lr[head]}
                about["head_parameters"] = metrics.pop("head_parameters")
                self.folder.write(f"{cells[head]}/result.json", {**about, "metrics": metrics})
        bar.update(len(HEADS) - len(missing))

    def _train(self, config: TrainConfig, trunk: str, folder: Path) -> float:
        """Train or continue one run; return its validation mIoU."""
        trainer = Trainer(config, folder, resume=True, progress=False)
        cache = getattr(trainer.objective, "trunk", None)
        if isinstance(cache, TrunkCache):
            # The heads of a trunk and seed see the same crops: their features are computed once.
            key = (trunk, config.seed)
            if self._shared is None or self._shared[0] != key:
                self._shared = (key, cache)
            trainer.objective.trunk = self._shared[1]  # type: ignore[attr-defined]
        best = trainer.fit()
        trainer.accelerator.free_memory()  # the state stays: all runs of a process share it
        if trainer.interrupted:
            raise KeyboardInterrupt
        return best

    def _measure(self, weights: dict[str, Path]) -> dict[str, dict[str, Any]]:
        """Measure several heads, their common trunk computed once per image."""
        models = {head: load_model(path, device="auto") for head, path in weights.items()}
        together = Comparison(*(Predictor(model, dtype="float32") for model in models.values()))
        metrics: dict[str, dict[str, Any]] = {
            head: {"head_parameters": head_parameters(model.config)}
            for head, model in models.items()
        }
        overlap = {head: class_meter(self._images, model) for head, model in models.items()}
        predict, meters = predictions_of(together), [[meter] for meter in overlap.values()]
        measure(predict, self._images, self._chosen(self._images), meters, disable=True)
        for head, meter in overlap.items():
            metrics[head]["miou"] = meter.compute()["miou"]
        for name, images in self._anomalies.items():
            ranking = {head: ScoreMeter(Prediction.anomaly) for head in models}
            predict = predictions_of(together, SCORES)
            each = [[ranks] for ranks in ranking.values()]
            measure(predict, images, self._chosen(images), each, disable=True)
            for head, ranks in ranking.items():
                for score, evaluator in ranks.evaluators.items():
                    figures = evaluator.compute()
                    for figure in ("ap", "auroc", "fpr95"):
                        metrics[head][f"{name}/{score}/{figure}"] = figures[figure]
        return metrics

    def _chosen(self, images: Images) -> range:
        return range(len(images.names))[: self.plan.limit]


def _cell(trunk: str, head: str, seed: int) -> str:
    return f"{trunk or 'full'}/{head}/seed_{seed}"
