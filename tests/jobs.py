"""Jobs that do not behave, for the processes that have to bear them."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

from mask2kan.errors import ConfigError

_kept: list[bytes] = []


def hang(*_: Any) -> None:
    """Never return, and take no hint."""
    while True:
        time.sleep(60)


def spin(*_: Any) -> None:
    """Never return, holding the interpreter."""
    while True:
        pass


def crash(*_: Any) -> None:
    """End the process as a fault of a C library does."""
    signal.raise_signal(signal.SIGSEGV)


def leave(*_: Any) -> None:
    os._exit(3)


def eat(size: int) -> int:
    """Take memory, and really touch it."""
    _kept.append(bytearray(size))  # type: ignore[arg-type]
    size = len(_kept[-1])
    _kept.clear()
    return size


def refuse(message: str) -> None:
    raise ConfigError(message)


def fail(*_: Any) -> None:
    raise KeyError("ours")


def say(text: str) -> int:
    logging.getLogger("jobs").warning("said %s", text)
    return threading.get_ident()


def echo(*values: Any) -> tuple[Any, ...]:
    return values


def pid(*_: Any) -> int:
    return os.getpid()
