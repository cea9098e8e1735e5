"""Rebuild the thesis's tables from our results, its published figures beside them.

    python -m training.tables runs/a runs/b --format both --out tables.md

Remarks on the thesis's figures are those of ``experiments.published``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2kan.cli.run import run_command
from mask2kan.errors import ConfigError
from mask2kan.media.files import write_bytes
from mask2kan.outputs.tables import Table

from .experiments.thesis_tables.build import build
from .experiments.thesis_tables.results import find

SUFFIXES = {"markdown": ".md", "latex": ".tex", "html": ".html"}
BOTH = ("markdown", "latex")
EXAMPLE = "example: python -m training.tables runs --format both --out tables.md"


def render(tables: Sequence[Table], form: str) -> str:
    """Write all tables as one text; ``form`` is ``markdown``, ``latex`` or ``html``."""
    head = {"latex": ["% needs \\usepackage{booktabs}"], "html": ['<meta charset="utf-8">']}
    return "\n".join([*head.get(form, []), *(getattr(table, form)() for table in tables)])


def outputs(out: Path, form: str) -> dict[str, Path]:
    """Map each form to its file; ``both`` writes Markdown and LaTeX, each with its suffix.

    Raises:
        ConfigError: when ``both`` is asked for and the name ends in something else.
    """
    if form != "both":
        return {form: out}
    suffixes = {name: SUFFIXES[name] for name in BOTH}
    if out.suffix not in ("", *suffixes.values()):
        raise ConfigError(
            f"--out {out} ends in {out.suffix}; --format both writes .md and .tex, so pass a name "
            "with one of these or without a suffix."
        )
    return {name: out.with_suffix(suffix) for name, suffix in suffixes.items()}


def _parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m training.tables",
        description="The thesis's Tables 3.1 to 3.6 with our results beside its figures.",
        epilog=EXAMPLE,
    )
    out.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="of runs, at any depth; none: the published figures alone",
    )
    out.add_argument("--out", type=Path, metavar="FILE", help="default: print")
    out.add_argument(
        "--format",
        choices=(*SUFFIXES, "both"),
        default="markdown",
        help="of the text (default: %(default)s); both writes FILE with .md and with .tex",
    )
    return out


def _run(options: argparse.Namespace) -> None:
    results = find(options.folders)
    tables = build(results)
    if options.out is None:
        forms = BOTH if options.format == "both" else (options.format,)
        print("\n".join(render(tables, form) for form in forms), end="")
    else:
        for form, path in outputs(options.out, options.format).items():
            write_bytes(path, render(tables, form).encode())
    for path, reason in results.unused.items():
        print(f"not used: {path} ({reason})", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_parser(), _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
