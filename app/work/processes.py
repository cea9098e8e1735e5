"""Run jobs in processes of their own, which can be ended at any moment, and bounded.

What hangs, takes too much memory or brings the interpreter down takes its process with it and
nothing else; the next job finds a new one. Processes are forked from one that has imported what
they need (``prepare``), so a new one is there within a few hundredths of a second; Windows, which
cannot fork, starts them from scratch.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from mask2kan.errors import Mask2KANError

from ..strings import QUEUE

logger = logging.getLogger(__name__)

_R = TypeVar("_R")
_FORKS = "forkserver" in multiprocessing.get_all_start_methods()
_CONTEXT: Any = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
_END_SECONDS = 5.0


class TimeLimitError(Mask2KANError):
    """A job took longer than it may; its process was ended."""


class ProcessEndedError(Mask2KANError):
    """A job's process ended before it answered: it crashed, or had no memory left."""


class JobError(Exception):
    """A job raised what is nobody's fault but ours; its traceback is the message."""


def prepare(modules: Sequence[str]) -> None:
    """Begin to import, elsewhere, what the processes will need; returns at once.

    Args:
        modules: dotted names. They must not start threads or use a GPU when they are imported.
    """
    if _FORKS:
        _CONTEXT.set_forkserver_preload(list(modules))
        # Its words would otherwise reach this process only when the first worker is started.
        forkserver.ensure_running()


class Worker:
    """A process that does one job after the other; started when the first one comes.

    Args:
        name: of the process, for the log.
        setup: called in a new process before its first job; it and its arguments are picklable.
        arguments: of ``setup``.
        memory: bytes that its jobs may take beside what the process has when it starts; where the
            system can limit that.
    """

    def __init__(
        self,
        name: str,
        setup: Callable[..., None] | None = None,
        arguments: Sequence[Any] = (),
        *,
        memory: int | None = None,
    ) -> None:
        self._name = name
        self._settings = (setup, tuple(arguments), memory)
        self._lock = threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._alive: Connection | None = None  # held open for as long as the app lives

    @property
    def pid(self) -> int | None:
        """Number of the process; None where none runs."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Have a process, if there is none."""
        with self._lock:
            self._started()

    def run(self, seconds: float, job: Callable[..., _R], *args: Any) -> _R:
        """Do a job in the process, and return what it returns.

        Args:
            seconds: after which the process is ended.
            job: a function of a module, by whose name the process finds it.
            args: picklable, as is what the job returns.

        Raises:
            Mask2KANError: as the job does.
            TimeLimitError: after ``seconds``.
            ProcessEndedError: when the process ended.
            JobError: for anything else that the job raises.
        """
        with self._lock:
            pipe = self._started()
            deadline = time.monotonic() + seconds
            try:
                pipe.send((job, args))
                kind, value = self._answer(pipe, deadline)
            except TimeLimitError:
                self._end()
                logger.warning("%s took longer than %g s and was ended", self._name, seconds)
                raise TimeLimitError(QUEUE["too_long"].format(seconds=f"{seconds:g}")) from None
            except (EOFError, OSError) as error:
                code = self._end()
                logger.warning("The process %s ended by itself (%s)", self._name, code)
                raise ProcessEndedError(QUEUE["ended"]) from error
            except BaseException:  # a thread that is interrupted must not leave half an answer
                self._end()
                raise
        if kind == "refused":
            raise value
        if kind == "failed":
            raise JobError(value)
        result: _R = value
        return result

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _answer(self, pipe: Connection, deadline: float) -> tuple[str, Any]:
        """Receive the job's answer; hand on what is logged meanwhile."""
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            kind, value = pipe.recv()
            if kind != "log":
                return kind, value
            logging.getLogger(value.name).handle(value)
        raise TimeLimitError

    def _started(self) -> Connection:
        if self._process is not None and self._pipe is not None and self._process.is_alive():
            return self._pipe
        self._end()
        ours, theirs = _CONTEXT.Pipe()
        alive, self._alive = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(
            target=_serve,
            args=(theirs, alive, logging.getLogger().level, *self._settings),
            name=self._name,
            daemon=True,
        )
        self._process.start()
        logger.info("%s: process %d", self._name, self._process.pid)
        theirs.close()  # so that the pipe ends when the process does
        alive.close()
        self._pipe = ours
        return self._pipe

    def _end(self) -> int | None:
        """End the process; return its exit code."""
        process, self._process = self._process, None
        pipe, self._pipe = self._pipe, None
        alive, self._alive = self._alive, None
        for end in (pipe, alive):
            if end is not None:
                end.close()
        if process is None:
            return None
        process.kill()
        process.join(_END_SECONDS)
        code: int | None = process.exitcode
        if code is not None:
            process.close()
        return code


class _Forward(logging.Handler):
    """Sends records to the app, whose log has one form and one place."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            text = "".join(traceback.format_exception(*record.exc_info))
            record.msg, record.args = f"{record.getMessage()}\n{text}", None
        record.msg, record.args = record.getMessage(), None
        record.exc_info = None
        with contextlib.suppress(OSError):
            self._pipe.send(("log", record))


def _serve(
    pipe: Connection,
    alive: Connection,
    level: int,
    setup: Callable[..., None] | None,
    arguments: tuple[Any, ...],
    memory: int | None,
) -> None:
    """Do jobs until the app is gone: the life of a process."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # may be sent to a whole group; the app decides
        signal.signal(stop, signal.SIG_IGN)
    threading.Thread(target=_end_with_app, args=(alive,), daemon=True).start()
    _give_way()
    log = _Forward(pipe)
    logging.basicConfig(level=level, handlers=[log], force=True)
    if setup is not None:
        setup(*arguments)
    if memory is not None:
        _limit_memory(memory)
    while True:
        try:
            job, args = pipe.recv()
        except (EOFError, OSError):
            return
        answer = _done(job, args)
        del job, args
        log.acquire()  # another thread of the process may be logging
        try:
            pipe.send(answer)
        except OSError:
            return
        finally:
            log.release()


def _done(job: Callable[..., Any], args: Any) -> tuple[str, Any]:
    try:
        return "done", job(*args)
    except Mask2KANError as error:
        traceback.clear_frames(error.__traceback__)  # their locals hold pictures
        return "refused", error.with_traceback(None)
    except Exception as error:
        text = traceback.format_exc()
        traceback.clear_frames(error.__traceback__)
        return "failed", text


def _end_with_app(alive: Connection) -> None:
    """Wait until the app is gone, which holds the other end; then end, also amid a job."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv_bytes()
    os._exit(1)


def _give_way() -> None:
    """Where memory runs out, let the system end this process rather than the app."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _limit_memory(bytes_: int) -> None:
    """Let this process take so many bytes more than it has; where the system can limit that."""
    if sys.platform != "linux":
        return
    import resource

    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    taken = int(pages) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + bytes_, taken + bytes_))
