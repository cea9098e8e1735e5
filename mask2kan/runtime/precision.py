"""The dtype of heavy products, and where float32 stays under autocast."""

from __future__ import annotations

import functools
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from mask2kan.errors import ConfigError, unknown

ENVIRONMENT_VARIABLE = "MASK2KAN_DTYPE"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_BFLOAT16_CAPABILITY = (8, 0)  # the first compute capability with bfloat16 tensor cores
_CPUINFO = Path("/proc/cpuinfo")

_log = logging.getLogger(__name__)


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype that matrix products and convolutions compute in.

    Args:
        name: ``auto`` or a key of ``DTYPES``. ``auto`` is ``MASK2KAN_DTYPE`` where that is set,
            else bfloat16 on GPUs from compute capability 8.0 on and CPUs with AMX, else float32.
        device: where they compute.

    Raises:
        ConfigError: for any other dtype.
    """
    if isinstance(name, torch.dtype):
        name = str(name).removeprefix("torch.")
    if name == "auto":
        name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if name == "auto":
        return _default_dtype(device)
    if name not in DTYPES:
        raise ConfigError(unknown("dtype", name, ("auto", *DTYPES)))
    return DTYPES[name]


@functools.cache
def _default_dtype(device: torch.device) -> torch.dtype:
    """Decide by what the device can do, never by timing it: results must not depend on load."""
    dtype, reason = torch.float32, "no fast bfloat16"
    if device.type == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        reason = f"compute capability {major}.{minor}"
        if (major, minor) >= _BFLOAT16_CAPABILITY:
            dtype = torch.bfloat16
    elif device.type == "cpu" and _has_amx():
        dtype, reason = torch.bfloat16, "amx_bf16"
    _log.info("dtype auto on %s: %s (%s)", device, str(dtype).removeprefix("torch."), reason)
    return dtype


def _has_amx() -> bool:
    """Tell whether the CPU multiplies bfloat16 tiles; AVX512_BF16 alone shows no gain."""
    if hasattr(torch.cpu, "get_capabilities"):  # not in torch 2.10 and 2.11
        return bool(torch.cpu.get_capabilities().get("amx_bf16"))
    try:
        return "amx_bf16" in _CPUINFO.read_text(encoding="ascii", errors="replace").split()
    except OSError:  # not Linux
        return False


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off where it is on."""
    # torch's own context manager: torch.compile may not understand a generator
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if _autocast_is_on(device) else nullcontext()


def full_precision_on_cpu(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on a CPU, where bfloat16 costs light parts more accuracy than time."""
    return full_precision(tensor) if tensor.device.type == "cpu" else nullcontext()


def as_parameters(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Cast to the parameters' dtype where autocast is off."""
    return tensor if _autocast_is_on(tensor.device.type) else tensor.to(parameter.dtype)


def as_products(tensor: Tensor) -> Tensor:
    """Cast to autocast's dtype where it is on: once, instead of in each product."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if _autocast_is_on(device) else tensor


def _autocast_is_on(device: str) -> bool:
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


# A constant to torch.compile: torch 2.10 cannot trace the function. This is what
# torch.compiler.assume_constant_result does, without importing the compiler (seconds at start-up).
vars(_has_autocast)["_dynamo_marked_constant"] = True
