"""Describe a checkpoint's training, for its metadata and as Markdown beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mask2kan.modeling.backbones.pretrained import TIMM_WEIGHTS
from mask2kan.outputs.tables import Table

from ..config.train_config import TrainConfig
from ..data.mixture import parts_of

_PREFIXED = re.compile(r"(\w[\w-]+[:=])?(.*)", re.DOTALL)  # name=folder, pictures:folder; not C:\\

_USE = """```python
import mask2kan

model = mask2kan.load_model("best.safetensors")
```
"""


def describe_run(
    config: TrainConfig, provenance: Mapping[str, Any], step: int, best: float
) -> dict[str, str]:
    """Make the card that ``mask2kan.load_model`` puts into ``model.card``.

    Args:
        config: of the run.
        provenance: from ``training.engine.run_folder.provenance``.
        step: of this checkpoint.
        best: highest validation mIoU so far, negative before the first validation.
    """
    learned = {
        "all": "the whole model",
        "frozen_backbone": "all but the backbone",
        "heads": "mask_embed and class_embed",
    }[config.trainable]
    versions = provenance["versions"]
    card = {
        "recipe": config.name,
        "trained": f"{learned}, {step} of {config.steps} steps of {config.batch_size} crops",
        "data": without_paths(config.data),
        "started from": _origin(config),
        "learning rate": f"{config.lr:g}",
        "loss": _loss(config),
        "outliers": without_paths(config.outliers.source) or "none",
        "seed": str(config.seed),
        "commit": provenance["commit"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "best validation mIoU": shown_miou(best, "not measured"),
        "licence": "that of the data and of the weights it started from; see there",
    }
    return {key: str(value) for key, value in card.items()}


def shown_miou(best: float, without: str = "–") -> str:
    """Format the highest validation mIoU, negative before the first validation."""
    return f"{best:.4f}" if best >= 0 else without


def without_paths(data: str) -> str:
    """Name data without saying where it lies on its owner's machine: the last part of each path."""
    parts = parts_of(data)
    names = [_without_path(part.data) for part in parts]
    if len(parts) == 1:
        return names[0]
    weighed = zip(parts, names, strict=True)
    return " + ".join(f"{part.weight:g} {name}" for part, name in weighed)


def _without_path(what: str) -> str:
    prefix, path = _PREFIXED.match(what).groups("")  # type: ignore[union-attr]  # all texts match
    return f"{prefix}{_last(path)}"


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _origin(config: TrainConfig) -> str:
    """Name the weights a run started from; a Hub repository or relative path as it is."""
    if not config.init:
        return _backbone(config) if config.pretrained else "random weights"
    return " + ".join(map(_own_path, config.init.split(" + ")))


def _backbone(config: TrainConfig) -> str:
    if config.pretrained_backbone != "timm":
        return _last(config.pretrained_backbone)
    return f"timm/{TIMM_WEIGHTS[config.model.partition('_')[2]]}"


def _own_path(path: str) -> str:
    """Keep folder and file of a path that leads through the machine."""
    if not path.startswith(("/", "~", "\\", "..")) and path[1:2] != ":":
        return path
    return "/".join(re.split(r"[/\\]", path.rstrip("/\\"))[-2:])


def _loss(config: TrainConfig) -> str:
    if config.objective == "distillation":
        return "squared difference of the mask logits from those of the old head"
    terms = ["class, mask and dice"]
    if config.regularization_weight:
        terms.append(f"{config.regularization_weight:g} × regularisation of the KAN")
    if config.outliers.active and config.contrastive_weight:
        terms.append(
            f"{config.contrastive_weight:g} × contrastive ({config.contrastive_form}, margin "
            f"{config.contrastive_margin:g})"
        )
    return " + ".join(terms)


def as_markdown(card: Mapping[str, str], title: str, files: Mapping[str, str]) -> str:
    """Write the card as a page; ``files`` describes the files beside it by name."""
    table = Table(("", ""), [*card.items()], text_columns=2).markdown()
    listed = "".join(f"- `{name}`: {what}\n" for name, what in files.items())
    return f"# {title}\n\n{table}\n## Files\n\n{listed}\n{_USE}"
