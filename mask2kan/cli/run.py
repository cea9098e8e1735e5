"""Run a command of the project: from its arguments to its exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from mask2kan.cli.reporting import complain
from mask2kan.errors import Mask2KANError


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int | None],
    arguments: Sequence[str] | None = None,
    *,
    prefix: str = "error",
    failure: int = 2,
    stopped: str = "Stopped.",
) -> int:
    """Parse the arguments and run a command; print an error as one line, never as a traceback.

    Args:
        parser: of its arguments.
        command: its None is exit status 0.
        arguments: None for the process's.
        prefix: of an error's message.
        failure: exit status after an error.
        stopped: printed after an interruption (exit status 130).
    """
    options = parser.parse_args(arguments)
    try:
        return command(options) or 0
    except (Mask2KANError, OSError) as error:
        complain(error, prefix=prefix)
        return failure
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
