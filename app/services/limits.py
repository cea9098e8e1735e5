"""How long a job may take and how much memory: one set for a laptop, one for the world."""

from __future__ import annotations

import os
from typing import NamedTuple

_NO = ("", "0", "false", "no", "off")
_SECONDS = "MASK2KAN_JOB_SECONDS"


class Limits(NamedTuple):
    """What a job may take.

    Attributes:
        job_seconds: for a model on a picture, with loading it.
        decode_seconds: for a file to become pixels.
        decode_bytes: of memory, likewise.
        upload_bytes: of the folder with uploads and results; the oldest go beyond it.
    """

    job_seconds: float = 600.0
    decode_seconds: float = 60.0
    decode_bytes: int = 2 * 2**30
    upload_bytes: int = 20 * 10**9


_PUBLIC = Limits(120.0, 20.0, 3 * 2**29, 5 * 10**9)


def is_public() -> bool:
    """Whether the app is for the world, as ``MASK2KAN_PUBLIC`` says."""
    return os.environ.get("MASK2KAN_PUBLIC", "").strip().lower() not in _NO


def limits_of_environment() -> Limits:
    """Choose the limits; ``MASK2KAN_JOB_SECONDS`` sets the time of a job."""
    limits = _PUBLIC if is_public() else Limits()
    seconds = os.environ.get(_SECONDS, "").strip()
    try:
        return limits._replace(job_seconds=max(1.0, float(seconds))) if seconds else limits
    except ValueError:
        return limits
