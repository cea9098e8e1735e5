"""CUDA C++ to machine code at run time, through NVRTC, kept on disk.

NVRTC is a library that comes with torch's CUDA wheels; ``cuda-core`` calls it. Nothing else is
needed: no nvcc, no headers, no build step, not even a card. What it made is kept in a file per
architecture and source, so that the next process starts at once. Files are written to the side and
renamed, so processes that compile the same at once do no harm, and carry a checksum, so a damaged
one is made again. Where no file can be written, the code stays in memory.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import torch

from mask2kan.errors import BackendError, WriteError
from mask2kan.media.files import atomic_writer

__all__ = ["CACHE_VARIABLE", "cache_folder", "compile_cubin", "missing_compiler"]

CACHE_VARIABLE = "MASK2KAN_CACHE"
INSTALL = 'python -m pip install "cuda-core>=1.0,<2"'
_DIGEST_BYTES = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()


def cache_folder() -> Path:
    """Where compiled code is kept: ``MASK2KAN_CACHE``, else the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE, "").strip():
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mask2kan"


def missing_compiler() -> str:
    """What keeps this machine from compiling, and what to install; empty when nothing does."""
    if torch.version.cuda is None:
        return (
            "this torch was built without CUDA; install one built with it from "
            "https://pytorch.org/get-started"
        )
    try:
        found = importlib.util.find_spec("cuda.core") is not None
    except ModuleNotFoundError:
        found = False
    return "" if found else f"cuda-core is not installed; {INSTALL}"


def compile_cubin(source: str, arch: str, macros: Mapping[str, str]) -> bytes:
    """Machine code for one architecture, from memory, from disk, or from the compiler.

    Args:
        source: CUDA C++ without includes.
        arch: e.g. ``sm_90``.
        macros: name to value.

    Raises:
        BackendError: when there is no compiler, or it refuses.
    """
    with _one_at_a_time:
        return _cubin(source, arch, tuple(sorted(macros.items())))


@functools.cache
def _cubin(source: str, arch: str, macros: tuple[tuple[str, str], ...]) -> bytes:
    path = _cubin_path(source, arch, macros)
    kept = _read(path)
    if kept is None:
        kept = _compile(source, arch, macros)
        _keep(path, kept)
    return kept


def _cubin_path(source: str, arch: str, macros: tuple[tuple[str, str], ...]) -> Path:
    """Named for all that decides the code; torch's CUDA stands for the compiler's version."""
    parts = [source, arch, str(torch.version.cuda), *(f"{name}={value}" for name, value in macros)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_folder() / "kernels" / arch / f"{digest[:32]}.cubin"


def _read(path: Path) -> bytes | None:
    """What was kept; None where nothing was, or nothing whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, cubin = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if not cubin or hashlib.sha256(cubin).digest() != digest:
        _log.warning("%s is damaged and will be compiled again", path)
        return None
    return cubin


def _keep(path: Path, cubin: bytes) -> None:
    try:
        with atomic_writer(path) as file:
            file.write(hashlib.sha256(cubin).digest() + cubin)
    except WriteError as error:
        _log.warning(
            "Compiled CUDA code stays in memory and the next process will compile again: %s "
            "(%s=<folder> puts it elsewhere)",
            error,
            CACHE_VARIABLE,
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
