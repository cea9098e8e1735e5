"""Whether this machine can do what ``torch.compile`` asks of it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

from mask2kan.errors import BackendError

# What is tried where CXX or CC names none. For a GPU, Triton brings one where there is none listed.
_CXX = {"win32": ("cl",), "darwin": ("clang++",), "linux": ("g++",)}
_CC = {"linux": ("gcc", "clang")}
_INSTALL = {
    "win32": "install the C++ build tools of Visual Studio and start from their prompt",
    "darwin": "run xcode-select --install",
    "linux": "install g++ (apt-get install g++)",
}


def require_compiler(device: torch.device) -> None:
    """Refuse ``torch.compile`` where its backend could not build code for a device.

    For a CPU it writes C++, for a GPU Triton writes C around its kernels; both include Python's
    headers.

    Raises:
        BackendError: when the compiler (of ``CXX`` or ``CC``, else the system's) or the headers
            are missing.
    """
    variable, language, usual = ("CC", "C", _CC) if device.type == "cuda" else ("CXX", "C++", _CXX)
    named = os.environ.get(variable)
    commands = (named,) if named else usual.get(sys.platform, ())
    if not commands:
        return
    if not any(map(_is_here, commands)):
        install = _INSTALL.get(sys.platform, "install one")
        tried = " or ".join(map(repr, commands))
        raise BackendError(
            f"torch.compile needs a {language} compiler, and {tried} was "
            f"not found; {install}, name another in {variable}, or leave compile out."
        )
    folders = (sysconfig.get_path("include"), sysconfig.get_path("include", "posix_prefix"))
    if sys.platform == "linux" and not any(Path(f, "Python.h").is_file() for f in folders):
        raise BackendError(
            f"torch.compile needs Python's headers, and {folders[0]} has no Python.h; install them "
            "(apt-get install python3-dev), or leave compile out."
        )


def _is_here(command: str) -> bool:
    program = shlex.split(command, posix=os.name == "posix")[0].strip('"')
    return shutil.which(program) is not None
