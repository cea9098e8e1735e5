"""Build a model around a checkpoint's weights: fitted without memory first, then read one by one.

A configuration is a stranger's word, so it is compared with what the file holds before anything is
built from it, even on the meta device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mask2kan.checkpoints.files.stored import Stored
from mask2kan.checkpoints.infer_config import SHOWN_KEYS, Checkpoint
from mask2kan.errors import CheckpointError, ConfigError, one_line
from mask2kan.modeling.config import ModelConfig
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.runtime.memory import available_memory, is_out_of_memory

_COUNTER = "num_batches_tracked"  # of batch norms, which evaluation does not read
_LONGEST_KEY = 80


def fit(checkpoint: Checkpoint) -> Mask2KAN:
    """Build a checkpoint's model without memory for its weights (on the meta device).

    Raises:
        CheckpointError: for missing, unknown or misshaped keys, or a configuration that the file
            cannot hold.
    """
    _require_held(checkpoint.config, checkpoint.state)
    try:
        with torch.device("meta"):
            model = Mask2KAN(checkpoint.config)
    except (
        ConfigError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        # by odd fields of a configuration
        raise CheckpointError(f"No such model can be built: {one_line(error)}.") from error
    _require_fit(checkpoint, model.state_dict())
    return model


def build(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> Mask2KAN:
    """Build the model around a checkpoint's weights, in evaluation mode, on a device.

    Raises:
        CheckpointError: as ``fit``; for damage, a weight that is not finite, and a model that does
            not fit the device's memory.
    """
    try:
        return _built(checkpoint, torch.device(device))
    except CheckpointError as error:
        raise CheckpointError(f"Can't load {checkpoint.origin}. {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"Can't read {checkpoint.origin}: {reason}.") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"Can't load {checkpoint.origin}. {_too_large(checkpoint)}"
        ) from error


def _built(checkpoint: Checkpoint, device: torch.device) -> Mask2KAN:
    model = checkpoint.fitted or fit(checkpoint)
    checkpoint.fitted = None  # it is about to be filled
    room = available_memory(device)
    if room is not None and room < checkpoint.model_bytes:
        raise CheckpointError(_too_large(checkpoint, room))
    model.load_state_dict(dict(_read(checkpoint, model.state_dict(), device)), assign=True)
    for file in checkpoint.files:
        file.require_unchanged()
    with device:
        model.reset_constants()
    model.calibration = checkpoint.calibration
    model.card = checkpoint.card
    model.settings = checkpoint.settings
    model.source = checkpoint.origin
    model.format = checkpoint.format
    model.notes = checkpoint.notes
    return model.eval()


def _too_large(checkpoint: Checkpoint, room: int | None = None) -> str:
    free = "less is free" if room is None else f"{room / 1e9:.1f} GB are free"
    return (
        f"Its model takes {checkpoint.model_bytes / 1e9:.1f} GB of memory, and {free}; close what "
        "else uses it, or choose a smaller model."
    )


def _read(
    checkpoint: Checkpoint, target: Mapping[str, Tensor], device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights in the model's dtypes; refuse them at the end if some are unfit."""
    whole, bad = [], []
    for key, wanted in target.items():
        if key not in checkpoint.state:  # a counter
            yield key, torch.zeros(wanted.shape, dtype=wanted.dtype, device=device)
            continue
        name, value = checkpoint.names.get(key, key), checkpoint.state[key].read()
        if wanted.is_floating_point() and not value.is_floating_point():
            whole.append(name)
        # What the model gets is judged: a large float64 is infinite in float32, and torch can't
        # say of all types of 8 bits.
        value = value.to(wanted.dtype)
        if not bool(value.isfinite().all()):
            bad.append(name)
        yield key, value.to(device)
    if whole:
        raise CheckpointError(
            f"Its weights are integers or booleans in {len(whole)} tensors ({_first(whole)}), and "
            "floating-point numbers were expected; it is quantized or damaged."
        )
    if bad:
        raise CheckpointError(
            f"It has weights that are not finite in {len(bad)} tensors ({_first(bad)}): the file "
            "is damaged or its training diverged."
        )


def _require_held(config: ModelConfig, state: Mapping[str, Stored]) -> None:
    """Refuse a configuration of more layers or numbers than there are, by cheap lower bounds."""
    layers = {
        "backbone_depths": sum(config.backbone_depths),
        "num_encoder_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
    }
    if sum(layers.values()) > len(state):
        listed = ", ".join(f"{count} by {field}" for field, count in layers.items())
        raise CheckpointError(
            f"Its configuration has more layers ({listed}) than its {len(state):,} tensors can "
            "fill; it is damaged or made up."
        )
    held = sum(math.prod(stored.shape) for stored in state.values())
    width = config.hidden_dim
    functions = config.grid_size + config.spline_order if config.mask_embed == "kan" else 0
    table = (2 * config.backbone_window_size - 1) ** 2 if config.backbone_window_size else 0
    numbers = {
        "num_queries": config.num_queries * width,
        "num_classes": config.num_classes * width,
        "hidden_dim": width * width,
        "num_encoder_layers": config.num_encoder_layers * width * width,
        "num_decoder_layers": config.num_decoder_layers * width * width,
        "encoder_feedforward_dim": layers["num_encoder_layers"]
        * config.encoder_feedforward_dim
        * width,
        "decoder_feedforward_dim": layers["num_decoder_layers"]
        * config.decoder_feedforward_dim
        * width,
        "num_points": config.num_points * width,
        "mask_embed_width": config.mask_embed_width * width if config.mask_embed == "mlp" else 0,
        "grid_size": functions * width * width,
        "backbone_window_size": table * sum(config.backbone_num_heads),
        "backbone_width": config.backbone_width,
    }
    field, most = max(numbers.items(), key=lambda item: item[1])
    if most > held:
        raise CheckpointError(
            f"Its configuration takes {most:,} numbers by its {field} and it holds {held:,}; it is "
            "damaged or made up."
        )


def _require_fit(checkpoint: Checkpoint, target: Mapping[str, Tensor]) -> None:
    named, state = checkpoint.names, checkpoint.state
    faults = {
        "missing (our names)": [
            key for key in target if key not in state and not key.endswith(_COUNTER)
        ],
        "unknown": [named.get(key, key) for key in state if key not in target],
        "of another shape": [
            f"{named.get(key, key)} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
            for key, value in target.items()
            if key in state and tuple(state[key].shape) != tuple(value.shape)
        ],
    }
    lists = [f"{len(keys)} {fault} ({_first(keys)})" for fault, keys in faults.items() if keys]
    if lists:
        config = checkpoint.config
        raise CheckpointError(
            f"It does not fit {config.family}_{config.backbone} as read off it; keys "
            f"{'; '.join(lists)}. Nothing was loaded."
        )


def _first(keys: list[str]) -> str:
    shown = ", ".join(
        key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}…" for key in keys[:SHOWN_KEYS]
    )
    return shown + (", …" if len(keys) > SHOWN_KEYS else "")
