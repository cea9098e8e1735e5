"""How long a job may take and how much it may leave: one set for a laptop, one for the world."""

from __future__ import annotations

import os
from typing import NamedTuple

from mask2kan.checks import require
from mask2kan.errors import ConfigError

from ..startup import is_public


class Limits(NamedTuple):
    """What a job may take.

    Attributes:
        job_seconds: for a model on a picture, with loading it.
        job_bytes: of memory, likewise, beside the libraries'; None for what the machine has.
        decode_seconds: for a file to become pixels.
        decode_bytes: of memory, likewise.
        upload_bytes: of the folder with uploads and results; the oldest go beyond it.
        keep_seconds: how long uploads and results are kept.
        hub_bytes: of checkpoints that visitors have fetched; None for what the disk has.
        fetch_any: whether a job may fetch any checkpoint that it needs, while the others wait.
    """

    job_seconds: float = 600.0
    job_bytes: int | None = None
    decode_seconds: float = 60.0
    decode_bytes: int = 2 * 2**30
    upload_bytes: int = 20 * 10**9
    keep_seconds: float = 2 * 3600.0
    hub_bytes: int | None = None
    fetch_any: bool = True


_PUBLIC = Limits(120.0, None, 20.0, 3 * 2**29, 5 * 10**9, 3600.0, 20 * 10**9, False)
_NAMES = {
    "MASK2KAN_JOB_SECONDS": "job_seconds",
    "MASK2KAN_DECODE_SECONDS": "decode_seconds",
    "MASK2KAN_KEEP_SECONDS": "keep_seconds",
}
_LONGEST = 7 * 86_400.0


def limits_of_environment() -> Limits:
    """Choose the limits; the variables of ``_NAMES`` set some of them.

    Raises:
        ConfigError: for what is no number of seconds.
    """
    chosen: dict[str, float] = {}
    for variable, field in _NAMES.items():
        text = os.environ.get(variable, "").strip()
        if not text:
            continue
        try:
            chosen[field] = float(text)
        except ValueError as error:
            raise ConfigError(
                f"{variable} is {text!r:.60}; it must be a number of seconds."
            ) from error
        require(variable, chosen[field], 1, _LONGEST)
    limits = _PUBLIC if is_public() else Limits()
    return limits._replace(**chosen)  # type: ignore[arg-type]  # its floats alone
