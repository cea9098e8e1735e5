"""The training loop: one for every recipe, on one or many processes, through accelerate.

Everything random is a function of the seed and the step (crops of the crop's number, points of
the step and the process), so a resumed run repeats the interrupted one bit for bit with nothing
to restore but weights, optimizer and step. The loop checks what it is about to apply: a loss or a
gradient that is not finite stops the run before the update, naming the step and its pictures.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from mask2kan.errors import ConfigError, NumericsError
from mask2kan.kan import KAN
from mask2kan.model import Mask2KAN, create_model
from training.averaging import WeightAverage
from training.batch_norm import reestimate_statistics
from training.criterion import SetCriterion, semantic_targets
from training.data import find_data, open_split
from training.data.crops import Batch, TrainingCrops, collate
from training.optimizer import build_optimizer, build_schedule
from training.recipes import TrainConfig
from training.runs import RunFolder
from training.validation import validate

HEAD = "transformer_decoder.mask_embed"
LOG_EVERY = 20
LOWEST_SCALE = 1.0  # of the float16 loss scale; below it, gradients are not recoverable

logger = logging.getLogger(__name__)


class Trainer:
    """A run from its configuration to its checkpoints.

    Args:
        config: what to train.
        folder: of the run.
        resume: continue from the folder's state if it has one.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        progress: show a progress bar.

    Attributes:
        model: the model itself, whatever accelerate wraps around it.
        average: its averaged copy.
        step: updates done.
        best: highest validation mIoU so far.
        interrupted: True once the run was asked to stop.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        *,
        resume: bool = False,
        mixed_precision: str = "no",
        progress: bool = True,
    ) -> None:
        self.config = config
        self.accelerator = Accelerator(mixed_precision=mixed_precision, rng_types=[])
        processes = self.accelerator.num_processes
        if config.batch_size % processes:
            raise ConfigError(
                f"batch_size is {config.batch_size}; it must be a multiple of the number of "
                f"processes ({processes})."
            )
        self.progress = progress and self.accelerator.is_main_process
        self.train_pictures = open_split(config.data, "train")
        self.val_pictures = open_split(config.data, "val")
        self.step, self.best, self.interrupted = 0, -1.0, False
        self.run = RunFolder(folder)
        resume = resume and self.run.has_state
        torch.manual_seed(config.seed)
        self.model = self._build_model(fresh=not resume)
        self.criterion = SetCriterion(
            self.model.config.num_classes,
            num_points=config.num_points,
            no_object_weight=config.no_object_weight,
            regularization_weight=config.regularization_weight,
        ).to(self.accelerator.device)
        optimizer = build_optimizer(
            self.model,
            lr=config.lr,
            backbone_factor=config.backbone_factor,
            weight_decay=config.weight_decay,
        )
        self.average = WeightAverage(self.model, config.average_decay)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.schedule = build_schedule(
            optimizer, steps=config.steps, warmup_steps=config.warmup_steps
        )
        if resume:
            self._load()
        if self.accelerator.is_main_process:
            self.run.open(config, resume=resume)

    def _build_model(self, *, fresh: bool) -> Mask2KAN:
        config = self.config
        weights: Path | bool = False
        if fresh and config.pretrained_backbone:
            weights = find_data(config.pretrained_backbone)
        model = create_model(config.model, pretrained_backbone=weights, **config.model_options)
        model.to(self.accelerator.device)
        model.to(memory_format=torch.channels_last)
        if fresh and config.batch_norm_batches:
            crops = self._crops(0)
            size = config.batch_size
            batches = (
                collate([crops[n * size + k] for k in range(size)])["images"].to(model.device)
                for n in range(config.batch_norm_batches)
            )
            changed = reestimate_statistics(model, batches)
            logger.info("batch norm statistics of %d layers estimated", changed)
        return model

    def _crops(self, start: int) -> TrainingCrops:
        length = self.config.steps * self.config.batch_size
        return TrainingCrops(
            self.train_pictures, self.config.augmentation, length, self.config.seed, start
        )

    def fit(self) -> float:
        """Train to the end, or until asked to stop (SIGTERM or SIGINT).

        Returns:
            The best validation mIoU.

        Raises:
            NumericsError: when a loss or gradient is not finite.
        """
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            disable=not self.progress,
            unit="step",
            desc=self.config.name,
            mininterval=1.0,
        )
        saved, window, since = time.monotonic(), [], time.monotonic()
        with self._stop_signals():
            for batch in self._batches():
                losses = self._update(batch)
                window.append(losses)
                bar.update()
                last = self.step == self.config.steps
                if self.step % LOG_EVERY == 0 or last:
                    values = self._log(window, time.monotonic() - since)
                    bar.set_postfix(loss=f"{values['loss']:.2f}", best=f"{self.best:.3f}")
                    window, since = [], time.monotonic()
                if self.step % self.config.eval_every == 0 or last:
                    self._validate()
                    since = time.monotonic()
                due = time.monotonic() - saved > 60.0 * self.config.save_minutes
                if due or last or self.interrupted:
                    self._save()
                    saved = time.monotonic()
                if self.interrupted:
                    break
        bar.close()
        self.run.close()
        return self.best

    def _batches(self) -> Iterator[Batch]:
        """Batches from the current step to the end of the run."""
        if self.step >= self.config.steps:
            return
        loader = DataLoader(
            self._crops(self.step * self.config.batch_size),
            batch_size=self.config.batch_size // self.accelerator.num_processes,
            collate_fn=collate,
            num_workers=self.config.workers,
            drop_last=True,
            # Its own generator, so that making an iterator draws nothing from the global one.
            generator=torch.Generator(),
        )
        yield from self.accelerator.prepare(loader)

    def _update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimizer; returns detached losses."""
        config, where = self.config, f"step {self.step + 1}, pictures {', '.join(batch['names'])}"
        torch.manual_seed(_mix(config.seed, self.step, self.accelerator.process_index))
        self._training_mode()
        captured: list[Tensor] = []
        grid_due = self.step + 1 in config.grid_update_steps and isinstance(self._head, KAN)
        hook = self._head.register_forward_pre_hook(
            lambda _, inputs: captured.append(inputs[0].detach()) if grid_due else None
        )
        images = batch["images"].contiguous(memory_format=torch.channels_last)
        try:
            with self.accelerator.autocast():
                outputs = self.wrapped(images)
            losses = self.criterion(outputs, semantic_targets(batch["labels"]))
        except NumericsError as error:
            raise NumericsError(f"Stopped before the update at {where}: {error}") from error
        finally:
            hook.remove()
        loss = self.criterion.total(losses, self._head)
        if not torch.isfinite(loss):
            broken = [name for name, value in losses.items() if not torch.isfinite(value)]
            raise NumericsError(
                f"Stopped before the update at {where}: the loss is {loss.item()} "
                f"({', '.join(broken) or 'its sum'}); lower lr or train in float32."
            )
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self._check_gradient(norm, where)
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        self.step += 1
        self.average.update(self.model)
        if captured:
            self._update_grid(torch.cat([part.flatten(0, -2) for part in captured]))
        return {"loss": loss.detach(), "gradient_norm": norm.detach(), **_detached(losses)}

    @property
    def _head(self) -> nn.Module:
        return self.model.get_submodule(HEAD)

    def _training_mode(self) -> None:
        self.wrapped.train()
        if not self.config.train_batch_norm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _check_gradient(self, norm: Tensor, where: str) -> None:
        """Stop on a gradient that must not be applied; float16 may skip while its scale falls."""
        if torch.isfinite(norm):
            return
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() > LOWEST_SCALE:
            return
        broken = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
        ]
        raise NumericsError(
            f"Stopped before the update at {where}: the gradient is not finite "
            f"({len(broken)} parameters, first {', '.join(broken[:3])}); lower lr or train in "
            "float32."
        )

    def _update_grid(self, inputs: Tensor) -> None:
        head = self._head
        assert isinstance(head, KAN)
        head.update_grid(self.accelerator.gather(inputs))
        self.average.restart(HEAD, head)
        logger.info("spline grids fitted at step %d", self.step)

    def _log(self, window: list[dict[str, Tensor]], seconds: float) -> dict[str, float]:
        mean = {
            key: torch.stack([losses[key] for losses in window]).mean().item() for key in window[0]
        }
        values = {f"train/{key}": value for key, value in mean.items()}
        values["train/lr"] = self.optimizer.param_groups[-1]["lr"]
        values["train/crops_per_second"] = len(window) * self.config.batch_size / seconds
        if self.accelerator.is_main_process:
            self.run.log(self.step, values)
        return mean

    def _validate(self) -> None:
        """Measure the average, keep it when it is the best."""
        if self.accelerator.is_main_process:
            values, shown = validate(
                self.average.model, self.val_pictures, self.config.eval_pictures
            )
            self.run.log(self.step, {f"val/{key}": value for key, value in values.items()})
            self.run.picture(self.step, "val/picture_prediction_truth", shown)
            tqdm.write(f"step {self.step}: val mIoU {values['miou']:.4f}", file=sys.stderr)
            if math.isfinite(values["miou"]) and values["miou"] > self.best:
                self.best = values["miou"]
                self.run.save_weights("best", self.average.model)
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            self.run.save_weights("last", self.average.model)
            self.run.save_state(
                {
                    "step": self.step,
                    "best": self.best,
                    "model": self.model.state_dict(),
                    "average": self.average.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "scaler": None if scaler is None else scaler.state_dict(),
                }
            )
        self.accelerator.wait_for_everyone()

    def _load(self) -> None:
        state: dict[str, Any] = self.run.load_state()
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]

    @contextlib.contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """While training, SIGTERM and SIGINT ask for a save after the current step."""

        def ask(signum: int, frame: FrameType | None) -> None:
            self.interrupted = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _mix(seed: int, step: int, process: int) -> int:
    """A seed of its own for every step of every process."""
    return ((seed * 1_000_003 + step) * 1009 + process) % 2**63


def _detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in losses.items()}
