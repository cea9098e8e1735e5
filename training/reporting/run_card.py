"""Describe a checkpoint's training, for its metadata and as Markdown beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mask2kan.outputs.tables import Table

from ..config.train_config import TrainConfig

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
        "data": config.data,
        "started from": config.init or config.pretrained_backbone or "random weights",
        "learning rate": f"{config.lr:g}",
        "loss": _loss(config),
        "outliers": config.outliers.source or "none",
        "seed": str(config.seed),
        "commit": provenance["commit"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "best validation mIoU": f"{best:.4f}" if best >= 0 else "not measured",
        "licence": "that of the data and of the weights it started from; see there",
    }
    return {key: str(value) for key, value in card.items()}


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
