"""Compile CUDA C++ at run time, through NVRTC, and cache the machine code on disk.

NVRTC comes with torch's CUDA wheels; ``cuda-core`` calls it: no nvcc, headers, build step or GPU
needed. Cached files are written to the side and renamed, so processes may compile the same at once,
and carry a checksum. Where no file can be written, the code stays in memory.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import torch

from mask2kan.errors import BackendError, WriteError
from mask2kan.media.files import atomic_writer, cache_folder

INSTALL = 'python -m pip install "cuda-core>=1.0,<2"'
_DIGEST_BYTES = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)
_lock = threading.Lock()  # functools.cache lets two threads compile the same


def missing_compiler() -> str:
    """Say why this machine cannot compile and what to install; empty where it can."""
    if torch.version.cuda is None:
        return (
            "this torch was built without CUDA; install one built with it from "
            "https://pytorch.org/get-started"
        )
    try:
        installed = importlib.util.find_spec("cuda.core") is not None
    except ModuleNotFoundError:  # not even the package cuda
        installed = False
    return "" if installed else f"cuda-core is not installed; {INSTALL}"


def compile_cubin(source: str, arch: str, macros: Mapping[str, str]) -> bytes:
    """Return machine code of CUDA C++ without includes: from memory, disk or the compiler.

    Raises:
        BackendError: when there is no compiler, or compiling fails.
    """
    with _lock:
        return _cubin(source, arch, tuple(sorted(macros.items())))


@functools.cache
def _cubin(source: str, arch: str, macros: tuple[tuple[str, str], ...]) -> bytes:
    path = _cubin_path(source, arch, macros)
    cubin = _read(path)
    if cubin is None:
        cubin = _compile(source, arch, macros)
        _write(path, cubin)
    return cubin


def _cubin_path(source: str, arch: str, macros: tuple[tuple[str, str], ...]) -> Path:
    """Name the file by all that the code depends on; torch's CUDA version is the compiler's."""
    parts = [source, arch, str(torch.version.cuda), *(f"{name}={value}" for name, value in macros)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_folder() / "kernels" / arch / f"{digest[:32]}.cubin"


def _read(path: Path) -> bytes | None:
    """Read a cached file; None where there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, cubin = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if not cubin or hashlib.sha256(cubin).digest() != digest:
        _log.warning("%s is damaged and will be compiled again", path)
        return None
    return cubin


def _write(path: Path, cubin: bytes) -> None:
    try:
        with atomic_writer(path) as file:
            file.write(hashlib.sha256(cubin).digest() + cubin)
    except WriteError as error:
        _log.warning(
            "Compiled CUDA code stays in memory and the next process will compile again: %s "
            "(MASK2KAN_CACHE=<folder> puts it elsewhere)",
            error,
        )


def _compile(source: str, arch: str, macros: tuple[tuple[str, str], ...]) -> bytes:
    if missing := missing_compiler():
        raise BackendError(f"CUDA code cannot be compiled: {missing}.")
    _log.info("compiling CUDA code for %s (%s)", arch, ", ".join("=".join(m) for m in macros))
    try:
        from cuda.core import Program, ProgramOptions

        options = ProgramOptions(arch=arch, std="c++17", define_macro=list(macros) or None)
        return bytes(Program(source, "c++", options).compile("cubin").code)
    except Exception as error:  # each library below has errors of its own
        raise BackendError(
            f"NVRTC could not compile CUDA code for {arch}: {error}. If it says that something is "
            f"missing or too old, {INSTALL} and a torch built with CUDA bring it; "
            "MASK2KAN_OPS=reference does without."
        ) from error
