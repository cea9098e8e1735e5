"""The training loop: one for every recipe, on one or many processes, through accelerate.

Randomness is a function of the seed and the crop's number (crops, outliers, points) or of seed,
step and process (stochastic depth), so a resumed run repeats the interrupted one bit for bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import DistributedType
from timm.layers.norm_act import convert_sync_batchnorm  # keeps activations
from torch import Tensor
from tqdm import tqdm

from mask2kan.errors import NumericsError
from mask2kan.modeling.kan.layers import KAN

from ..config.train_config import TrainConfig
from ..data.crops import Batch, TrainingCrops, load, prepared
from ..data.outliers import OutlierPaster
from ..evaluation.validation import TeacherLabels, Validation, validate
from ..models.backbone_weights import with_weights_found
from ..models.build import build_model, in_classes_of, open_images, training_mode
from ..models.pair import kan_head, lead, members
from ..objectives.objective import DistillationObjective, Objective, SegmentationObjective
from ..objectives.trunk_cache import TrunkCache
from ..reporting.run_card import describe_run, shown_miou
from .batch_norm import reestimate_statistics
from .ema import WeightAverage
from .failures import failures_explained
from .numerics import (
    require_finite_gradient,
    require_finite_losses,
    require_finite_moments,
    require_finite_state,
)
from .optimizer import build_optimizer, build_schedule, learning_rates
from .processes import any_process, join_processes, main_process, on_stop_signals, step_seed
from .resume import collect, must_fit, restore, same_classes
from .run_folder import RunFolder, branch_state
from .sharding import choose_parts, update_grid

LOG_EVERY = 20

logger = logging.getLogger(__name__)


class Trainer:
    """A run from its configuration to its checkpoints.

    Args:
        config: of the run.
        folder: of the run.
        resume: continue from the folder's state if it has one.
        mixed_precision: ``no``, ``bf16`` or ``fp16``; None for accelerate's configuration.
        progress: show a progress bar.
        tracker: see ``RunFolder``.
        minutes: stop after this long.

    Attributes:
        model: without accelerate's wrapper.
        average: its averaged copy.
        best: highest validation mIoU so far; of a pair, the mean of both.
        order: digest of this process's crops so far.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        *,
        resume: bool = False,
        mixed_precision: str | None = None,
        progress: bool = True,
        tracker: str = "tensorboard",
        minutes: float | None = None,
    ) -> None:
        self.config = config = with_weights_found(config)
        self.minutes = minutes
        self.step, self.best, self.interrupted, self.order = 0, -1.0, False, ""
        self._validated = 0  # the step of the last validation
        self._last_validation: dict[str, Validation] = {}
        self.accelerator = join_processes(config.batch_size, mixed_precision)
        self.progress = progress and self.accelerator.is_main_process
        self.run = RunFolder(folder, tracker)
        # Collectives, here and below: every process reaches them, whatever it sees on its own disk
        resume = main_process(self.accelerator, resume and self.run.has_state)
        if resume:
            self.run.require_same(config)
        else:
            self.run.require_unused()
        saved = self.run.load_state() if resume else branch_state(config.branch_of)

        self.train_images = open_images(config, "train")
        self.val_images = open_images(config, "val")
        torch.manual_seed(config.seed)
        self.model = build_model(config, self.train_images, pretrained=saved is None)
        if saved is not None:
            same_classes(saved, lead(self.model).class_names, config)
        if config.objective == "segmentation":
            self.train_images = in_classes_of(self.model, self.train_images)
        self._paste: OutlierPaster | None = None
        if config.outliers.active:  # in the classes that its labels are now in
            self._paste = OutlierPaster(config.outliers, self.train_images.class_names)
        with self._failures_explained():
            self._place_model(new=saved is None)
        self.objective = self._build_objective()
        optimizer = build_optimizer(
            self.model,
            lr=config.lr,
            backbone_factor=config.backbone_factor,
            weight_decay=config.weight_decay,
            spline_factor=config.spline_factor,
            decay_splines=config.decay_splines,
        )
        # The average is made of whole weights, before ``prepare`` may shard the model's.
        self.average = WeightAverage(self.model, config.average_decay)
        if saved is not None:
            with must_fit(folder):
                self.average.load_state_dict(saved["average"])
        if self._sharded:
            choose_parts(self.accelerator.state.fsdp_plugin, self.model)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.objective, optimizer)
        self.average.follow(self.model)
        self.schedule = build_schedule(
            optimizer, config.schedule, steps=config.steps, warmup_steps=config.warmup_steps
        )
        if saved is not None:
            with must_fit(folder):
                # A branch goes on from the weights and moments of a run, at its own learning rates.
                restore(self.model, self.optimizer.optimizer, saved, own_rates=not resume)
                if resume:
                    self._restore(saved)
        if self.accelerator.is_main_process:
            self.run.open(config, self.step)

    def _failures_explained(self) -> contextlib.AbstractContextManager[None]:
        device, processes = str(self.accelerator.device), self.accelerator.num_processes
        return failures_explained(self.config, device, processes)

    def _place_model(self, *, new: bool) -> None:
        """Move the model to its device, with batch norm statistics of the data if new."""
        config, device = self.config, self.accelerator.device
        self.model.to(device)
        if config.channels_last and not self._sharded:  # FSDP takes contiguous weights only
            self.model.to(memory_format=torch.channels_last)
        size, count = config.batch_size, config.batch_norm_batches
        if new and count and config.pretrained:
            batches = map(prepared, load(self._crops(0, count * size), size))
            images = (batch["images"].to(device) for batch in batches)
            changed = reestimate_statistics(self.model, images)
            logger.info("batch norm statistics of %d layers estimated", changed)
        many_gpus = self.accelerator.num_processes > 1 and device.type == "cuda"
        if many_gpus and config.trainable == "all" and config.train_batch_norm:
            trunk = lead(self.model)
            trunk.backbone = convert_sync_batchnorm(trunk.backbone)

    def _build_objective(self) -> Objective:
        config = self.config
        trunk = None
        if config.trainable == "heads" and config.views:
            # A frozen trunk and a fixed number of crops: its features are computed once.
            processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            trunk = TrunkCache(lead(self.model), config.cache_gigabytes / processes_here)
        if config.objective == "distillation":
            objective = DistillationObjective(lead(self.model), config, trunk)
            self.val_images = TeacherLabels(self.val_images, objective.teacher)
            return cast(Objective, objective.to(self.accelerator.device))
        segmentation = SegmentationObjective(self.model, config, trunk, self.train_images.groups)
        return cast(Objective, segmentation.to(self.accelerator.device))

    @property
    def _sharded(self) -> bool:
        return bool(self.accelerator.distributed_type == DistributedType.FSDP)

    def _crops(self, start: int, length: int | None = None) -> TrainingCrops:
        return TrainingCrops(
            self.train_images,
            self.config.augmentation,
            length or self.config.steps * self.config.batch_size,
            self.config.seed,
            start,
            paste=self._paste,
            views=self.config.views,
        )

    def fit(self) -> float:
        """Train to the end, a stop signal or the time limit; return the best validation mIoU.

        Raises:
            NumericsError: when a loss, gradient, moment or what is to be saved is not finite.
            ImageError: when an image cannot be read.
            WriteError: when the run folder cannot be written.
            OutOfMemoryError: when the device's memory does not suffice.
            BackendError: when another process of the run is gone.
        """
        with self._failures_explained():
            return self._fit()

    def _fit(self) -> float:
        window: list[dict[str, Tensor]] = []
        started = last_saved = window_start = time.monotonic()
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            disable=not self.progress,
            unit="step",
            desc=self.config.name,
            mininterval=1.0,
        )
        with on_stop_signals(self._ask_to_stop), contextlib.closing(self.run), bar:
            if self.step and self._validation_is_due():  # the run was stopped before or in it
                self._validate()
                self._save()
                if self._agree_to_stop():
                    return self.best
            for batch in self._batches():
                window.append(self._update(batch))
                bar.update()
                last = self.step == self.config.steps
                if self.step % LOG_EVERY == 0 or last:
                    losses = self._log(window, time.monotonic() - window_start)
                    bar.set_postfix(loss=f"{losses['loss']:.3g}", best=shown_miou(self.best))
                    window, window_start = [], time.monotonic()
                if last:
                    self._save(draw=False)  # or a validation that fails would lose the weights
                if self._validation_is_due():
                    paused = time.monotonic()
                    self._validate()
                    window_start += time.monotonic() - paused  # no part of the window's speed
                if self.minutes is not None and time.monotonic() - started > 60.0 * self.minutes:
                    self._ask_to_stop()
                stop = self._agree_to_stop()
                if last or stop or self._save_is_due(last_saved):
                    self._save()
                    last_saved = time.monotonic()
                if stop:
                    break
        return self.best

    def _validation_is_due(self) -> bool:
        on_time = self.step % self.config.eval_every == 0 or self.step == self.config.steps
        return on_time and self._validated != self.step

    def _save_is_due(self, last_saved: float) -> bool:
        """Return whether to save; the main process's clock decides for all."""
        if self.config.save_every:
            return self.step % self.config.save_every == 0
        late = time.monotonic() - last_saved > 60.0 * self.config.save_minutes
        return main_process(self.accelerator, late)

    def _ask_to_stop(self) -> None:
        self.interrupted = True

    def _agree_to_stop(self) -> bool:
        self.interrupted = any_process(self.accelerator, self.interrupted)
        return self.interrupted

    def _batches(self) -> Iterator[Batch]:
        if self.step >= self.config.steps:
            return
        loader = load(
            self._crops(self.step * self.config.batch_size),
            self.config.batch_size // self.accelerator.num_processes,
            self.config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        yield from map(prepared, self.accelerator.prepare(loader))

    def _update(self, batch: Batch) -> dict[str, Tensor]:
        config, where = self.config, f"step {self.step + 1}, images {', '.join(batch['names'])}"
        torch.manual_seed(step_seed(config.seed, self.step, self.accelerator.process_index))
        training_mode(self.model, config.trainable, batch_norm=config.train_batch_norm)
        try:
            losses, queries = self.wrapped(batch)
        except NumericsError as error:
            raise NumericsError(f"Stopped before the update at {where}: {error}") from error
        require_finite_losses(losses, where)
        self.optimizer.zero_grad()
        self.accelerator.backward(losses["loss"])
        learning = [value for value in self.model.parameters() if value.requires_grad]
        norm = self.accelerator.clip_grad_norm_(learning, config.clip_norm)
        require_finite_gradient(self.model, norm, self.accelerator.scaler, where)
        require_finite_moments(self.model, self.optimizer.optimizer, where)
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        self.step += 1
        numbers = " ".join(map(str, batch["numbers"]))
        self.order = hashlib.blake2b(f"{self.order} {numbers}".encode(), digest_size=16).hexdigest()
        self.average.update(self.model)
        if self.step in config.grid_update_steps and (head := kan_head(self.model)):
            self._update_grid(*head, torch.cat([part.flatten(0, -2) for part in queries]))
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return {name: value.detach() for name, value in {"gradient_norm": norm, **losses}.items()}

    def _update_grid(self, name: str, head: KAN, inputs: Tensor) -> None:
        plain = self.average.model.get_submodule(name)
        assert isinstance(plain, KAN)
        update_grid(head, plain, self.accelerator.gather(inputs))
        self.average.restart(name, self.model)
        logger.info("spline grids fitted at step %d", self.step)

    def _log(self, window: list[dict[str, Tensor]], seconds: float) -> dict[str, float]:
        """Log and return averages over the window and all processes."""
        names = list(window[0])
        steps = [torch.stack([losses[name] for name in names]) for losses in window]
        shared = self.accelerator.reduce(torch.stack(steps).mean(0), "mean").tolist()
        mean = dict(zip(names, shared, strict=True))
        values = mean | learning_rates(self.optimizer)
        values = {f"train/{key}": value for key, value in values.items()}
        values["train/crops_per_second"] = len(window) * self.config.batch_size / seconds
        if self.accelerator.is_main_process:
            self.run.log(self.step, values)
        return mean

    def _validate(self) -> None:
        """Measure the average, unless asked to stop."""
        if self._agree_to_stop():
            return
        self.average.settle(self.model)
        results = self._measure() if self.accelerator.is_main_process else {}
        if results:
            self._note_validation(results)
        if main_process(self.accelerator, bool(results)):
            self._validated = self.step

    def _measure(self) -> dict[str, Validation]:
        """Validate every member; empty when asked to stop meanwhile."""
        results: dict[str, Validation] = {}
        for name, model in members(self.average.model).items():
            validation = validate(
                model, self.val_images, self.config.eval_pictures, stop=lambda: self.interrupted
            )
            if validation is None:
                return {}
            results[name] = validation
        return results

    def _note_validation(self, results: dict[str, Validation]) -> None:
        miou = self.run.log_validation(self.step, results)
        self._last_validation = results
        heads = [f"{name} {result.values['miou']:.4f}" for name, result in results.items() if name]
        line = f"step {self.step}: val mIoU {miou:.4f}"
        tqdm.write(line + (f" ({', '.join(heads)})" if heads else ""), file=sys.stderr)
        if math.isfinite(miou) and miou > self.best:
            self.best = miou
            self._save_weights("best")

    def _save_weights(self, name: str) -> None:
        for member, model in members(self.average.model).items():
            model.card = describe_run(self.config, self.run.provenance, self.step, self.best)
            self.run.save_weights(name, model, member)

    def _save(self, *, draw: bool = True) -> None:
        """Write weights and state, and draw the curves; a collective."""
        self.average.settle(self.model)
        collected = collect(self.model, self.optimizer.optimizer)
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "step": self.step,
                "class_names": list(lead(self.model).class_names),
                "best": self.best,
                "order": self.order,
                "validated": self._validated,
                "rng": torch.get_rng_state(),
                "average": self.average.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                **collected,
            }
            require_finite_state(state, f"step {self.step}")
            self._save_weights("last")
            self.run.save_state(state)
            if draw:
                self.run.draw(self.step, self._last_validation, self.val_images.class_names)
        self.accelerator.wait_for_everyone()

    def _restore(self, saved: dict[str, Any]) -> None:
        self.schedule.load_state_dict(saved["schedule"])
        if self.accelerator.scaler is not None and saved["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        torch.set_rng_state(saved["rng"])
        self.step, self.best, self.order = saved["step"], saved["best"], saved["order"]
        self._validated = saved["validated"]
