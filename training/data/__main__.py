"""Check data sets, list them, show how one is laid out.

python -m training.data check cityscapes=/data/cityscapes --split val
python -m training.data list
python -m training.data layout cityscapes

``check`` prints one line per fault, ``file: rule: what was found; what was expected``, and how
often each rule was broken. The exit status is 0 without faults, 1 with, 2 for a bad command.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from mask2kan.checks import require, require_choice
from mask2kan.cli.run import run_command
from mask2kan.errors import ConfigError, printable
from mask2kan.outputs.tables import Table

from .check import Report, inspect_data
from .faults import RULES, note_lines
from .folders import data_places
from .mixture import parts_of
from .registry import (
    ANOMALY_SETS,
    OWN_FOLDER,
    SEGMENTATION_SETS,
    SYNTHETIC_ANOMALY,
    SYNTHETIC_SETS,
    find_set,
)
from .sets.synthetic import SyntheticAnomalies

NO_FILES, BY_PATH = "needs no files", "by its path: {0}=<folder>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return run_command(_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> int:
    if options.command == "list":
        print(listing())
        return 0
    if options.command == "layout":
        print(layout_of(options.name).strip())
        return 0
    if options.workers is not None:
        require("workers", options.workers, 1)
    reports = [
        inspect_data(
            part.data,
            options.split,
            anomaly=options.anomaly,
            workers=options.workers,
            progress=True,
            remembered=options.remembered,
        )
        for part in parts_of(options.data)
    ]
    for report in reports:
        print(summary(report))
    return int(any(report.faults for report in reports))


def summary(report: Report) -> str:
    """Format a report."""
    lines = [str(fault) for fault in report.faults]
    lines += note_lines(report.notes)
    lines += [printable(f"note: {remark}") for remark in report.remarks]
    lines += [
        f"{count:>6} {rule}: {RULES[rule]}"
        for rule, count in Counter(fault.rule for fault in report.faults).most_common()
    ]
    recalled = " (as found earlier; no file has changed)" if report.recalled else ""
    faults, images = _counted(len(report.faults), "fault"), _counted(report.images, "image")
    lines.append(printable(f"{faults} in {images} of {report.title}{recalled}"))
    return "\n".join(lines)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def layout_of(name: str) -> str:
    """Return how a data set is laid out: its module's docstring.

    Raises:
        ConfigError: for an unknown name.
    """
    synthetic = dict.fromkeys(SYNTHETIC_SETS, SyntheticAnomalies)
    sets: dict[str, type] = {**SEGMENTATION_SETS, **synthetic, **ANOMALY_SETS}
    require_choice("data set", name, sets)
    return sys.modules[sets[name].__module__].__doc__ or sets[name].__doc__ or ""


def listing() -> str:
    """List every data set and where it was found."""
    train = [
        (name, _place(name, "not found" if images.folders else BY_PATH.format(name)))
        for name, images in SEGMENTATION_SETS.items()
    ]
    train += [(name, NO_FILES) for name in SYNTHETIC_SETS]
    measure = [
        (
            name,
            NO_FILES
            if name == SYNTHETIC_ANOMALY
            else _place(name, BY_PATH.format(name) if name == OWN_FOLDER else "not found"),
        )
        for name in ANOMALY_SETS
    ]
    blank = ("", "")
    parts = [
        Table(blank, train, "to train on (--data):", text_columns=2).text(),
        Table(blank, measure, "to measure anomaly scores on:", text_columns=2).text(),
        printable(f"looked in {', '.join(map(str, data_places()))}"),
    ]
    return "\n".join(parts)


def _place(name: str, otherwise: str) -> str:
    try:
        return printable(str(find_set(name)))
    except ConfigError:
        return otherwise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.data",
        description="Check data sets, list them, show how one is laid out.",
        epilog="example: python -m training.data check camvid --split train --split val",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="list every fault of a data set",
        description="List every fault of a data set, one line each.",
        epilog="example: python -m training.data check cityscapes=/data/cityscapes --split val",
    )
    check.add_argument("data", help="a name (see list), a folder, name=folder, or a mixture")
    check.add_argument(
        "--split",
        action="append",
        metavar="SPLIT",
        help="only this split; may be repeated (default: all whose labels are published)",
    )
    check.add_argument("--anomaly", action="store_true", help="the folder is an anomaly data set")
    check.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")
    check.add_argument(
        "--remembered",
        action="store_true",
        help="believe an earlier clean result while no file has changed",
    )
    commands.add_parser("list", help="every data set, and where it was found")
    layout = commands.add_parser("layout", help="how a data set is laid out")
    layout.add_argument("name", help="a name (see list)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
