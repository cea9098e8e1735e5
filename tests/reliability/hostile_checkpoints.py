"""Files whose configuration promises what they do not hold, or says nothing that a model has."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mask2kan.modeling.config import model_config

NAMES = ("mask2kan_r50", "mask2former_swin_t", "mask2anomaly_mobilenetv2", "mask2kan_swin_l")
_SIZES = (
    *("hidden_dim", "num_queries", "num_classes", "encoder_feedforward_dim", "num_points"),
    *("decoder_feedforward_dim", "num_encoder_layers", "num_decoder_layers", "grid_size"),
    *("backbone_width", "spline_order", "num_heads", "mask_embed_width", "backbone_window_size"),
)
_NO_NUMBERS = (True, None, "8", [8], {}, float("nan"), float("inf"), -1, 10**400, 0.5, "9" * 5000)
_NO_TRIPLES = (
    *(["a", "b", "c"], [1, 2], [1, 2, 3, 4], [1, 2, True], [float("nan")] * 3, [1e308] * 3, "123"),
    *([10**400] * 3, [[1, 2, 3]] * 3, {"0": 1}, None),
)


def own_file(config: Any, shapes: list[tuple[int, ...]], **about: Any) -> bytes:
    """A safetensors file of ours around a configuration, with tensors of bytes."""
    header: dict[str, Any] = {
        "__metadata__": {"mask2kan": json.dumps({"format": 1, "config": config, **about})}
    }
    end = 0
    for number, shape in enumerate(shapes):
        begin, end = end, end + int(np.prod(shape))
        header[f"x{number}"] = {"dtype": "U8", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def refused_before_anything_is_built(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Without end: what is hostile about it, and a file."""
    makers = (_huge, _too_many_layers, _too_wide, _no_number, _no_triple, _odd_names, _deep)
    while True:
        yield from (maker(rng) for maker in makers)


def _config(rng: random.Random, **changes: Any) -> dict[str, Any]:
    return {**model_config(rng.choice(NAMES)).to_dict(), **changes}


def _huge(rng: random.Random) -> tuple[str, bytes]:
    field, value = rng.choice(_SIZES), 2 ** rng.randint(21, 200)
    return f"{field}={value}", own_file(_config(rng, **{field: value}), [(4,)] * 2000)


def _too_many_layers(rng: random.Random) -> tuple[str, bytes]:
    """Narrow ones, so that the numbers would do and the tensors would not."""
    field = rng.choice(["num_encoder_layers", "num_decoder_layers"])
    config = _config(rng, **{field: rng.randint(40, 48)}, hidden_dim=32)
    return f"{field}={config[field]} in 8 tensors", own_file(config, [(6_000, 1_000)] + [(4,)] * 7)


def _too_wide(rng: random.Random) -> tuple[str, bytes]:
    field, value = rng.choice([("hidden_dim", 4096), ("grid_size", 500), ("num_queries", 9000)])
    return f"{field}={value} of nothing", own_file(_config(rng, **{field: value}), [(4,)] * 3000)


def _no_number(rng: random.Random) -> tuple[str, bytes]:
    field, value = rng.choice([*_SIZES, "scale_base", "scale_noise"]), rng.choice(_NO_NUMBERS)
    if field.startswith("scale") and value in (0.5, -1):
        value = "1"
    return f"{field}={value!r:.20}", own_file(_config(rng, **{field: value}), [(200, 200)] * 99)


def _no_triple(rng: random.Random) -> tuple[str, bytes]:
    field, value = rng.choice(["pixel_mean", "pixel_std", "grid_range"]), rng.choice(_NO_TRIPLES)
    if field == "grid_range" and value == [1, 2]:
        value = [1]
    return f"{field}={value!r:.20}", own_file(_config(rng, **{field: value}), [(4,)] * 99)


def _odd_names(rng: random.Random) -> tuple[str, bytes]:
    make: Callable[[], dict[str, Any]] = rng.choice(
        [
            lambda: {"class_names": ["x" * 5000] * 19},
            lambda: {"class_names": ["a\nb"] * 19},
            lambda: {"class_names": ["a\0b"] * 19},
            lambda: {"class_names": ["\u202eb"] * 19},
            lambda: {"class_names": [1] * 19},
            lambda: {"backbone": "y\n" * 3000},
            lambda: {"k" * 5000: 1},
            lambda: {"base_activation": ["silu"] * 900},
            lambda: {"standalone_spline_scale": "yes"},
            lambda: {"palette": [[0, 0, 1e999]] * 19},
        ]
    )
    changes = make()
    return f"{next(iter(changes)):.20} odd", own_file(_config(rng, **changes), [(4,)] * 99)


def _deep(rng: random.Random) -> tuple[str, bytes]:
    """A backbone that would take seconds to build even without memory, in enough tensors."""
    config = _config(rng)
    config["backbone_depths"] = [rng.randint(100, 900) for _ in config["backbone_depths"]]
    return "backbone_depths", own_file(config, [(1000,)] * 9000)


def refused_by_its_keys(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Without end: files that could hold each part of a large model, but not all of it."""
    while True:
        shapes = [(20, rng.randint(2000, 2500)) for _ in range(500)]
        yield "keys", own_file(_config(rng, hidden_dim=1024), shapes)
