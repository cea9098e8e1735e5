"""The whole model on a card: against transformers, a training step, and what bfloat16 changes."""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import torch
from card import Setting, short, under
from inference import normalised, tensor, theirs, write_checkpoint
from torch import Tensor

from mask2kan import Predictor, load_model
from mask2kan.inference.runners import CompiledRun, GraphRun, PlainRun, Run
from tests.attention_cases import errors
from training.engine.optimizer import build_optimizer
from training.objectives.criterion import SetCriterion, semantic_targets

TRAINING_BATCH = 2


def models(setting: Setting) -> list[measure.Row]:
    """Images per second of both, with the same weights and under the same autocast."""
    rows: list[measure.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder)
        ours = load_model(folder, device=str(setting.device)).eval()
        peer = theirs(folder).to(setting.device)
        if setting.device.type == "cuda":
            ours = ours.to(memory_format=torch.channels_last)
        for size in setting.sizes:
            for dtype in (torch.bfloat16, torch.float32):
                if setting.seconds_left() < 30:
                    return rows
                rows += model_rows(setting, ours, peer, size, dtype)
    return rows


def model_rows(
    setting: Setting, ours: Any, peer: Any, size: tuple[int, int], dtype: torch.dtype
) -> list[measure.Row]:
    """One image size and type, batch 1."""
    images = tensor(*size).to(setting.device)
    peer_images = normalised(tensor(*size)).to(setting.device)
    runs: dict[str, Run] = {"plainly": PlainRun(ours)}
    if setting.device.type == "cuda":
        runs["as a graph"] = GraphRun(PlainRun(ours))
        if setting.compile:
            runs["compiled, as a graph"] = GraphRun(CompiledRun(ours))

    def ours_call(run: Run) -> object:
        with under(setting, dtype):
            output = run.decode(run.trunk(images))
        setting.finish()
        return output

    def peer_call() -> object:
        with under(setting, dtype):
            output = peer(pixel_values=peer_images)
        setting.finish()
        return output

    calls = {name: functools.partial(ours_call, run) for name, run in runs.items()}
    calls["transformers"] = peer_call
    times = measure.by_turns(calls, setting.rounds)
    theirs_found: Any = peer_call()
    rows: list[measure.Row] = []
    for name in runs:
        found: Any = calls[name]()
        apart = errors((found["pred_masks"],), (theirs_found.masks_queries_logits,))[0]
        rows.append(
            {
                "picture": "{}x{}".format(*size),
                "type": short(dtype),
                "ours run": name,
                "ours images/s": 1 / statistics.median(times[name]),
                "transformers images/s": 1 / statistics.median(times["transformers"]),
                "times as fast": measure.ratio(times["transformers"], times[name]),
                "masks apart by": apart,
            }
        )
    return rows


def training_step(setting: Setting) -> list[measure.Row]:
    """Forward, loss, backward and AdamW, both in bfloat16 autocast with float32 weights."""
    rows: list[measure.Row] = []
    height, width = setting.training_size
    torch.manual_seed(0)
    images = torch.rand(TRAINING_BATCH, 3, height, width)
    peer_images = normalised(images).to(setting.device)
    images = images.to(setting.device)
    coarse = torch.randint(0, 19, (TRAINING_BATCH, 1, 6, 12)).float()
    labels = torch.nn.functional.interpolate(coarse, size=(height, width))[:, 0].long()
    labels = labels.to(setting.device)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder)
        ours = load_model(folder, device=str(setting.device)).train()
        peer = theirs(folder).to(setting.device).train()
    if setting.device.type == "cuda":
        ours = ours.to(memory_format=torch.channels_last)
    criterion = SetCriterion(19).to(setting.device)
    settings = {"lr": 1e-6, "weight_decay": 0.05}
    optimizers = {
        "ours": build_optimizer(ours, backbone_factor=0.1, **settings),
        "transformers": torch.optim.AdamW(peer.parameters(), **settings),
    }
    autocast = functools.partial(torch.autocast, setting.device.type, torch.bfloat16)

    def ours_loss() -> Tensor:
        with autocast():
            outputs = ours(images)
        losses = criterion(outputs, semantic_targets(labels))
        return criterion.total(losses, ours.transformer_decoder.mask_embed)

    def peer_loss() -> Tensor:
        targets = semantic_targets(labels)
        with autocast():
            return peer(
                pixel_values=peer_images,
                mask_labels=[target["masks"].float() for target in targets],
                class_labels=[target["labels"] for target in targets],
            ).loss

    def step(loss: Callable[[], Tensor], name: str) -> None:
        optimizers[name].zero_grad()
        loss().sum().backward()
        optimizers[name].step()
        setting.finish()

    calls = {
        "ours": functools.partial(step, ours_loss, "ours"),
        "transformers": functools.partial(step, peer_loss, "transformers"),
    }
    times = measure.by_turns(calls, setting.rounds)
    rows.append(
        {
            "crop": f"{height}x{width}",
            "batch": TRAINING_BATCH,
            "type": "bfloat16",
            "ours ms": 1e3 * statistics.median(times["ours"]),
            "transformers ms": 1e3 * statistics.median(times["transformers"]),
            "times as fast": measure.ratio(times["transformers"], times["ours"]),
            "ours loss": ours_loss().item(),
            "transformers loss": peer_loss().item(),
        }
    )
    return rows


def rounding(setting: Setting) -> list[measure.Row]:
    """Share of the examples' pixels that keep their class in bfloat16, and the score's shift."""
    rows: list[measure.Row] = []
    images = sorted((measure.REPOSITORY / "examples").glob("*.webp"))
    for name in ("mask2kan_road", "mask2former_road"):
        model = load_model(name, device=str(setting.device))
        exact = Predictor(model, setting.device, "float32")
        rounded = Predictor(model, setting.device, "bfloat16")
        same, shift = [], []
        for path in images[: 1 if setting.rehearsal else None]:
            one, other = exact(path), rounded(path)
            same.append(float((one.semantic == other.semantic).mean()))
            shift.append(float(np.abs(one.anomaly() - other.anomaly()).mean()))
        rows.append(
            {
                "model": name,
                "pictures": len(same),
                "same class": statistics.mean(same),
                "mean change of msp": statistics.mean(shift),
            }
        )
    return rows
