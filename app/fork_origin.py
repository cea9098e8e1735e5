"""Imported by the process that the app's others are forked from, and by nobody else.

It has what they need in memory, so they are there at once and share it. Nothing here may start a
thread, which would not be there after the fork.
"""

from __future__ import annotations

import contextlib
import importlib
import signal

import app.jobs  # noqa: F401 - torch, the models and most of what jobs need

# What that imports only when it is used, or not at all where it is not installed.
_LATE = (
    "mask2kan.modeling.backbones.efficientnet",
    "mask2kan.modeling.backbones.swin",
    "mask2kan.ops.fused_kernels",
    "matplotlib.backends.backend_pdf",
    "timm",
)

for _name in _LATE:
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)

# A service manager may send it to all processes of the app, which goes on to finish its last job.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
