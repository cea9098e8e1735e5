"""How much memory a device has left, and giving it back."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")

# torch's CPU allocator raises a plain RuntimeError, OpenCV an error of its own.
_NO_MEMORY = ("not enough memory", "can't allocate memory", "Insufficient memory")

# glibc's mallopt: M_MMAP_THRESHOLD (blocks up to 1 GiB come from the heap), M_TRIM_THRESHOLD (the
# heap is never trimmed below 2 GiB) and M_ARENA_MAX (one heap for all threads).
_MALLOC_OPTIONS = ((-3, 1 << 30), (-1, (1 << 31) - 1), (-8, 1))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a device has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    own = isinstance(error, RuntimeError) or type(error).__module__ == "cv2"
    return own and any(text in str(error) for text in _NO_MEMORY)


def available_memory(device: torch.device) -> int | None:
    """Return the bytes a model could still take without swapping; None where that is unknown.

    On a GPU, what the driver has left and torch holds in reserve; on a CPU, Linux's available
    memory, or less by the process's control group (version 2).
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + reserved
    if device.type != "cpu":
        return None
    limits = (_line_value(_MEMINFO, "MemAvailable:", 1024), _left_in_cgroups())
    return min((limit for limit in limits if limit is not None), default=None)


def _left_in_cgroups() -> int | None:
    """Return the least of the process's control group and its parents."""
    text = _text(_OWN_CGROUP) or ""
    own = next((line[3:] for line in text.splitlines() if line.startswith("0::/")), "/")
    folder = _CGROUP / own.lstrip("/")
    left = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(_CGROUP):
            break
        limit, used = _text(group / "memory.max"), _text(group / "memory.current")
        if limit is not None and used is not None and limit.strip().isdigit():
            # The page cache counts as used; its inactive part is dropped when memory is needed.
            cache = _line_value(group / "memory.stat", "inactive_file", 1) or 0
            left.append(max(0, int(limit) - int(used) + cache))
    return min(left, default=None)


def _line_value(path: Path, name: str, unit: int) -> int | None:
    """Return the number after a name at the start of a line, times its unit."""
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
    """Give freed memory back to the driver or the kernel."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif libc := _glibc():
        libc.malloc_trim(0)


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory: tell whether the C library can.

    glibc returns large blocks to the kernel, and every forward pass starts with page faults, up to
    a third of its time. Call before other threads start. ``release_memory`` still works.
    """
    libc = _glibc()
    return libc is not None and all(libc.mallopt(*option) for option in _MALLOC_OPTIONS)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library where it is glibc."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        if libc.gnu_get_libc_version and libc.mallopt and libc.malloc_trim:
            return libc
    return None
