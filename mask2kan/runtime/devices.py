"""Which device and which dtype a name stands for."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mask2kan.errors import BackendError, ConfigError, unknown

ENVIRONMENT_VARIABLE = "MASK2KAN_DTYPE"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What "auto" asks of bfloat16 on a processor: matrix products this many times as fast.
WORTHWHILE = 1.3
_BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
_BFLOAT16_CARD = (8, 0)  # the first compute capability whose tensor cores know it

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")

# The allocator of processors has no error class of its own.
_NO_MEMORY = ("not enough memory", "can't allocate memory")

# glibc's malloc.h: blocks up to this size come from the heap, which is trimmed from that size on,
# and there is one heap for all threads.
_MALLOC_OPTIONS = ((-3, 1 << 30), (-1, (1 << 31) - 1), (-8, 1))

_log = logging.getLogger(__name__)


def resolve_device(name: str | torch.device) -> torch.device:
    """A device this machine has.

    Args:
        name: ``auto`` (a CUDA card where there is one, else the CPU) or any name torch knows.

    Raises:
        BackendError: for a name torch does not know, or a card that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(unknown("device", str(name), ("auto", "cpu", "cuda"))) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"Device {str(device)!r} was asked for, but {torch.cuda.device_count()} CUDA cards "
            "were found. Use device 'auto' or 'cpu'."
        )
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The type matrix products and convolutions compute in.

    Args:
        name: ``auto``, or a key of ``DTYPES``. ``auto`` is bfloat16 on cards whose tensor cores
            know it (compute capability 8.0 on) and on processors that have instructions for it and
            are faster with them, else float32; ``MASK2KAN_DTYPE`` in the environment decides
            otherwise.
        device: where they compute.

    Raises:
        ConfigError: for any other type.
    """
    if isinstance(name, torch.dtype):
        name = str(name).removeprefix("torch.")
    if name == "auto":
        name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if name == "auto":
        return torch.bfloat16 if _prefers_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise ConfigError(unknown("dtype", name, ("auto", *DTYPES)))
    return DTYPES[name]


def _prefers_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device) >= _BFLOAT16_CARD
    return device.type == "cpu" and _processor_prefers_bfloat16()


@functools.cache
def _processor_prefers_bfloat16() -> bool:
    """Decided once: by what the processor can, then by what it does, in a few milliseconds."""
    able = _capabilities()
    instructions = [name for name in _BFLOAT16_INSTRUCTIONS if able.get(name)]
    if not instructions:
        _log.info("dtype auto: float32, the processor has no bfloat16 instructions")
        return False
    gain = _seconds_of_products(torch.float32) / _seconds_of_products(torch.bfloat16)
    chosen = "bfloat16" if gain >= WORTHWHILE else "float32"
    _log.info("dtype auto: %s (%s, products %.1fx)", chosen, ", ".join(instructions), gain)
    return gain >= WORTHWHILE


def _capabilities() -> Mapping[str, object]:
    """What the processor has instructions for."""
    if hasattr(torch.cpu, "get_capabilities"):
        found: Mapping[str, object] = torch.cpu.get_capabilities()
        return found
    # torch 2.10 and 2.11 know it under these names; every chip with AMX tiles multiplies bfloat16
    old: Any = torch.cpu
    return {
        "amx_bf16": old._is_amx_tile_supported(),
        "avx512_bf16": old._is_avx512_bf16_supported(),
    }


def _seconds_of_products(dtype: torch.dtype) -> float:
    """The fastest of a few matrix products as the model has them."""
    a, b = torch.ones(2048, 256, dtype=dtype), torch.ones(1024, 256, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def available_memory(device: torch.device) -> int | None:
    """Bytes that a model could still take, without pushing anything else out.

    On a card what the driver has left and what torch holds in reserve; on a processor what Linux
    calls available, or less where the process's control group (version 2) has a lower limit.

    Returns:
        None where this cannot be found out: other systems, other devices.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held
    if device.type != "cpu":
        return None
    known = [room for room in (_room_on_machine(), _room_in_groups()) if room is not None]
    return min(known, default=None)


def _room_on_machine() -> int | None:
    return _line_value(_MEMINFO, "MemAvailable:", 1024)


def _room_in_groups() -> int | None:
    """Of the process's group and those around it; a container sees its own as the root."""
    text = _text(_OWN_CGROUP) or ""
    own = next((line[3:] for line in text.splitlines() if line.startswith("0::/")), "/")
    folder = _CGROUP / own.lstrip("/")
    rooms = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(_CGROUP):
            break
        limit, used = _text(group / "memory.max"), _text(group / "memory.current")
        if limit is not None and used is not None and limit.strip().isdigit():
            # Files read long ago count as used, and are let go when room is needed.
            spare = _line_value(group / "memory.stat", "inactive_file", 1) or 0
            rooms.append(max(0, int(limit) - int(used) + spare))
    return min(rooms, default=None)


def _line_value(path: Path, name: str, unit: int) -> int | None:
    """The number behind a name at the start of a line."""
    for line in (_text(path) or "").splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1]) * unit
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return None


def release_memory(device: torch.device) -> None:
    """Give memory that nothing holds any more back to whoever asks next."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif libc := _glibc():
        libc.malloc_trim(0)


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of one forward pass for the next.

    By default glibc hands large blocks back to the kernel when they are freed, and every pass
    begins by asking for them again, page by page: 200,000 page faults and a third of the time for
    two models on a 1024×512 picture. For programs that run models again and again; to be called
    before other threads start. ``release_memory`` still gives back what is free.

    Returns:
        Whether this machine's C library has the setting.
    """
    libc = _glibc()
    if libc is None:
        return False
    return all(libc.mallopt(option, value) for option, value in _MALLOC_OPTIONS)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library where it is glibc; others have other settings."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        if libc.gnu_get_libc_version and libc.mallopt and libc.malloc_trim:
            return libc
    return None


def full_precision_on_cpu(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Autocast off on a processor only.

    For light parts that bfloat16 costs more accuracy than it saves time. On a graphics card their
    half-precision kernels are worth it, and its float16 or bfloat16 models are trained that way.
    """
    return full_precision(tensor) if tensor.device.type == "cpu" else contextlib.nullcontext()


def as_parameters(tensor: Tensor, parameter: Tensor) -> Tensor:
    """In the parameters' dtype, for what autocast will not touch; left alone where it is on."""
    return tensor if _autocast_is_on(tensor.device.type) else tensor.to(parameter.dtype)


def as_products(tensor: Tensor) -> Tensor:
    """In the dtype that autocast has matrix products take; left alone where it is off.

    They would round it themselves, but each for itself, and after copies of twice the size.
    """
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if _autocast_is_on(device) else tensor


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Autocast off, for devices that have it and where it is on.

    Made of torch's own manager, which every torch.compile understands; a generator it may not.
    """
    device = tensor.device.type
    if _autocast_is_on(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def _autocast_is_on(device: str) -> bool:
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


# torch.compile asks once and keeps the answer; torch 2.10 cannot look into the function.
vars(_has_autocast)["_dynamo_marked_constant"] = True
