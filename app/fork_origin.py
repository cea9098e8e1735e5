"""Imported by the process that the app's others are forked from, and by nobody else.

It has what they need in memory, so they are there at once and share it.
"""

from __future__ import annotations

import signal

import app.jobs  # noqa: F401 - torch, the models and everything else that jobs need

# A service manager may send it to all processes of the app, which goes on to finish its last job.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
