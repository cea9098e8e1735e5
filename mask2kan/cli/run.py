"""From a command's arguments to its exit status; shared by every command of the project."""

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
        command: takes the parsed arguments; None is exit status 0.
        arguments: what follows the program's name; None for those of this process.
        prefix: before the message of an error.
        failure: exit status after an error.
        stopped: printed after an interruption, whose exit status is 130.

    Returns:
        The exit status.
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
