"""Run a command of the project: from its arguments to its exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

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
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show versions and the device, and exit"
    )
    options = parser.parse_args(arguments)
    try:
        return command(options) or 0
    except (Mask2KANError, OSError) as error:
        complain(error, prefix=prefix)
        return failure
    except MemoryError as error:
        complain(error, prefix=f"{prefix}: out of memory")
        return failure
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130


class _Version(argparse.Action):
    """Print what a report of a fault should name."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import torch  # takes seconds, and a mistyped command needs none of it

        from mask2kan import __version__
        from mask2kan.runtime.devices import resolve_device

        device = resolve_device("auto")
        gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        python = ".".join(map(str, sys.version_info[:3]))
        print(
            f"mask2kan {__version__}, torch {torch.__version__}, Python {python}, "
            f"device {device}{gpu}"
        )
        parser.exit()
